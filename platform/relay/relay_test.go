package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

func TestEveryCommittedEventArrivesInOrder(t *testing.T) {
	f := setup(t)
	stop := f.start(f.relay())
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 30 {
				f.state(fmt.Sprintf("o-%d", (w+i)%7), 1+i%3)
			}
		})
	}
	wg.Wait()
	f.drained()
	stop()
	next := map[string]int64{}
	count := 0
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact == nil {
			continue
		}
		count++
		e := r.fact.Envelope
		if next[e.Aggregate.ID]++; e.Version != next[e.Aggregate.ID] {
			t.Errorf("%s arrived as version %d, want %d", e.Aggregate, e.Version, next[e.Aggregate.ID])
		}
		if r.partition != event.PartitionOf(e.Key, partitions) || e.CorrelationID != e.Key || e.Epoch == "" {
			t.Errorf("partition %d, envelope %+v", r.partition, e)
		}
	}
	if want := query[int](f, `SELECT count(*) FROM journal`); count != want {
		t.Errorf("%d of %d events arrived", count, want)
	}
	f.checkTotals()
}

// A writer draws its sequences, stalls, and commits after later ones were sent.
func TestALateCommitIsSent(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	tx := f.begin()
	f.late(tx)
	for i := range 10 {
		f.state(fmt.Sprintf("early-%d", i), 1)
	}
	f.drained()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.eventually("the late row is sent", func() bool { return f.unsent() == 0 })
	if sent := f.sent(); !slices.Contains(sent, "late/1") || len(sent) != 11 {
		t.Errorf("sent: %v", sent)
	}
	f.checkTotals()
}

// A writer that rolls back leaves a hole in the sequence; nothing waits for it.
func TestARolledBackWriterStallsNothing(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	tx := f.begin()
	f.late(tx)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.state("o-1", 1)
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	if diff := cmp.Diff([]string{"o-1/1"}, f.sent()); diff != "" {
		t.Error(diff)
	}
}

// lateRow appends an event of order "late" to the partition that its key has.
var lateRow = fmt.Sprintf(`
	WITH appended AS (
		INSERT INTO journal SELECT nextval('journal_sequence'), %d, 'order', 'late', 1, (SELECT epoch FROM source_epoch), gen_random_uuid(),
			'OrderHeld', 1, 'late', now(), now(), '', '', '', '', $1::bytea RETURNING partition, sequence)
	INSERT INTO outbox SELECT * FROM appended`, event.PartitionOf("late", partitions))

// begin opens a transaction that ends with the test.
func (f *fixture) begin() pgx.Tx {
	f.Helper()
	tx, err := f.pool.Begin(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// late appends an event of order "late" in a transaction that is not committed.
func (f *fixture) late(tx pgx.Tx) {
	f.Helper()
	_, _, payload, err := f.codec.Encode(&facts.OrderHeld{OrderID: "late", CustomerID: "c", Actor: "test", Reason: "why"})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), lateRow, payload); err != nil {
		f.Fatal(err)
	}
}

// currentAfter waits until every partition announces an as_of after the time.
func (f *fixture) currentAfter(at time.Time) {
	f.Helper()
	f.eventually("as_of passes", func() bool {
		latest := map[int32]time.Time{}
		for _, r := range append(f.read(kafka.TopicOrder), f.read(kafka.TopicControl)...) {
			if c := r.control; c != nil && c.AsOf.After(latest[c.Partition]) {
				latest[c.Partition] = c.AsOf
			}
		}
		for p := range int32(partitions) {
			if !latest[p].After(at) {
				return false
			}
		}
		return true
	})
}

var errCrash = errors.New("crash")

// A relay dies after the broker's acknowledgement and before it marks. The next
// one sends again; totals count once.
func TestCrashBetweenProduceAndMark(t *testing.T) {
	f := setup(t)
	f.state("o-1", 3)
	var once sync.Once
	f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) (err error) {
			once.Do(func() { err = errCrash })
			return err
		}
	}))
	f.drained()
	if diff := cmp.Diff([]string{"o-1/1", "o-1/2", "o-1/3", "o-1/1", "o-1/2", "o-1/3"}, f.sent()); diff != "" {
		t.Error(diff)
	}
	f.checkTotals()
}

