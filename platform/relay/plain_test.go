package relay

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// What is plain, Validate accepts: the short way never lets through what a
// reader would have to park.
func TestWhatIsPlainIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,8}`), rapid.StringMatching(`[a-z]{1,5}/?[a-z]{0,3}`), rapid.String(), rapid.Just("é"), rapid.Just("\x00"))
		at := rapid.Map(rapid.Int64Range(-1<<40, 1<<40), func(s int64) time.Time { return time.Unix(s, 0).UTC() })
		e := event.Envelope{
			ID: text.Draw(t, "id"), Source: text.Draw(t, "source"), Type: text.Draw(t, "type"), SchemaVersion: rapid.IntRange(-1, 3).Draw(t, "schema"),
			Aggregate: event.Aggregate{Type: text.Draw(t, "kind"), ID: text.Draw(t, "aggregate")}, Version: rapid.Int64Range(-1, 3).Draw(t, "version"),
			Epoch: text.Draw(t, "epoch"), Key: text.Draw(t, "key"), OccurredAt: at.Draw(t, "occurred"), RecordedAt: at.Draw(t, "recorded"),
			CausationID: text.Draw(t, "cause"), CorrelationID: text.Draw(t, "correlation"),
		}
		if err := e.Validate(); err != nil && plain(&e, e.Headers()) {
			t.Fatalf("%+v is plain and not valid: %v", e, err)
		}
	})
}
