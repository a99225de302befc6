package conformance

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Law tests that any interleaving that keeps each aggregate's own order, cut
// into any batches, with duplicates, gives the same rows: those of
// [fold.Reference]. A history is one slice of facts per aggregate, in
// version order; nothing in it may park.
func Law[S any](t *testing.T, view fold.View[S], history func(*rapid.T) [][]event.Fact) {
	t.Helper()
	if err := view.Check(); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) { lawful(t, view, history(t)) })
}

func lawful[S any](t *rapid.T, view fold.View[S], aggregates [][]event.Fact) {
	want, err := fold.Reference(view, flat(aggregates))
	if err != nil {
		t.Fatal(err)
	}
	got := fold.NewMemory(view)
	for _, batch := range Shuffle(t, aggregates) {
		if err := got.Apply(batch...); err != nil {
			t.Fatal(err)
		}
	}
	if n, reason := got.Parked(); n > 0 {
		t.Fatalf("%d facts parked when interleaved: %s", n, reason)
	}
	if err := same("rows depend on interleaving, batches or duplicates", want, got.All()); err != nil {
		t.Fatal(err)
	}
}

func flat(aggregates [][]event.Fact) []event.Fact {
	var all []event.Fact
	for _, facts := range aggregates {
		all = append(all, facts...)
	}
	return all
}

// Shuffle draws an interleaving of the aggregates' facts with duplicates, cut
// into batches. One aggregate may be delayed behind all others.
func Shuffle(t *rapid.T, aggregates [][]event.Fact) [][]event.Fact {
	next := make([]int, len(aggregates))
	late := rapid.IntRange(-1, len(aggregates)-1).Draw(t, "delayed")
	left := 0
	for at, facts := range aggregates {
		if at != late {
			left += len(facts)
		}
	}
	var batches [][]event.Fact
	var batch, delivered []event.Fact
	for {
		if left == 0 && late >= 0 {
			left, late = len(aggregates[late]), -1
		}
		if left == 0 {
			return append(batches, batch)
		}
		if len(delivered) > 0 && rapid.IntRange(0, 3).Draw(t, "duplicate") == 0 {
			batch = append(batch, rapid.SampledFrom(delivered).Draw(t, "again"))
		} else {
			at := rapid.IntRange(0, len(aggregates)-1).Draw(t, "aggregate")
			for at == late || next[at] == len(aggregates[at]) {
				at = (at + 1) % len(aggregates)
			}
			f := aggregates[at][next[at]]
			next[at]++
			left--
			batch, delivered = append(batch, f), append(delivered, f)
		}
		if rapid.IntRange(0, 2).Draw(t, "cut") == 0 {
			batches, batch = append(batches, batch), nil
		}
	}
}
