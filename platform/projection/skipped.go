package projection

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A list is made of many orders, and says of each how many of its facts this copy
// is without. States say so of one order; for lists the position of each partition
// repeats it, which is read only when it moved, and is nearly always empty.

// skippedOf is how many facts of an order were given up.
func skippedOf(aggregates map[string]*fold.Applied) (n int64) {
	for _, record := range aggregates {
		n += record.Skipped
	}
	return n
}

// skip notes that another number of facts of an order is given up now.
func (h *held[S]) skip(order string, before, now int64) {
	if before != now {
		h.skipped[order] = now
	}
}

// Skipped says how many facts of which orders an answer is without: this copy
// could not apply them, and an operator gave them up, with a reason that is kept.
// The zero value says so of none.
type Skipped struct {
	partitions []knownMarks
	all        int64
}

// Of is how many facts of an order were given up.
func (s Skipped) Of(order string) int64 {
	if s.all == 0 {
		return 0
	}
	return s.partitions[event.PartitionOf(order, int32(len(s.partitions)))].skipped[order]
}

// SkippedBy has the read say which orders of a list are shown without some of
// their facts, in the snapshot of the answer. It costs nothing.
func SkippedBy(into *Skipped) ReadOption {
	return func(q *question) { q.skipped = into }
}

// skipped is what was given up in all partitions, or in one if that is not negative.
func (k *known) skipped(partition int32) Skipped {
	s := Skipped{partitions: k.partitions}
	for number, of := range k.partitions {
		if partition >= 0 && int32(number) != partition {
			continue
		}
		for _, n := range of.skipped {
			s.all += n
		}
	}
	return s
}
