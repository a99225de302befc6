package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"
)

// maxPayloadBytes leaves room for the headers and the batch around one message.
const maxPayloadBytes = kafka.MaxMessageBytes - 32<<10

// stopGrace is how long a stop waits for acknowledgements. What is not
// acknowledged by then stays unsent and is sent again, which is harmless.
const stopGrace = 2 * time.Second

// sending is one message in flight; it is the message's opaque value.
type sending struct {
	row  *row // nil for a control record
	span kafkaotel.Sending
}

// send produces one row to the partition that was computed when its command was
// decided; await waits for its acknowledgement. In-flight messages are never
// cancelled. A row that the broker itself refuses as too large or invalid has
// its reason in bad then.
func (o *owner) send(ctx context.Context, b *batch, r *row, in []event.Header, value []byte) error {
	if err := o.trust(ctx); err != nil {
		return err
	}
	if o.shards[r.Partition] == nil {
		return nil // taken over meanwhile
	}
	m := &ck.Message{
		TopicPartition: ck.TopicPartition{Topic: &o.topic, Partition: r.Partition}, Key: []byte(r.Key), Value: value, Headers: headers(in),
	}
	s := &sending{row: r, span: o.otel.Send(remote(r), m)}
	if s.span.Recording() {
		s.span.SetAttributes(attribute.Float64("tidemark.outbox.wait", time.Since(r.RecordedAt).Seconds()),
			attribute.String("tidemark.event.id", r.ID), attribute.String("tidemark.aggregate", r.Aggregate.String()),
			attribute.Int64("tidemark.version", r.Version))
	}
	m.Opaque = s
	for {
		err := o.producer.Produce(m, o.reports)
		if err == nil {
			b.sent = append(b.sent, r)
			b.pending++
			return nil
		}
		if !isCode(err, ck.ErrQueueFull) || b.pending == 0 {
			s.span.Done(ctx, nil, err)
			return fmt.Errorf("produce: %w", err)
		}
		if err := o.await(ctx, &b.pending, b.pending/2); err != nil {
			return err
		}
	}
}

func headers(in []event.Header) []ck.Header {
	out := make([]ck.Header, len(in))
	for i, h := range in {
		out[i] = ck.Header{Key: h.Key, Value: h.Value}
	}
	return out
}

// remote returns a context that carries the command's span, so that the span of
// the send is its child.
func remote(r *row) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(),
		propagation.MapCarrier{"traceparent": r.TraceParent, "tracestate": r.TraceState})
}

// trust renews the leases if we cannot be sure of them on our own clock.
func (o *owner) trust(ctx context.Context) error {
	if time.Now().Before(o.trusted) {
		return nil
	}
	return o.renew(ctx)
}

// renew renews the leases; partitions that were taken from us drop out.
func (o *owner) renew(ctx context.Context) error {
	start := time.Now()
	partitions, terms := o.held()
	kept, err := o.leases.renew(ctx, partitions, terms)
	if err != nil {
		return err
	}
	o.trusted = o.leases.trustedFrom(start)
	o.keep(ctx, func(p int32) bool { return kept[p] })
	return nil
}

// await takes delivery reports until only left are pending. It keeps the leases
// meanwhile, however long the broker takes.
func (o *owner) await(ctx context.Context, pending *int, left int) error {
	keep := time.NewTicker(o.leases.ttl / 4)
	defer keep.Stop()
	stopping := ctx.Done()
	var deadline <-chan time.Time
	for *pending > left {
		select {
		case e := <-o.reports:
			m, ok := e.(*ck.Message)
			if !ok {
				continue
			}
			*pending--
			if err := o.delivered(ctx, m); err != nil {
				return err
			}
		case err := <-o.fatal:
			return fmt.Errorf("producer: %w", err)
		case <-keep.C:
			if o.leases.due(o.trusted) {
				bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.leases.ttl)
				err := o.renew(bounded)
				cancel()
				if err != nil {
					return err
				}
			}
		case <-stopping:
			stopping = nil
			timer := time.NewTimer(stopGrace)
			defer timer.Stop()
			deadline = timer.C
		case <-deadline:
			return fmt.Errorf("%d messages were not acknowledged in %s: %w", *pending, stopGrace, ctx.Err())
		}
	}
	return nil
}

func (o *owner) delivered(ctx context.Context, m *ck.Message) error {
	s, _ := m.Opaque.(*sending)
	err := m.TopicPartition.Error
	if s != nil {
		s.span.Done(ctx, m, err)
	}
	if err != nil {
		if s != nil && s.row != nil && refused(err) {
			s.row.bad = err.Error()
			return nil
		}
		return fmt.Errorf("send to %s: %w", o.topic, err)
	}
	if *m.TopicPartition.Topic == o.topic {
		if shard := o.shards[m.TopicPartition.Partition]; shard != nil {
			shard.end = max(shard.end, int64(m.TopicPartition.Offset)+1)
		}
	}
	return nil
}

// refused says that the broker will never take this message.
func refused(err error) bool {
	return isCode(err, ck.ErrMsgSizeTooLarge, ck.ErrInvalidMsg, ck.ErrInvalidMsgSize, ck.ErrInvalidRecord, ck.ErrInvalidTimestamp)
}

func isCode(err error, codes ...ck.ErrorCode) bool {
	var e ck.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code() == code {
			return true
		}
	}
	return false
}
