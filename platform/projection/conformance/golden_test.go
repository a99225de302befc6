package conformance_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A version that says it folds as another one does is believed if the sample comes
// to the same states and log entries, whatever its rows show.
func TestAViewThatFoldsAsAnotherVersion(t *testing.T) {
	var sample []event.Fact
	for _, facts := range rapid.Custom(histories).Example(7) {
		sample = append(sample, facts...)
	}
	t.Chdir(t.TempDir())
	t.Setenv("TIDEMARK_UPDATE", "1")
	conformance.Golden(t, view(), sample)
	for _, tt := range []struct {
		name  string
		given func(*fold.View[state])
		found string
	}{
		{name: "the same", given: func(*fold.View[state]) {}},
		{name: "other rows", given: func(v *fold.View[state]) {
			v.Tables = []fold.Table[state]{fold.Rows("parts", func(order string, s *state, put func(partRow)) { put(partRow{OrderID: order}) })}
		}},
		{name: "no log", given: func(v *fold.View[state]) { v.Logs = nil }},
		{name: "another fold", found: "does not", given: func(v *fold.View[state]) {
			v.Fold = func(s *state, f event.Fact) { apply(s, f); s.Parts[f.Aggregate.String()].Amount++ }
		}},
		{name: "a fold that remembers more", found: "does not", given: func(v *fold.View[state]) {
			v.Fold = func(s *state, f event.Fact) { apply(s, f); s.Facts++ }
		}},
		{name: "another entry of the log", found: "does not", given: func(v *fold.View[state]) {
			v.Logs = []fold.LogTable{fold.Log("heard", func(f event.Fact, put func(heard)) { put(heard{f.Type + "!", f.OccurredAt}) })}
		}},
		{name: "another log", found: "does not", given: func(v *fold.View[state]) {
			v.Logs = []fold.LogTable{fold.Log("said", func(f event.Fact, put func(heard)) { put(heard{f.Type, f.OccurredAt}) })}
		}},
		{name: "a version that was never committed", found: "nothing is committed", given: func(v *fold.View[state]) { v.FoldVersion = 2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view()
			v.Version, v.FoldVersion = 3, 1
			tt.given(&v)
			err := conformance.Remembers(t, v, sample)
			if tt.found == "" && err != nil || tt.found != "" && (err == nil || !strings.Contains(err.Error(), tt.found)) {
				t.Errorf("found: %v", err)
			}
		})
	}
}
