package kafkaotel

import (
	"context"
	"strconv"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Sending is one message on its way to the broker.
type Sending struct {
	t     *Telemetry
	to    *destination
	span  trace.Span
	start time.Time
}

// Send starts the span "send <topic>", a child of the span in ctx: that of
// whatever caused the message. Attributes are added as they are. It does not
// touch the message; [Inject] does.
func (t *Telemetry) Send(ctx context.Context, m *ck.Message, attrs ...attribute.KeyValue) Sending {
	s := Sending{t: t, to: t.destination(topicOf(m)), start: time.Now()}
	_, s.span = t.tracer.Start(ctx, s.to.spanName, trace.WithSpanKind(trace.SpanKindProducer))
	if s.span.IsRecording() {
		s.span.SetAttributes(s.to.sent.ToSlice()...)
		s.span.SetAttributes(semconv.MessagingMessageBodySize(len(m.Value)))
		if m.TopicPartition.Partition >= 0 {
			s.span.SetAttributes(partition(m))
		}
		if m.Value == nil {
			s.span.SetAttributes(semconv.MessagingKafkaMessageTombstone(true))
		}
		s.span.SetAttributes(attrs...)
	}
	return s
}

// Recording reports whether somebody will see the span: whether attributes are
// worth making.
func (s Sending) Recording() bool { return s.span.IsRecording() }

// SetAttributes adds attributes to the span.
func (s Sending) SetAttributes(attrs ...attribute.KeyValue) { s.span.SetAttributes(attrs...) }

// Done ends the span with the broker's answer and counts the message. m is the
// message of the delivery report, which carries partition and offset; it may be
// nil if there is none, because the message was not even taken.
func (s Sending) Done(ctx context.Context, m *ck.Message, err error) {
	count, duration := s.to.count, s.to.duration
	if err != nil {
		set := metric.WithAttributeSet(attribute.NewSet(append(s.to.sent.ToSlice(), errorType(err))...))
		count, duration = []metric.AddOption{set}, []metric.RecordOption{set}
	}
	s.t.sent.Inst().Add(ctx, 1, count...)
	s.t.operation.Inst().Record(ctx, time.Since(s.start).Seconds(), duration...)
	if s.span.IsRecording() {
		if m != nil && m.TopicPartition.Offset >= 0 {
			s.span.SetAttributes(partition(m), semconv.MessagingKafkaOffset(int(m.TopicPartition.Offset)))
		}
		fail(s.span, err)
	}
	s.span.End()
}

func partition(m *ck.Message) attribute.KeyValue {
	return semconv.MessagingDestinationPartitionID(strconv.Itoa(int(m.TopicPartition.Partition)))
}

func errorType(err error) attribute.KeyValue { return semconv.ErrorTypeKey.String(ErrorType(err)) }

// fail says on a span that the operation failed, if it did.
func fail(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(errorType(err))
	}
}
