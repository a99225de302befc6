package projection_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
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

// A process that comes while another one is at a pass, at an index, or at the end,
// waits for it, and finds that there is nothing to do: it copies nothing twice, and
// does not take what is there for somebody else's.
func TestAnotherProcessIsAtIt(t *testing.T) {
	l := newTopics()
	log := &scanned{}
	for i := range 8 {
		log.records = append(log.records, l.facts(about(fmt.Sprintf("o%d", i), 1, 3)...)...)
	}
	ordinary := fresh(t)
	ordinary.handle(log.records...)
	want := ordinary.whole()
	for _, place := range []string{"bulk pass", "bulk index", "bulk end"} {
		t.Run(place, func(t *testing.T) {
			mine := &scanned{records: log.records}
			first := inBulk(t, mine, 1<<20)
			first.barrier(log.records)
			late := &scanned{records: log.records}
			second := open(t, first.url, func(c *projection.Config, _ *fold.View[tally]) {
				c.Scan, c.Generations.BulkAbove, c.Generations.BulkMemory = late.scan, 1, 1<<20
			})
			second.barrier(log.records)
			var reached atomic.Bool
			other := make(chan error, 1)
			first.Failing(func(at string) error {
				if at != place || !reached.CompareAndSwap(false, true) {
					return nil
				}
				go func() { other <- second.Bulk(context.WithoutCancel(t.Context())) }()
				// It has come when it waits for a lock that this process holds.
				first.until("the other one waits", func() bool {
					return first.query("SELECT count(*) AS n FROM pg_locks WHERE NOT granted")[0]["n"] != int64(0)
				})
				return nil
			})
			if err := first.Bulk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-other; err != nil {
				t.Fatal(err)
			}
			if mine.scans+late.scans != 1 {
				t.Errorf("%d passes, want one", mine.scans+late.scans)
			}
			if at := first.claim()[kafka.TopicOrder]; at != int64(len(log.records)) {
				t.Errorf("the ordinary way begins at offset %d of %d", at, len(log.records))
			}
			if diff := cmp.Diff(want, second.whole()); diff != "" {
				t.Fatalf("(-ordinary +bulk):\n%s", diff)
			}
		})
	}
}
