package conformance

import (
	"slices"
	"testing"
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
