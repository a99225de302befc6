package suite

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
	"google.golang.org/grpc/metadata"
)

// oneTrace follows one order from the caller's own span through the command,
// the outbox and Kafka into both projections and into the commands of the
// fulfilment process, in the spans that the fleet exported.
func oneTrace(t *testing.T, w *world) {
	traceID := trace.TraceID{0xf0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	caller := trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8}
	ctx := metadata.AppendToOutgoingContext(bounded(t), "traceparent", fmt.Sprintf("00-%s-%s-01", traceID, caller))
	placed, err := w.order.PlaceOrder(ctx, managed("leslie"))
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	w.watch(t, id, planned(2))
	entries, err := w.timeline.ListOrderTimeline(bounded(t), &timelinev1.ListOrderTimelineRequest{OrderId: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries.GetEntries() {
		if e.GetTraceId() != traceID.String() {
			t.Errorf("entry %s has trace %s, want %s", e.GetFact(), e.GetTraceId(), traceID)
		}
	}
	want := []struct{ service, kind, name string }{
		{"tidemark-order", "server", "order.v1.OrderService/PlaceOrder"},
		{"tidemark-order", "producer", "tidemark.order.events"},
		{"timeline", "consumer", ""},
		{"operations", "consumer", ""},
		{"tidemark-payment", "server", "payment.v1.PaymentService/AuthorizePayment"},
		{"tidemark-payment", "producer", "tidemark.payment.events"},
		{"tidemark-order", "server", "order.v1.OrderService/ConfirmOrder"},
		{"tidemark-shipment", "server", "shipment.v1.ShipmentService/PlanShipment"},
		{"tidemark-shipment", "producer", "tidemark.shipment.events"},
	}
	var missing []string
	_, err = w.spans.Wait(bounded(t), func(spans []sink.Span) bool {
		missing = nil
		for _, step := range want {
			if !slices.ContainsFunc(spans, func(s sink.Span) bool {
				return strings.HasSuffix(s.Service, step.service) && s.Kind == step.kind &&
					strings.Contains(s.Name, step.name) && belongs(s, traceID.String())
			}) {
				missing = append(missing, fmt.Sprintf("%s %s span of %s", step.kind, step.name, step.service))
			}
		}
		return len(missing) == 0
	})
	if err != nil {
		t.Errorf("no %s in the trace: %v", strings.Join(missing, ", no "), err)
	}
}

// belongs reports whether a span is part of the trace or linked to it.
func belongs(s sink.Span, traceID string) bool {
	return s.Trace == traceID || slices.ContainsFunc(s.Links, func(l sink.Link) bool { return l.Trace == traceID })
}
