package relay

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// What is plain, Validate accepts: the short way never lets through what a
// reader would have to park.
func TestWhatIsPlainIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,8}`), rapid.StringMatching(`[a-z]{1,5}/?[a-z]{0,3}`), rapid.String(),
			rapid.SampledFrom([]string{"é", "\x00", "\x7f", strings.Repeat("x", 500), strings.Repeat("x", 2000)}))
		now := time.Now()
		e := event.Envelope{
			ID: "id", Source: "order", Type: "OrderHeld", SchemaVersion: rapid.IntRange(0, 2).Draw(t, "schema"),
			Aggregate: event.Aggregate{Type: "order", ID: "o-1"}, Version: rapid.Int64Range(0, 2).Draw(t, "version"),
			Epoch: "epoch", Key: "o-1", OccurredAt: now, RecordedAt: now,
		}
		if rapid.Bool().Draw(t, "times") {
			e.OccurredAt = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "occurred"), 0)
		}
		for range rapid.IntRange(0, 2).Draw(t, "changes") { // of a valid envelope
			fields := []*string{&e.ID, &e.Source, &e.Type, &e.Aggregate.Type, &e.Aggregate.ID, &e.Epoch, &e.Key, &e.CausationID, &e.CorrelationID}
			*rapid.SampledFrom(fields).Draw(t, "field") = text.Draw(t, "value")
		}
		if err := e.Validate(); err != nil && plain(&e, e.Headers()) {
			t.Fatalf("%+v is plain and not valid: %v", e, err)
		}
	})
}
