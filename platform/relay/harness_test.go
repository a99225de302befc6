package relay

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const partitions = 8

// fixture is a journal, a broker, and relays between them.
type fixture struct {
	testing.TB
	journal *journal.Journal
	pool    *pgxpool.Pool
	codec   *avro.Codec
	broker  *embedded.Broker
	brokers string
	tuning  Tuning
}

type thing struct{ ID string }

var things = journal.Table[thing]{
	Type: "order",
	New:  func(id string) *thing { return &thing{ID: id} },
	Key:  func(s *thing) string { return s.ID },
	Lock: `SELECT version, epoch, event_id, recorded_at, state FROM things WHERE id = $1 FOR UPDATE`,
	Save: func(b *pgx.Batch, s *thing, h journal.Head, isNew bool) {
		if isNew {
			b.Queue(`INSERT INTO things VALUES ($1, $2, $3, $4, $5, $6)`, s.ID, h.Version, h.Epoch, h.EventID, h.RecordedAt, s)
			return
		}
		b.Queue(`UPDATE things SET version = $2, epoch = $3, event_id = $4, recorded_at = $5 WHERE id = $1`, s.ID, h.Version, h.Epoch, h.EventID, h.RecordedAt)
	},
}

func setup(t testing.TB) *fixture {
	t.Helper()
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{TB: t, pool: testkit.Postgres(t), codec: codec, tuning: Tuning{
		LeaseTTL: 500 * time.Millisecond, Poll: 20 * time.Millisecond, ControlEvery: 20 * time.Millisecond, Coalesce: time.Microsecond,
	}}
	if f.journal, err = journal.Open(t.Context(), f.pool, journal.Config{Source: "order", Partitions: partitions, Codec: codec}); err != nil {
		t.Fatal(err)
	}
	f.exec(`CREATE TABLE things (id text PRIMARY KEY, version bigint, epoch text, event_id text, recorded_at timestamptz, state jsonb)`)
	f.broker = testkit.Broker(t)
	f.brokers = f.broker.Addr()
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.Helper()
	if _, err := f.pool.Exec(context.Background(), sql, args...); err != nil {
		f.Fatal(err)
	}
}

func query[T any](f *fixture, sql string, args ...any) T {
	f.Helper()
	var v T
	if err := f.pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		f.Fatal(err)
	}
	return v
}

// state appends n events to one order.
func (f *fixture) state(id string, n int) {
	f.Helper()
	_, _, err := journal.Execute(context.Background(), f.journal, &things,
		journal.Request{ID: uuid.NewString(), Method: "Hold", Message: &emptypb.Empty{}, AggregateID: id},
		func(*thing, time.Time) ([]journal.Fact, error) {
			stated := make([]journal.Fact, n)
			for i := range stated {
				stated[i].Body = &facts.OrderHeld{OrderID: id, CustomerID: "c", Actor: "test", Reason: "why"}
			}
			return stated, nil
		}, func(*thing, journal.Head) *emptypb.Empty { return &emptypb.Empty{} })
	if err != nil {
		f.Error(err)
	}
}

// relay returns a relay that logs to the test, changed by options.
func (f *fixture) relay(options ...func(*Relay)) *Relay {
	f.Helper()
	r, err := New(Config{
		Source: "order", Pool: f.pool, Kafka: kafka.Config{Brokers: f.brokers, Partitions: partitions}, Codec: f.codec,
		Wakes: f.journal.Wakes(), Log: slog.New(slog.NewTextHandler(f.Output(), nil)), Tuning: f.tuning,
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, o := range options {
		o(r)
	}
	return r
}

// start runs a relay until the returned function stops it, or the test ends.
func (f *fixture) start(r *Relay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				f.Errorf("relay: %v", err)
			}
		})
	}
	f.Cleanup(stop)
	return stop
}

func (f *fixture) unsent() int { f.Helper(); return query[int](f, `SELECT count(*) FROM outbox`) }

