// Package kafkaotel instruments confluent-kafka-go with OpenTelemetry: spans,
// links and metrics in the messaging conventions of semconv v1.43.0, and the
// client library's own statistics as metrics. It knows Kafka and OpenTelemetry
// and nothing of Tidemark; it wraps no client and changes no configuration, so
// it fits beside any way of using one. README.md lists what it emits.
//
// A producer calls [Telemetry.Send] for each message and Done with its delivery
// report. A consumer calls [Telemetry.Process] around its work on a message or
// a batch. Whoever polls events hands statistics to [Telemetry.Statistics].
//
// All methods may be called concurrently.
package kafkaotel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"

var propagator = propagation.TraceContext{}

// Telemetry makes the spans and counts the messages of one process.
type Telemetry struct {
	tracer    trace.Tracer
	sent      messagingconv.ClientSentMessages
	consumed  messagingconv.ClientConsumedMessages
	operation messagingconv.ClientOperationDuration
	process   messagingconv.ProcessDuration
	topics    sync.Map // of a topic's name, its *destination
	stats     *statistics
}

// destination is what all messages of one topic share: made once, because
// making it costs more than sending.
type destination struct {
	spanName string
	sent     attribute.Set
	count    []metric.AddOption
	duration []metric.RecordOption
}

// New returns telemetry over the given providers; it uses no global state.
func New(tp trace.TracerProvider, mp metric.MeterProvider) (*Telemetry, error) {
	meter := mp.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	t := &Telemetry{tracer: tp.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)), stats: newStatistics(meter)}
	seconds := metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
	var errs [4]error
	t.sent, errs[0] = messagingconv.NewClientSentMessages(meter)
	t.consumed, errs[1] = messagingconv.NewClientConsumedMessages(meter)
	t.operation, errs[2] = messagingconv.NewClientOperationDuration(meter, seconds)
	t.process, errs[3] = messagingconv.NewProcessDuration(meter, seconds)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make messaging instruments: %w", err)
	}
	return t, nil
}

func (t *Telemetry) destination(topic string) *destination {
	if known, ok := t.topics.Load(topic); ok {
		return known.(*destination)
	}
	made := &destination{
		spanName: "send " + topic,
		sent: attribute.NewSet(semconv.MessagingSystemKafka, semconv.MessagingOperationName("send"),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(topic)),
	}
	set := metric.WithAttributeSet(made.sent)
	made.count, made.duration = []metric.AddOption{set}, []metric.RecordOption{set}
	known, _ := t.topics.LoadOrStore(topic, made)
	return known.(*destination)
}

// Inject puts the span context of ctx into the message's headers, in place of
// any that is there. Do it where the message is caused, which may be long
// before it is sent.
func Inject(ctx context.Context, m *ck.Message) {
	propagator.Inject(ctx, carrier{m})
}

// SpanContext returns the span context in the headers of a message; invalid if
// there is none.
func SpanContext(m *ck.Message) trace.SpanContext {
	ctx := propagator.Extract(context.Background(), carrier{m})
	return trace.SpanContextFromContext(ctx)
}

// ErrorType returns the low-cardinality name of an error of the client, and
// "_OTHER" for any other.
func ErrorType(err error) string {
	var e ck.Error
	if errors.As(err, &e) {
		return e.Code().String()
	}
	return semconv.ErrorTypeOther.Value.AsString()
}

func topicOf(m *ck.Message) string {
	if m.TopicPartition.Topic == nil {
		return ""
	}
	return *m.TopicPartition.Topic
}

// carrier lets the propagator read and write a message's headers.
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
	for i := range c.m.Headers {
		if c.m.Headers[i].Key == key {
			c.m.Headers[i].Value = []byte(value)
			return
		}
	}
	c.m.Headers = append(c.m.Headers, ck.Header{Key: key, Value: []byte(value)})
}

func (c carrier) Keys() []string {
	keys := make([]string, len(c.m.Headers))
	for i := range c.m.Headers {
		keys[i] = c.m.Headers[i].Key
	}
	return keys
}
