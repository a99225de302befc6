package projection_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// The log under a stopped projection is not the one it read: made again, cut in
// front, or cut behind. It says so, and takes from the owner what it cannot
// read.
func TestAnotherLog(t *testing.T) {
	tests := []struct {
		name string
		ids  map[string]string // of the order topic, after
		cut  func(end int64) consumer.Bounds
	}{
		{name: "the topic was made again", ids: map[string]string{kafka.TopicOrder: "id-again"}, cut: func(end int64) consumer.Bounds { return consumer.Bounds{End: end + 5} }},
		{name: "retention passed the position", cut: func(end int64) consumer.Bounds { return consumer.Bounds{Start: end + 2, End: end + 2} }},
		{name: "the tail is gone", cut: func(end int64) consumer.Bounds { return consumer.Bounds{End: end - 1} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, from := line(t)
			s.handle(append(from.send(about("o", 1, 2)...), from.control())...)
			s.is(isProven)
			end := from.end()
			from.lose(append(about("o", 3, 3), about("p", 1, 1)...)...) // sent, and gone before it was read
			log := tt.cut(end)
			ids := maps.Clone(topicIDs)
			maps.Copy(ids, tt.ids)
			s.boundsAre(bounds{kafka.TopicOrder: {0: log}})
			offsets, err := s.Claim(t.Context(), 0, ids)
			if err != nil {
				t.Fatal(err)
			}
			want := min(max(end, log.Start), log.End)
			if tt.ids != nil {
				want = 0
			}
			if got := offsets[kafka.TopicOrder]; got != want {
				t.Errorf("reading goes on at %d, want %d", got, want)
			}
			s.is(isUnproven)
			from.l.offsets[kafka.TopicOrder] = log.End
			s.handle(from.send(about("o", 4, 4)...)...)
			s.endsAre(0, from.l.offsets)
			s.handle(from.control())
			s.is(isUnproven)
			s.heal()
			s.prove()
			s.handle(from.control())
			s.is(isProven)
			s.equalsSource(from.journal)
			again := open(t, s.url)
			if offsets, err := again.Claim(t.Context(), 0, ids); err != nil || offsets[kafka.TopicOrder] != from.end() {
				t.Errorf("after a restart reading goes on at %v, %v, want %d", offsets, err, from.end())
			}
		})
	}
}

// one is a broker with one partition per topic, and what reads from it.
type one struct {
	*subject
	from   *sender
	broker *embedded.Broker
	client *kgo.Client
	log    *said
}

func newOne(t *testing.T) *one {
	t.Helper()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	journal, log := journalOf(), &said{slog.DiscardHandler, make(chan slog.Record, 1000)}
	s := open(t, testkit.UsedURL(t), withJournal(journal), func(c *projection.Config, v *fold.View[tally]) {
		c.Kafka = kafka.Config{Brokers: broker.Addr(), Partitions: 1}
		c.Log = slog.New(log)
		v.Sources = []string{"order"}
	})
	o := &one{subject: s, from: senderOf(newTopics(), journal, "order"), broker: broker, log: log}
	o.dial()
	return o
}

// dial makes a new producer.
func (o *one) dial() {
	o.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(o.broker.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(client.Close)
	o.client = client
}

func (o *one) put(records ...consumer.Record) {
	o.t.Helper()
	for _, r := range records {
		out := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		if err := o.client.ProduceSync(o.t.Context(), out).FirstErr(); err != nil {
			o.t.Fatal(err)
		}
	}
}

// proves writes control records until one is proven, and returns how long that
// took.
func (o *one) proves() time.Duration {
	o.t.Helper()
	began, since := time.Now(), o.from.record.AsOf
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	ctx, cancel := context.WithTimeout(o.t.Context(), 60*time.Second)
	defer cancel()
	for {
		o.put(o.from.control())
		f, err := o.read(nil, "")
		if err == nil && f.GetSources()[0].GetCompleteness() == isProven && f.GetSources()[0].GetProvenUntil().AsTime().After(since) {
			return time.Since(began)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			o.t.Fatalf("not proven within a minute: %v, %v; status %+v", f, err, o.Status())
		}
	}
}

// A topic is deleted and made again while the projection runs; the new log is
// longer than the old one was.
func TestATopicIsMadeAgainUnderAReader(t *testing.T) {
	o := newOne(t)
	o.put(o.from.send(about("o", 1, 3)...)...)
	o.start()
	o.proves()
	id := func() string {
		return fmt.Sprint(o.query("SELECT topic_ids ->> $1 AS id FROM @position", kafka.TopicOrder)[0]["id"])
	}
	old := id()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: o.broker.Addr()}, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.DeleteTopics(t.Context(), []string{kafka.TopicOrder}); err != nil {
		t.Fatal(err)
	}
	if err := kafka.CreateTopics(t.Context(), kafka.Config{Brokers: o.broker.Addr(), Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	o.from.lose(about("p", 1, 2)...) // they were in the old log only
	var more []event.Fact
	for i := range 40 {
		more = append(more, fact(fmt.Sprint("q", i), fmt.Sprint("order/q", i), 1, &note{Add: 1}))
	}
	o.dial()
	o.put(o.from.send(more...)...)
	began := time.Now()
	for o.proves(); id() == old; o.proves() { // that it was noticed is stored
		if time.Since(began) > 30*time.Second {
			t.Fatal("the new topic is read as if it were the old one")
		}
	}
	o.proves()
	o.equalsSource(o.from.journal)
}
