package lifecycle_test

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/lifecycle"
)

// goal is at which size the heap is collected next, after a collection.
func goal() uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestHeapFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := goal()
	release := lifecycle.HeapFloor()
	if with := goal(); with < before+100<<20 {
		t.Errorf("the heap is collected at %d MB, and was at %d MB before", with>>20, before>>20)
	}
	release()
	if after := goal(); after > before+32<<20 {
		t.Errorf("after its release the heap is collected at %d MB", after>>20)
	}
	t.Setenv("GOMEMLIMIT", "1GiB")
	defer lifecycle.HeapFloor()()
	if with := goal(); with > before+32<<20 {
		t.Errorf("beside a limit the heap is collected at %d MB", with>>20)
	}
}
