package projection_test

import (
	"fmt"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/projection"
)

// As many passes as there are cores go on at once if nobody is in their way, and
// whatever their number, all of them together take no more than the memory.
func TestPassesShareTheMachine(t *testing.T) {
	for _, c := range []struct {
		cores, conns, partitions int
		beside                   bool
		want                     int
	}{
		{2, 10, 8, false, 2}, {2, 10, 8, true, 1}, {1, 10, 8, true, 1}, {1, 10, 8, false, 1},
		{16, 10, 8, false, 4}, {16, 10, 8, true, 4}, {4, 10, 8, true, 2},
		{8, 4, 8, false, 2}, {8, 2, 8, false, 1}, {8, 10, 1, false, 1}, {8, 10, 3, false, 3},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			many := projection.BulkWorkers(c.cores, c.conns, c.partitions, c.beside)
			if many != c.want {
				t.Errorf("%d passes at once, want %d", many, c.want)
			}
			const memory = 64 << 20
			if all := projection.BulkShare(memory, many) * int64(many); all > memory || all < memory*9/10 {
				t.Errorf("%d passes take %d bytes of %d", many, all, memory)
			}
		})
	}
}
