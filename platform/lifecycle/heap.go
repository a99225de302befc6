package lifecycle

import (
	"os"
	"runtime"
)

// heapFloor is how large a heap HeapFloor pretends to be, in bytes.
const heapFloor = 64 << 20

// HeapFloor keeps a small heap from being collected all the time: it holds a piece
// of memory that nobody touches, which therefore takes no room, but counts when
// the runtime decides when to collect next. A service whose live data is 12 MB
// collects every 140 MB that it allocates instead of every 12, and takes up to
// 64 MB more; a large heap hardly notices. With GOGC or GOMEMLIMIT set, whoever
// set it decides. It lasts until release is called. [Main] does it for every
// program.
//
// The idea is Twitch's: https://blog.twitch.tv/en/2019/04/10/go-memory-ballast-how-i-learnt-to-stop-worrying-and-love-the-heap/
func HeapFloor() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}