// A relay is stopped (SIGSTOP) after producing, loses its lease, and wakes up
// while another one sends. It marks nothing, counts nothing and announces
// nothing.
func TestAPausedRelayIsFenced(t *testing.T) {
	f := setup(t)
	f.state("o-1", 5)
	paused, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	fenced := 0
	first := f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			once.Do(func() { close(paused); <-resume })
			return nil
		}
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			if bytes.Contains(p, []byte("lost partitions")) {
				fenced++
			}
		}), nil))
	})
	stopFirst := f.start(first)
	<-paused
	f.expire()
	// The second sends the same rows, and is about to mark them, when the first
	// wakes up and tries to.
	produced, proceed := make(chan struct{}), make(chan struct{})
	var second sync.Once
	f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			second.Do(func() { close(produced); <-proceed })
			return nil
		}
	}))
	<-produced
	close(resume)
	f.eventually("the first relay notices", func() bool { mu.Lock(); defer mu.Unlock(); return fenced > 0 })
	stopFirst()
	if n := f.unsent(); n != 5 {
		t.Errorf("the fenced relay left %d of 5 rows", n)
	}
	close(proceed)
	f.drained()
	f.state("o-1", 2)
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	f.checkTotals()
	term, highest := int64(1), map[int32]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		if c := r.control; c != nil {
			if c.Term < highest[c.Partition] {
				t.Errorf("the fenced relay announced term %d after %d", c.Term, highest[c.Partition])
			}
			highest[c.Partition] = c.Term
			term = max(term, c.Term)
			if c.Count > 7 {
				t.Errorf("announced %d of 7 events", c.Count)
			}
		}
	}
	if term < 2 {
		t.Errorf("terms up to %d", term)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// expire lets all leases and members run out, as time would.
func (f *fixture) expire() {
	f.Helper()
	f.exec(`UPDATE relay_shard SET expires_at = '-infinity'`)
	f.exec(`UPDATE relay_member SET expires_at = '-infinity'`)
}

// The old owner's transaction already deletes when the takeover comes: either
// the takeover waits for it, or it finds its term gone. The new owner's totals
// hold what was deleted, whoever deleted it.
func TestTakeoverWaitsForTheMarkUnderWay(t *testing.T) {
	f := setup(t)
	f.state("o-1", 5)
	p := event.PartitionOf("o-1", partitions)
	old, next := f.relay().leases, f.relay().leases
	f.exec(makeShards, partitions)
	terms, err := old.acquire(t.Context(), []int32{}, partitions)
	if err != nil {
		t.Fatal(err)
	}
	tx := f.begin()
	var held int64
	if err := tx.QueryRow(t.Context(), lockMine, []int32{p}, []int64{terms[p]}).Scan(&held); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `DELETE FROM outbox`); err != nil { // the old owner, before its totals
		t.Fatal(err)
	}
	// The lease has run out while the transaction is open.
	f.eventually("the leases run out", func() bool {
		return query[bool](f, `SELECT bool_and(expires_at < clock_timestamp()) FROM relay_shard`)
	})
	taken := make(chan map[int32]int64, 1)
	go func() {
		got, err := next.acquire(context.Background(), []int32{}, partitions)
		if err != nil {
			t.Error(err)
		}
		taken <- got
	}()
	f.eventually("the takeover waits", func() bool {
		return query[bool](f, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	})
	select {
	case <-taken:
		t.Error("took over while the old owner was marking")
	default:
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := <-taken
	if len(got) != partitions || got[p] <= terms[p] {
		t.Errorf("terms %v after %v", got, terms)
	}
	// The old owner comes too late with its next mark.
	if rows, err := f.pool.Exec(t.Context(), lockMine, []int32{p}, []int64{terms[p]}); err != nil || rows.RowsAffected() != 0 {
		t.Errorf("the old term still locks %d leases, %v", rows.RowsAffected(), err)
	}
}

// A row that can never be sent stops its aggregate, and only that.
func TestABadRowBlocksItsAggregateOnly(t *testing.T) {
	f := setup(t)
	f.state("bad", 1)
	f.exec(`UPDATE journal SET name = 'NoSuchFact' WHERE aggregate_id = 'bad'`)
	f.state("bad", 1)
	f.state("huge", 1)
	f.exec(`UPDATE journal SET payload = convert_to(repeat('x', 600000), 'UTF8') WHERE aggregate_id = 'huge'`)
	f.state("good", 2)
	var mu sync.Mutex
	var log bytes.Buffer
	f.start(f.relay(func(r *Relay) {
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) { mu.Lock(); defer mu.Unlock(); log.Write(p) }), nil))
	}))
	f.drained()
	f.state("bad", 1) // follows
	f.state("good", 1)
	f.drained()
	if diff := cmp.Diff([]string{"good/1", "good/2", "good/3"}, f.sent()); diff != "" {
		t.Error(diff)
	}
	if n := query[int](f, `SELECT count(*) FROM blocked WHERE aggregate_id = 'bad'`); n != 3 {
		t.Errorf("%d rows of bad are blocked, want 3", n)
	}
	f.checkTotals()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	names := map[string]bool{}
	for _, r := range f.read(kafka.TopicOrder) {
		if c := r.control; c != nil && c.BlockedCount > 0 {
			if c.BlockedSince == nil || int(c.BlockedCount) != len(c.Blocked) {
				t.Errorf("blocked: %+v", c)
			}
			for _, name := range c.Blocked {
				names[name] = true
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"order/bad": true, "order/huge": true}, names); diff != "" {
		t.Error(diff)
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Count(log.String(), "level=ERROR") != 2 {
		t.Errorf("alarms: %s", log.String())
	}
}
