package kafkaotel

import (
	"context"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Processing is a message or a batch that is being worked on.
type Processing struct {
	t     *Telemetry
	span  trace.Span
	start time.Time
	attrs []attribute.KeyValue
}

// MaxLinks bounds the links of one batch span.
const MaxLinks = 128

// Process starts the span "process <name>" of a batch and counts its messages.
// A batch has many causes, so each message becomes a link and none a parent: the
// span is a child of whatever is in ctx, usually nothing. The first MaxLinks
// messages with a span context are linked.
func (t *Telemetry) Process(ctx context.Context, name, group string, messages []*ck.Message) (context.Context, Processing) {
	p := Processing{t: t, start: time.Now(), attrs: []attribute.KeyValue{
		semconv.MessagingSystemKafka, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
		semconv.MessagingConsumerGroupName(group),
	}}
	counts := map[string]int64{}
	links := make([]trace.Link, 0, min(len(messages), MaxLinks))
	for _, m := range messages {
		counts[topicOf(m)]++
		if len(links) == MaxLinks {
			continue
		}
		if sc := SpanContext(m); sc.IsValid() {
			links = append(links, trace.Link{SpanContext: sc, Attributes: []attribute.KeyValue{
				semconv.MessagingDestinationName(topicOf(m)), partition(m), semconv.MessagingKafkaOffset(int(m.TopicPartition.Offset)),
			}})
		}
	}
	for topic, n := range counts {
		t.consumed.AddSet(ctx, n, attribute.NewSet(append(p.attrs[:len(p.attrs):len(p.attrs)], semconv.MessagingDestinationName(topic))...))
		if len(counts) == 1 {
			p.attrs = append(p.attrs, semconv.MessagingDestinationName(topic))
		}
	}
	ctx, p.span = t.tracer.Start(ctx, "process "+name, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(p.start),
		trace.WithLinks(links...), trace.WithAttributes(p.attrs...), trace.WithAttributes(semconv.MessagingBatchMessageCount(len(messages))))
	return ctx, p
}

// Done ends the span and records how long the work took, and whether it failed.
func (p Processing) Done(ctx context.Context, err error) {
	attrs := p.attrs
	if err != nil {
		attrs = append(attrs[:len(attrs):len(attrs)], errorType(err))
	}
	p.t.process.RecordSet(ctx, time.Since(p.start).Seconds(), attribute.NewSet(attrs...))
	fail(p.span, err)
	p.span.End()
}
