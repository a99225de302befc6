package journal_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// A fact that is stated alone, the usual case, has a statement of its own. It
// must store what the statement for several does.
func TestAFactAloneIsStoredLikeSeveral(t *testing.T) {
	j := open(t)
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(rpc.WithCause(t.Context(), rpc.Cause{CausationID: "because", CorrelationID: "together"}),
		trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceState: state}))
	for id, n := range map[string]int{"o-alone": 1, "o-first": 2} {
		if _, _, err := hold(ctx, j, "00000000-0000-4000-8000-00000000000"+id[6:7], id, "why", n); err != nil {
			t.Fatal(err)
		}
	}
	row := func(id string) (columns map[string]any) {
		columns = query[map[string]any](t, j.Pool(), `
			SELECT to_jsonb(j) - 'sequence' - 'event_id' - 'occurred_at' - 'recorded_at' - 'payload' || jsonb_build_object(
			       'payload', replace(encode(payload, 'escape'), $1, 'o-xxxxx'), 'times', occurred_at = recorded_at,
			       'unsent', EXISTS (SELECT FROM outbox o WHERE o.partition = j.partition AND o.sequence = j.sequence),
			       'named', event_id = (SELECT h.event_id::uuid FROM things h WHERE h.id = $1) OR version < (SELECT h.version FROM things h WHERE h.id = $1))
			  FROM journal j WHERE aggregate_id = $1 AND version = 1`, id)
		if got, want := columns["partition"], float64(event.PartitionOf(id, 8)); got != want || columns["key"] != id || columns["aggregate_id"] != id {
			t.Errorf("%s is stored as %v", id, columns)
		}
		delete(columns, "partition")
		delete(columns, "key")
		delete(columns, "aggregate_id")
		return columns
	}
	alone := row("o-alone")
	if diff := cmp.Diff(row("o-first"), alone); diff != "" {
		t.Error("stored differently:", diff)
	}
	if alone["causation_id"] != "because" || alone["correlation_id"] != "together" || alone["tracestate"] != "vendor=1" || alone["unsent"] != true || alone["named"] != true {
		t.Errorf("stored as %v", alone)
	}
}
