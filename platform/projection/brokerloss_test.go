package projection_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
)

// swallow has the broker acknowledge records and lose them.
func (o *one) swallow(records ...consumer.Record) {
	o.t.Helper()
	for _, r := range records {
		lost := false
		o.broker.Cluster().ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
			produce := request.(*kmsg.ProduceRequest)
			answer := produce.ResponseKind().(*kmsg.ProduceResponse)
			for _, topic := range produce.Topics {
				t := kmsg.NewProduceResponseTopic()
				t.Topic, t.TopicID = topic.Topic, topic.TopicID
				for _, partition := range topic.Partitions {
					p := kmsg.NewProduceResponseTopicPartition()
					p.Partition, p.BaseOffset = partition.Partition, 1_000_000
					t.Partitions = append(t.Partitions, p)
				}
				answer.Topics = append(answer.Topics, t)
			}
			lost = true
			return answer, nil, true
		})
		o.put(r)
		if !lost {
			o.t.Fatal("the fault did not bite")
		}
	}
}

// said is what a projection logs.
type said struct {
	slog.Handler
	lines chan slog.Record
}

func (s *said) Enabled(context.Context, slog.Level) bool { return true }

func (s *said) Handle(_ context.Context, r slog.Record) error {
	select {
	case s.lines <- r:
	default:
	}
	return nil
}

// names waits for a line that names a proven fault, and returns its attributes.
func (s *said) names(t *testing.T) map[string]any {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		select {
		case r := <-s.lines:
			if r.Message != "control totals prove a fault; it is healed from the owner" {
				continue
			}
			attrs := map[string]any{}
			r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value.Any(); return true })
			return attrs
		case <-limit:
			t.Fatal("no fault was named within a minute")
		}
	}
}

// The broker acknowledges records and loses them: the partition and the
// interval are named within two seconds of the next control record, and the
// copy is whole again without anybody's help.
func TestTheBrokerLosesAcknowledgedRecords(t *testing.T) {
	o := newOne(t)
	o.start()
	o.put(o.from.send(about("o", 1, 3)...)...)
	o.proves()
	for _, tt := range []struct {
		name string
		lost []event.Fact
		then []event.Fact
	}{
		{name: "the last event of an aggregate", lost: about("o", 4, 4)},
		{name: "a whole aggregate", lost: about("p", 1, 3)},
		{name: "an event in the middle of an aggregate", lost: about("o", 5, 5), then: about("o", 6, 6)},
	} {
		o.swallow(o.from.send(tt.lost...)...)
		o.put(o.from.send(tt.then...)...)
		low, high := o.from.record.MinSequence, o.from.record.MaxSequence
		began := time.Now()
		o.put(o.from.control())
		if tt.then == nil { // a gap may be healed before the record comes
			got := o.log.names(t)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%s: noticed after %v", tt.name, took)
			}
			if got["partition"] != int64(0) || got["source"] != "order" || got["from_sequence"] != low || got["to_sequence"] != high {
				t.Errorf("%s: named %v, want sequences %d to %d", tt.name, got, low, high)
			}
		}
		t.Logf("%s: proven again after %v", tt.name, o.proves())
		o.equalsSource(o.from.journal)
	}
	// A control record of its own: nothing of worth is lost.
	o.swallow(o.from.control())
	o.proves()
}
