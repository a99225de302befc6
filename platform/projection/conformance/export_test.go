package conformance

import (
	"slices"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Try runs the named checks, or all, and returns what they found, instead of
// failing the test.
func Try[S any](t *testing.T, s Suite[S], names ...string) map[string]error {
	t.Helper()
	k := newKit(t, s)
	found := map[string]error{}
	for _, c := range checks[S]() {
		if len(names) == 0 || slices.Contains(names, c.name) {
			if err := c.try(k, t); err != nil {
				found[c.name] = err
			}
		}
	}
	return found
}

// Remembers compares what Golden would commit now with what is committed for the
// version that the view says it folds as.
func Remembers[S any](t *testing.T, view fold.View[S], sample []event.Fact) error {
	t.Helper()
	now, err := folded(view, sample)
	if err != nil {
		t.Fatal(err)
	}
	return remembers(view, now)
}