func (f *fixture) drained() {
	f.Helper()
	f.eventually("the unsent set is empty", func() bool { return f.unsent() == 0 })
}

func (f *fixture) eventually(what string, condition func() bool) {
	f.Helper()
	ticker, timeout := time.NewTicker(3*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			f.Fatalf("did not come true: %s", what)
		}
	}
}

// record is what stands at one place of the data topic.
type record struct {
	partition int32
	offset    int64
	fact      *event.Fact
	control   *control.ControlRecord
}

// read returns everything in a topic now, by partition and offset.
func (f *fixture) read(topic string) []record {
	f.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(f.brokers), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		f.Fatal(err)
	}
	defer client.Close()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: f.brokers}, "test")
	if err != nil {
		f.Fatal(err)
	}
	defer admin.Close()
	want := int64(0)
	consumer, err := kafka.NewConsumer(kafka.Config{Brokers: f.brokers}, kafka.ConsumerOptions{Group: "test", ClientID: "test"})
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = consumer.Close() }()
	for p := range int32(partitions) {
		_, high, err := consumer.QueryWatermarkOffsets(topic, p, 10_000)
		if err != nil {
			f.Fatal(err)
		}
		want += high
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	byPartition := make([][]record, partitions)
	for got := int64(0); got < want; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			f.Fatal(err)
		}
		fetches.EachRecord(func(k *kgo.Record) {
			got++
			headers := make([]event.Header, len(k.Headers))
			for i, h := range k.Headers {
				headers[i] = event.Header{Key: h.Key, Value: h.Value}
			}
			r := record{partition: k.Partition, offset: k.Offset}
			if event.IsControl(headers) {
				c, err := f.codec.DecodeControl(headers, k.Key, k.Value)
				if err != nil {
					f.Fatal(err)
				}
				r.control = c
			} else {
				fact, err := f.codec.DecodeRecord(headers, k.Key, k.Value)
				if err != nil {
					f.Fatal(err)
				}
				r.fact = &fact
			}
			byPartition[k.Partition] = append(byPartition[k.Partition], r)
		})
	}
	var all []record
	for _, records := range byPartition {
		all = append(all, records...)
	}
	return all
}

// sent returns the events of the data topic as "id/version", in order of
// arrival per partition.
func (f *fixture) sent() []string {
	f.Helper()
	var out []string
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact != nil {
			out = append(out, fmt.Sprintf("%s/%d", r.fact.Aggregate.ID, r.fact.Version))
		}
	}
	return out
}

// checkTotals compares the totals of today's epoch, of all partitions together,
// with what the journal's sent rows add up to.
func (f *fixture) checkTotals() {
	f.Helper()
	var want, got event.Sum
	rows, err := f.pool.Query(context.Background(), `SELECT epoch, aggregate_type, aggregate_id, version, event_id::text FROM journal j
		WHERE epoch = (SELECT max(epoch) FROM source_epoch) AND NOT EXISTS (SELECT FROM outbox o WHERE o.sequence = j.sequence) AND NOT EXISTS (SELECT FROM blocked b WHERE b.sequence = j.sequence)`)
	if err != nil {
		f.Fatal(err)
	}
	n := int64(0)
	var e event.Envelope
	if _, err := pgx.ForEachRow(rows, []any{&e.Epoch, &e.Aggregate.Type, &e.Aggregate.ID, &e.Version, &e.ID}, func() error {
		e.Source = "order"
		want = want.Add(e)
		n++
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	rows, err = f.pool.Query(context.Background(), `SELECT count, hash FROM control_totals WHERE epoch = (SELECT max(epoch) FROM source_epoch)`)
	if err != nil {
		f.Fatal(err)
	}
	counted, count, hash := int64(0), int64(0), []byte(nil)
	if _, err := pgx.ForEachRow(rows, []any{&count, &hash}, func() error {
		counted += count
		got = got.Plus(event.Sum(hash))
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	if counted != n || got != want {
		f.Errorf("totals say %d (%s), marked are %d (%s)", counted, got, n, want)
	}
}
