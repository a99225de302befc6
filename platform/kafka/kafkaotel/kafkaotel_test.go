package kafkaotel_test

import (
	"context"
	"testing"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"
)

type recorded struct {
	*kafkaotel.Telemetry
	spans   *tracetest.InMemoryExporter
	metrics *sdkmetric.ManualReader
	tracer  trace.Tracer
}

func record(t *testing.T) recorded {
	t.Helper()
	r := recorded{spans: tracetest.NewInMemoryExporter(), metrics: sdkmetric.NewManualReader()}
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans))
	var err error
	if r.Telemetry, err = kafkaotel.New(tp, sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.metrics))); err != nil {
		t.Fatal(err)
	}
	r.tracer = tp.Tracer("test")
	return r
}

// names returns the names of the metrics that have data.
func (r recorded) names(t *testing.T) map[string]bool {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := r.metrics.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			names[m.Name] = true
		}
	}
	return names
}

func attributes(s tracetest.SpanStub) map[attribute.Key]string {
	m := map[attribute.Key]string{}
	for _, kv := range s.Attributes {
		m[kv.Key] = kv.Value.String()
	}
	return m
}

func message(partition int32, traceparent string) *ck.Message {
	topic := "orders"
	m := &ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: partition, Offset: 7}, Value: []byte("abc")}
	if traceparent != "" {
		m.Headers = []ck.Header{{Key: "traceparent", Value: []byte(traceparent)}}
	}
	return m
}

func TestASendIsAChildOfWhatCausedIt(t *testing.T) {
	r := record(t)
	ctx, cause := r.tracer.Start(t.Context(), "command")
	s := r.Send(ctx, message(3, ""), attribute.Float64("wait", 0.5))
	cause.End()
	s.Done(t.Context(), message(3, ""), nil)
	span := r.spans.GetSpans()[1]
	if span.Name != "send orders" || span.SpanKind != trace.SpanKindProducer || span.Parent.SpanID() != cause.SpanContext().SpanID() {
		t.Errorf("span %s of kind %v under %s", span.Name, span.SpanKind, span.Parent.SpanID())
	}
	want := map[attribute.Key]string{
		"messaging.system": "kafka", "messaging.destination.name": "orders", "messaging.operation.name": "send",
		"messaging.operation.type": "send", "messaging.destination.partition.id": "3", "messaging.message.body.size": "3",
		"messaging.kafka.offset": "7", "wait": "0.5",
	}
	if diff := cmp.Diff(want, attributes(span)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]bool{"messaging.client.sent.messages": true, "messaging.client.operation.duration": true}, r.names(t)); diff != "" {
		t.Error(diff)
	}
}

func TestAFailedSendSaysWhy(t *testing.T) {
	r := record(t)
	r.Send(t.Context(), message(0, "")).Done(t.Context(), nil, ck.NewError(ck.ErrMsgSizeTooLarge, "too large", false))
	span := r.spans.GetSpans()[0]
	if span.Status.Code != codes.Error || attributes(span)["error.type"] != ck.ErrMsgSizeTooLarge.String() {
		t.Errorf("status %v, attributes %v", span.Status, attributes(span))
	}
}

func TestABatchHasLinksAndNoParent(t *testing.T) {
	r := record(t)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	messages := []*ck.Message{
		message(0, "00-"+traceID+"-b7ad6b7169203331-01"), message(1, ""), message(2, "not a trace"),
		message(3, "00-"+traceID+"-00f067aa0ba902b7-01"),
	}
	ctx, p := r.Process(t.Context(), "timeline", "group-1", messages)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		t.Error("the batch's context carries no span")
	}
	p.Done(ctx, nil)
	span := r.spans.GetSpans()[0]
	if span.Name != "process timeline" || span.SpanKind != trace.SpanKindConsumer || span.Parent.IsValid() || len(span.Links) != 2 {
		t.Errorf("span %s with %d links", span.Name, len(span.Links))
	}
	for _, link := range span.Links {
		if link.SpanContext.TraceID().String() != traceID || !link.SpanContext.IsRemote() {
			t.Errorf("link %v", link.SpanContext)
		}
	}
	if names := r.names(t); !names["messaging.client.consumed.messages"] || !names["messaging.process.duration"] {
		t.Errorf("metrics %v", names)
	}
}

func TestLinksAreBounded(t *testing.T) {
	r := record(t)
	messages := make([]*ck.Message, 3*kafkaotel.MaxLinks)
	for i := range messages {
		messages[i] = message(0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
	_, p := r.Process(context.Background(), "timeline", "g", messages)
	p.Done(context.Background(), nil)
	if n := len(r.spans.GetSpans()[0].Links); n != kafkaotel.MaxLinks {
		t.Errorf("%d links", n)
	}
}

// A batch of two topics counts per topic, and a failure says of which kind.
func TestABatchCountsPerTopicAndSaysHowItFailed(t *testing.T) {
	r := record(t)
	other := "payments"
	messages := []*ck.Message{message(0, ""), message(1, ""), {TopicPartition: ck.TopicPartition{Topic: &other}}}
	ctx, p := r.Process(t.Context(), "timeline", "g", messages)
	p.Done(ctx, ck.NewError(ck.ErrTimedOut, "the database is slow", false))
	if span := r.spans.GetSpans()[0]; span.Status.Code != codes.Error || attributes(span)["error.type"] != ck.ErrTimedOut.String() ||
		attributes(span)["messaging.destination.name"] != "" || attributes(span)["messaging.batch.message_count"] != "3" {
		t.Errorf("span %v %v", span.Status, attributes(span))
	}
	got := map[string]int64{}
	for set, n := range r.points(t, "messaging.client.consumed.messages") {
		topic, _ := set.Value("messaging.destination.name")
		got[topic.AsString()] = n
		for _, key := range []attribute.Key{"messaging.system", "messaging.operation.name", "messaging.consumer.group.name"} {
			if !set.HasValue(key) {
				t.Errorf("no %s", key)
			}
		}
	}
	if diff := cmp.Diff(map[string]int64{"orders": 2, "payments": 1}, got); diff != "" {
		t.Error(diff)
	}
	ctx, p = r.Process(t.Context(), "timeline", "g", messages[:2])
	p.Done(ctx, nil)
	if span := r.spans.GetSpans()[1]; attributes(span)["messaging.destination.name"] != "orders" {
		t.Errorf("a batch of one topic does not name it: %v", attributes(span))
	}
}

func TestInjectReplacesWhatIsThere(t *testing.T) {
	r := record(t)
	ctx, span := r.tracer.Start(t.Context(), "cause")
	m := message(0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	kafkaotel.Inject(ctx, m)
	if got := kafkaotel.SpanContext(m); got.SpanID() != span.SpanContext().SpanID() || len(m.Headers) != 1 {
		t.Errorf("%v in %d headers", got, len(m.Headers))
	}
	fresh := message(0, "")
	kafkaotel.Inject(ctx, fresh)
	if got := kafkaotel.SpanContext(fresh); got.TraceID() != span.SpanContext().TraceID() {
		t.Errorf("%v", got)
	}
}

func BenchmarkSend(b *testing.B) {
	telemetry, err := kafkaotel.New(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())), sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())))
	if err != nil {
		b.Fatal(err)
	}
	m := message(0, "")
	for b.Loop() {
		telemetry.Send(b.Context(), m).Done(b.Context(), m, nil)
	}
}
