// Package kafkaotel gives a confluent-kafka-go client spans, links and metrics
// in today's messaging conventions. It knows Kafka and OpenTelemetry and
// nothing of Tidemark, so that others can use it.
package kafkaotel

import (
	"context"
	"fmt"
	"strconv"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"

var propagator = propagation.TraceContext{}

// Telemetry makes the spans and counts the messages of one process.
type Telemetry struct {
	tracer    trace.Tracer
	sent      metric.Int64Counter
	consumed  metric.Int64Counter
	operation metric.Float64Histogram
	process   metric.Float64Histogram
}

// New returns telemetry over the given providers; it uses no global state.
func New(tp trace.TracerProvider, mp metric.MeterProvider) (*Telemetry, error) {
	meter := mp.Meter(scope)
	t := &Telemetry{tracer: tp.Tracer(scope)}
	var err error
	if t.sent, err = meter.Int64Counter("messaging.client.sent.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Messages a producer tried to send.")); err != nil {
		return nil, fmt.Errorf("make counter of sent messages: %w", err)
	}
	if t.consumed, err = meter.Int64Counter("messaging.client.consumed.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Messages handed to the application.")); err != nil {
		return nil, fmt.Errorf("make counter of consumed messages: %w", err)
	}
	seconds := metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
	if t.operation, err = meter.Float64Histogram("messaging.client.operation.duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("Time from handing a message over to its acknowledgement.")); err != nil {
		return nil, fmt.Errorf("make histogram of operations: %w", err)
	}
	if t.process, err = meter.Float64Histogram("messaging.process.duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("Time to process a message or a batch.")); err != nil {
		return nil, fmt.Errorf("make histogram of processing: %w", err)
	}
	return t, nil
}

// Sending is one message on its way to the broker.
type Sending struct {
	t     *Telemetry
	span  trace.Span
	start time.Time
	topic string
}

// Send starts the span "send <topic>" as a child of the span context in ctx.
// Attributes are added as they are.
func (t *Telemetry) Send(ctx context.Context, m *ck.Message, attrs ...attribute.KeyValue) Sending {
	topic := topicOf(m)
	s := Sending{t: t, start: time.Now(), topic: topic}
	_, s.span = t.tracer.Start(ctx, "send "+topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(s.start))
	if s.span.IsRecording() {
		s.span.SetAttributes(destination(m, "send")...)
		s.span.SetAttributes(attrs...)
	}
	return s
}

// Done ends the span with the broker's answer. The message is the one of the
// delivery report; it carries the offset.
func (s Sending) Done(ctx context.Context, m *ck.Message, err error) {
	attrs := []attribute.KeyValue{
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.destination.name", s.topic),
		attribute.String("messaging.operation.name", "send"),
	}
	if err != nil {
		attrs = append(attrs, attribute.String("error.type", ErrorType(err)))
	}
	set := metric.WithAttributeSet(attribute.NewSet(attrs...))
	s.t.sent.Add(ctx, 1, set)
	s.t.operation.Record(ctx, time.Since(s.start).Seconds(), set)
	if s.span.IsRecording() {
		if err != nil {
			s.span.SetStatus(codes.Error, err.Error())
			s.span.SetAttributes(attribute.String("error.type", ErrorType(err)))
		} else if m != nil && m.TopicPartition.Offset >= 0 {
			s.span.SetAttributes(attribute.Int64("messaging.kafka.offset", int64(m.TopicPartition.Offset)))
		}
	}
	s.span.End()
}

// Processing is a batch of messages that is being worked on.
type Processing struct {
	t     *Telemetry
	span  trace.Span
	start time.Time
	set   metric.MeasurementOption
}

// MaxLinks bounds the links of one batch span.
const MaxLinks = 128

// Process starts the span "process <name>" of a batch. A batch has many
// causes, so each message becomes a link and none a parent.
func (t *Telemetry) Process(ctx context.Context, name, group string, messages []*ck.Message) (context.Context, Processing) {
	links := make([]trace.Link, 0, min(len(messages), MaxLinks))
	for _, m := range messages {
		if len(links) == MaxLinks {
			break
		}
		if sc := SpanContext(m); sc.IsValid() {
			links = append(links, trace.Link{SpanContext: sc, Attributes: []attribute.KeyValue{
				attribute.String("messaging.destination.partition.id", strconv.Itoa(int(m.TopicPartition.Partition))),
				attribute.Int64("messaging.kafka.offset", int64(m.TopicPartition.Offset)),
			}})
		}
	}
	attrs := []attribute.KeyValue{
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.consumer.group.name", group),
	}
	p := Processing{t: t, start: time.Now(), set: metric.WithAttributeSet(attribute.NewSet(attrs...))}
	ctx, p.span = t.tracer.Start(ctx, "process "+name, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...),
		trace.WithAttributes(append(attrs, attribute.Int("messaging.batch.message_count", len(messages)))...))
	t.consumed.Add(ctx, int64(len(messages)), p.set)
	return ctx, p
}

// Done ends the batch's span.
func (p Processing) Done(ctx context.Context, err error) {
	p.t.process.Record(ctx, time.Since(p.start).Seconds(), p.set)
	if err != nil {
		p.span.SetStatus(codes.Error, err.Error())
	}
	p.span.End()
}

// SpanContext returns the span context in the headers of a message; invalid if
// there is none.
func SpanContext(m *ck.Message) trace.SpanContext {
	ctx := propagator.Extract(context.Background(), carrier{m})
	return trace.SpanContextFromContext(ctx)
}

// ErrorType returns the low-cardinality name of a client error.
func ErrorType(err error) string {
	if e, ok := err.(ck.Error); ok {
		return e.Code().String()
	}
	return "_OTHER"
}

func topicOf(m *ck.Message) string {
	if m.TopicPartition.Topic == nil {
		return ""
	}
	return *m.TopicPartition.Topic
}

func destination(m *ck.Message, operation string) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.destination.name", topicOf(m)),
		attribute.String("messaging.operation.name", operation),
		attribute.String("messaging.operation.type", operation),
		attribute.String("messaging.destination.partition.id", strconv.Itoa(int(m.TopicPartition.Partition))),
		attribute.Int("messaging.message.body.size", len(m.Value)),
	}
}

type carrier struct{ m *ck.Message }

func (c carrier) Get(key string) string {
	for i := range c.m.Headers {
		if c.m.Headers[i].Key == key {
			return string(c.m.Headers[i].Value)
		}
	}
	return ""
}

func (c carrier) Set(key, value string) {
	c.m.Headers = append(c.m.Headers, ck.Header{Key: key, Value: []byte(value)})
}

func (c carrier) Keys() []string {
	keys := make([]string, len(c.m.Headers))
	for i := range c.m.Headers {
		keys[i] = c.m.Headers[i].Key
	}
	return keys
}
