package spans

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

const (
	placing  = "0af7651916cd43dd8448eb211c80319c"
	shipping = "1bf7651916cd43dd8448eb211c80319c"
	batch    = "2cf7651916cd43dd8448eb211c80319c"
)

// at is a moment of the test's journey, in milliseconds from its start.
func at(ms float64) time.Time {
	return time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC).Add(time.Duration(ms * float64(time.Millisecond)))
}

func journey() []sink.Span {
	statement := map[string]string{"db.system.name": "postgresql"}
	return []sink.Span{
		{Trace: placing, ID: "a1", Parent: "ff", Service: "tidemark-order", Name: "order.v1.OrderService/PlaceOrder", Kind: "server", Start: at(0), End: at(4)},
		{Trace: placing, ID: "a2", Parent: "a1", Service: "tidemark-order", Name: "begin", Kind: "client", Start: at(0.5), End: at(1), Attributes: statement},
		{Trace: placing, ID: "a3", Parent: "a1", Service: "tidemark-order", Name: "insert", Kind: "client", Start: at(1), End: at(2.25), Attributes: statement},
		{Trace: placing, ID: "a31", Parent: "a3", Service: "tidemark-order", Name: "insert in a batch", Kind: "client", Start: at(1), End: at(1.5), Attributes: statement},
		{Trace: placing, ID: "a4", Parent: "a1", Service: "tidemark-order", Name: "send tidemark.order.events", Kind: "producer", Start: at(5), End: at(6.5), Attributes: map[string]string{
			"tidemark.outbox.wait": "0.0012", "tidemark.aggregate": "order/o1", "tidemark.version": "1",
		}},
		{
			Trace: batch, ID: "b1", Service: "timeline", Name: "process tidemark.timeline", Kind: "consumer", Start: at(7), End: at(9),
			Attributes: map[string]string{"messaging.batch.message_count": "12"},
			Links:      []sink.Link{{Trace: placing, ID: "a1"}, {Trace: placing, ID: "a5"}, {Trace: "other", ID: "x"}},
		},
		{Trace: batch, ID: "b2", Parent: "b1", Service: "timeline", Name: "apply", Kind: "internal", Start: at(7.5), End: at(8)},
		{Trace: placing, ID: "a5", Parent: "a1", Service: "tidemark-payment", Name: "payment.v1.PaymentService/AuthorizePayment", Kind: "server", Start: at(6.9), End: at(12), Error: "declined\x1b[31m"},
		{Trace: shipping, ID: "c1", Service: "tidemark-shipment", Name: "shipment.v1.ShipmentService/DispatchShipment", Kind: "server", Start: at(61_000), End: at(62_500)},
	}
}

func TestTree(t *testing.T) {
	const want = `START    TOOK   SERVICE   SPAN
                          trace 0af7651916cd43dd8448eb211c80319c, 2026-11-30 10:00:00.000
+0.000s  4ms    order     order.v1.OrderService/PlaceOrder (server), its caller sent no span
                          ├─ 2 database calls, 1.75ms together
+0.005s  1.5ms  order     ├─ send tidemark.order.events (producer), waited 1.2ms in the outbox, order/o1 v1
+0.007s  5.1ms  payment   ├─ payment.v1.PaymentService/AuthorizePayment (server), ERROR: declined [31m
+0.007s  2ms    timeline  └─ process tidemark.timeline (consumer), a batch of 12, linked from order.v1.OrderService/PlaceOrder and 1 more
+0.007s  500µs  timeline     └─ apply
                          trace 1bf7651916cd43dd8448eb211c80319c, 2026-11-30 10:01:01.000
+1m1s    1.5s   shipment  shipment.v1.ShipmentService/DispatchShipment (server)
`
	var got bytes.Buffer
	if err := Tree(&got, journey(), false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
	got.Reset()
	if err := Tree(&got, journey(), true); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"├─ begin (client)", "├─ insert (client)"} {
		if !strings.Contains(got.String(), line) {
			t.Errorf("with statements, there is no %q in\n%s", line, &got)
		}
	}
}

// Spans that name each other as parents, or themselves, come from a broken or
// hostile sender. They must not make the tree endless.
func TestTreeOfImpossibleSpans(t *testing.T) {
	var got bytes.Buffer
	err := Tree(&got, []sink.Span{
		{Trace: placing, ID: "a", Parent: "b", Name: "chicken", Links: []sink.Link{{Trace: placing, ID: "b"}}},
		{Trace: placing, ID: "b", Parent: "a", Name: "egg"},
		{Trace: shipping, ID: "c", Parent: "c", Name: "ouroboros"},
		{Trace: batch, ID: "d", Name: "links to itself", Links: []sink.Link{{Trace: batch, ID: "d"}}},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"chicken", "egg", "ouroboros", "links to itself"} {
		if strings.Count(got.String(), name) != 1 {
			t.Errorf("%q stands %d times in\n%s", name, strings.Count(got.String(), name), &got)
		}
	}
}

func TestHandlerAnswersAJourney(t *testing.T) {
	s, err := sink.Start(sink.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{ServiceName: "tidemark-order", OTLPEndpoint: s.Endpoint(), SampleRatio: 1})
	if err != nil {
		t.Fatal(err)
	}
	tracer := tel.Tracer("test")
	ctx, placed := tracer.Start(t.Context(), "PlaceOrder")
	_, sent := tracer.Start(ctx, "send", trace.WithAttributes(attribute.String("tidemark.aggregate", "order/o1")))
	sent.End()
	placed.End()
	_, applied := tracer.Start(t.Context(), "process", trace.WithLinks(trace.LinkFromContext(ctx)))
	applied.End()
	_, other := tracer.Start(t.Context(), "PlaceAnotherOrder", trace.WithAttributes(attribute.String("tidemark.aggregate", "order/o11")))
	other.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), func(all []sink.Span) bool { return len(all) == 4 }); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(Handler(s))
	t.Cleanup(server.Close)

	for name, q := range map[string]Query{
		"by order":         {Order: "o1"},
		"by trace":         {Traces: []string{placed.SpanContext().TraceID().String()}},
		"by order, traced": {Order: "unknown", Traces: []string{placed.SpanContext().TraceID().String()}},
	} {
		answer, err := Fetch(t.Context(), server.URL, q)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var names []string
		for _, span := range answer.Spans {
			names = append(names, span.Name)
		}
		if diff := cmp.Diff([]string{"PlaceOrder", "send", "process"}, names); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if answer.Kept != 4 {
			t.Errorf("%s: kept %d, want 4", name, answer.Kept)
		}
	}
	for name, q := range map[string]Query{"nothing": {}, "no trace id": {Traces: []string{"DEADBEEF"}}, "too many": {Traces: make([]string, MaxTraces+1)}} {
		if _, err := Fetch(t.Context(), server.URL, q); err == nil {
			t.Errorf("%s was answered", name)
		}
	}
}
