// Package conformance tests that a view keeps the law of the projection
// kernel. A view's own tests call it with a generator of histories.
package conformance

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
)

// Law tests that any interleaving that keeps each aggregate's own order, cut
// into any batches, with duplicates, gives the same rows. A history is one
// slice of facts per aggregate, in version order; nothing in it may park.
func Law[S any](t *testing.T, view projection.View[S], history func(*rapid.T) [][]event.Fact) {
	t.Helper()
	if err := view.Check(); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		aggregates := history(t)
		want := projection.NewMemory(view)
		for _, facts := range aggregates {
			for _, f := range facts {
				if err := want.Apply(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, reason := want.Parked(); n > 0 {
			t.Fatalf("%d facts of the history parked: %s", n, reason)
		}
		got := projection.NewMemory(view)
		for _, batch := range Shuffle(t, aggregates) {
			if err := got.Apply(batch...); err != nil {
				t.Fatal(err)
			}
		}
		if n, reason := got.Parked(); n > 0 {
			t.Fatalf("%d facts parked when interleaved: %s", n, reason)
		}
		if diff := cmp.Diff(want.All(), got.All()); diff != "" {
			t.Fatalf("rows depend on interleaving, batches or duplicates (-in order +interleaved):\n%s", diff)
		}
	})
}

// Shuffle draws an interleaving of the aggregates' facts with duplicates, cut
// into batches.
func Shuffle(t *rapid.T, aggregates [][]event.Fact) [][]event.Fact {
	next := make([]int, len(aggregates))
	left := 0
	for _, facts := range aggregates {
		left += len(facts)
	}
	var batches [][]event.Fact
	var batch, delivered []event.Fact
	for left > 0 {
		if len(delivered) > 0 && rapid.IntRange(0, 3).Draw(t, "duplicate") == 0 {
			batch = append(batch, rapid.SampledFrom(delivered).Draw(t, "again"))
		} else {
			at := rapid.IntRange(0, len(aggregates)-1).Draw(t, "aggregate")
			for next[at] == len(aggregates[at]) {
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
	return append(batches, batch)
}
