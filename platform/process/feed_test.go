package process_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const topic = "tidemark.order.events"

// counted issues one step per fact, named after how many facts there were.
func counted() process.Definition[int] {
	return process.Definition[int]{
		Name: "counted", Version: 1,
		On:      func(n *int, _ event.Fact) { *n++ },
		Settled: func(*int, process.Settlement) {},
		Next: func(n *int) process.Plan {
			return process.Plan{Commands: []process.Command{{Step: fmt.Sprint("fact ", *n), Request: wrapperspb.Int32(int32(*n))}}}
		},
	}
}

type feeding struct {
	t     *testing.T
	pool  *pgxpool.Pool
	codec *avro.Codec
	feed  *process.Feed[int]
}

func newFeeding(t *testing.T, pool *pgxpool.Pool) feeding {
	t.Helper()
	if err := postgres.Migrate(t.Context(), pool, process.Migrations(), process.MigrationTable); err != nil {
		t.Fatal(err)
	}
	manager, err := process.NewManager(pool, process.Participants{Target: func(proto.Message) string { return "" }}, slog.New(slog.DiscardHandler), counted())
	if err != nil {
		t.Fatal(err)
	}
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	return feeding{t, pool, codec, process.NewFeed(manager, codec)}
}

// record is the fact that an order was completed, as the relay sends it.
func (f feeding) record(order string, version, offset int64) consumer.Record {
	f.t.Helper()
	name, schema, bare, err := f.codec.Encode(&facts.OrderCompleted{OrderID: order, CustomerID: "c", Actor: "fulfilment"})
	if err != nil {
		f.t.Fatal(err)
	}
	id, _ := f.codec.ID(name, schema)
	now := time.Now()
	e := event.Envelope{
		ID: fmt.Sprint(order, "-", version), Source: "order", Type: name, SchemaVersion: schema, Key: order,
		Aggregate: event.Aggregate{Type: "order", ID: order}, Version: version, Epoch: "e1", OccurredAt: now, RecordedAt: now,
	}
	return consumer.Record{Topic: topic, Offset: offset, Key: []byte(order), Value: avro.Frame(id, bare), Headers: e.Headers()}
}

func (f feeding) claim() int64 {
	f.t.Helper()
	offsets, err := f.feed.Claim(f.t.Context(), 0, map[string]string{topic: "id-1"})
	if err != nil {
		f.t.Fatal(err)
	}
	return offsets[topic]
}

func (f feeding) strings(sql string) []string {
	f.t.Helper()
	var all []string
	if err := f.pool.QueryRow(f.t.Context(), sql).Scan(&all); err != nil {
		f.t.Fatal(err)
	}
	return all
}

const stepsOf = `SELECT coalesce(array_agg(instance_id || ' ' || step ORDER BY instance_id, step), '{}') FROM process_command`

func TestAPositionMovesWithItsEffects(t *testing.T) {
	f := newFeeding(t, testkit.Postgres(t))
	if at := f.claim(); at != 0 {
		t.Fatalf("starts at %d", at)
	}
	first := []consumer.Record{f.record("a", 1, 0), f.record("b", 1, 1)}
	if err := f.feed.Handle(t.Context(), 0, first); err != nil {
		t.Fatal(err)
	}
	// The same records again, as after a crash between commit and offset commit.
	if err := f.feed.Handle(t.Context(), 0, append(first, f.record("a", 2, 2))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a fact 1", "a fact 2", "b fact 1"}, f.strings(stepsOf)); diff != "" {
		t.Error(diff)
	}
	if at := newFeeding(t, f.pool).claim(); at != 3 {
		t.Errorf("goes on at %d, want 3", at)
	}
}

func TestAFormerOwnerIsFenced(t *testing.T) {
	f := newFeeding(t, testkit.Postgres(t))
	f.claim()
	successor := newFeeding(t, f.pool)
	successor.claim()
	if err := f.feed.Handle(t.Context(), 0, []consumer.Record{f.record("a", 1, 0)}); !errors.Is(err, consumer.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	if steps := f.strings(stepsOf); len(steps) != 0 {
		t.Errorf("a fenced owner issued %v", steps)
	}
	if err := successor.feed.Handle(t.Context(), 0, []consumer.Record{f.record("a", 1, 0)}); err != nil {
		t.Error(err)
	}
}

func TestAnotherTopicUnderTheSameNameIsRefused(t *testing.T) {
	f := newFeeding(t, testkit.Postgres(t))
	f.claim()
	if _, err := f.feed.Claim(t.Context(), 0, map[string]string{topic: "id-2"}); err == nil {
		t.Error("a topic that was deleted and created again was read on")
	}
}

func TestAnUnreadableRecordIsSetAsideAndSeen(t *testing.T) {
	f := newFeeding(t, testkit.Postgres(t))
	f.claim()
	broken := f.record("a", 2, 1)
	broken.Value = nil
	foreign := consumer.Record{Topic: topic, Offset: 2, Value: []byte("{}")}
	if err := f.feed.Handle(t.Context(), 0, []consumer.Record{f.record("a", 1, 0), broken, foreign, f.record("b", 1, 3)}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a fact 1", "b fact 1"}, f.strings(stepsOf)); diff != "" {
		t.Error(diff)
	}
	got := f.strings(`SELECT array_agg(record_offset || ' ' || instance_id ORDER BY record_offset) FROM process_unread`)
	if diff := cmp.Diff([]string{"1 a", "2 "}, got); diff != "" {
		t.Error(diff)
	}
	got = f.strings(`SELECT array_agg(id || ' ' || attention ORDER BY id) FROM process_instance`)
	if diff := cmp.Diff([]string{"a a fact of this order cannot be read", "b "}, got); diff != "" {
		t.Error(diff)
	}
}
