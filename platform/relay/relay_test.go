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

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas/control"
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
	var fenced []error
	first := f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			once.Do(func() { close(paused); <-resume })
			return nil
		}
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			if bytes.Contains(p, []byte("lost its lease")) {
				fenced = append(fenced, errFenced)
			}
		}), nil))
	})
	stopFirst := f.start(first)
	<-paused
	f.exec(`UPDATE lease SET expires_at = '-infinity'`)
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
	f.eventually("the first relay notices", func() bool { mu.Lock(); defer mu.Unlock(); return len(fenced) > 0 })
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

// The old owner's transaction already deletes when the takeover comes: either
// the takeover waits for it, or it finds its term gone. The new owner's totals
// hold what was deleted, whoever deleted it.
func TestTakeoverWaitsForTheMarkUnderWay(t *testing.T) {
	f := setup(t)
	f.state("o-1", 5)
	r := f.relay()
	old, err := r.lease.acquire(t.Context(), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	tx := f.begin()
	var held int64
	if err := tx.QueryRow(t.Context(), lockLease, r.lease.name, old.number).Scan(&held); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `DELETE FROM outbox`); err != nil { // the old owner, before its totals
		t.Fatal(err)
	}
	taken := make(chan term, 1)
	go func() {
		next := f.relay()
		next.lease.ttl = time.Second
		// The lease has run out while the transaction is open.
		got, err := next.lease.acquire(context.Background(), time.Millisecond)
		if err != nil {
			t.Error(err)
		}
		taken <- got
	}()
	f.eventually("the lease runs out and the takeover waits", func() bool {
		return query[bool](f, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	})
	select {
	case <-taken:
		t.Error("took over while the old owner was marking")
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-taken; got.number != old.number+1 {
		t.Errorf("term %d after %d", got.number, old.number)
	}
	if err := tx.QueryRow(t.Context(), lockLease).Scan(&held); err == nil {
		t.Error("a finished transaction answers")
	}
	if f.unsent() != 5 {
		t.Errorf("%d unsent", f.unsent())
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

// Whatever was acknowledged to a caller before as_of stands in the topic before
// the record that says so, under load and under a backlog that one read never
// takes whole.
func TestAsOfIsSound(t *testing.T) {
	f := setup(t)
	f.tuning.BatchPerPartition = 2
	f.tuning.ControlEvery = time.Nanosecond
	for i := range 60 {
		f.state(fmt.Sprintf("backlog-%d", i%5), 1)
	}
	acknowledged := sync.Map{}
	stop := f.start(f.relay())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 40 {
				id := fmt.Sprintf("w%d-%d", w, i)
				f.state(id, 1)
				// The clock that as_of is taken from, after the caller has its answer.
				acknowledged.Store(id, query[time.Time](f, `SELECT clock_timestamp()`))
			}
		})
	}
	wg.Wait()
	f.drained()
	stop()
	records := f.read(kafka.TopicOrder)
	advanced := 0
	arrived := map[string]int64{}
	for _, r := range records {
		if r.fact != nil {
			if _, seen := arrived[r.fact.Aggregate.ID]; !seen {
				arrived[r.fact.Aggregate.ID] = r.offset
			}
		}
	}
	for _, r := range records {
		if r.control == nil {
			continue
		}
		if r.control.Kind != control.ControlKindOpening {
			advanced++
		}
		acknowledged.Range(func(id, at any) bool {
			if event.PartitionOf(id.(string), partitions) == r.partition && at.(time.Time).Before(r.control.AsOf) && arrived[id.(string)] > r.offset {
				t.Errorf("partition %d: as_of %s at offset %d, but %s, acknowledged at %s, is at offset %d", r.partition,
					r.control.AsOf.Format(time.RFC3339Nano), r.offset, id, at.(time.Time).Format(time.RFC3339Nano), arrived[id.(string)])
			}
			return true
		})
	}
	if advanced < 10 {
		t.Errorf("as_of was announced %d times under load", advanced)
	}
	f.checkTotals()
}

// The head of the unsent set is that of the whole set: with a backlog of ten
// and batches of one, as_of stands until the tenth is sent.
func TestAsOfWaitsForTheWholeUnsentSet(t *testing.T) {
	f := setup(t)
	f.tuning.BatchPerPartition, f.tuning.ControlEvery = 1, time.Nanosecond
	f.state("o-1", 10)
	acknowledged := query[time.Time](f, `SELECT clock_timestamp()`)
	stop := f.start(f.relay())
	f.drained()
	f.currentAfter(acknowledged)
	stop()
	sent := 0
	for _, r := range f.read(kafka.TopicOrder) {
		if r.partition != event.PartitionOf("o-1", partitions) {
			continue
		}
		if r.fact != nil {
			sent++
		} else if r.control.AsOf.After(acknowledged) && sent < 10 {
			t.Errorf("as_of passed the acknowledgement when %d of 10 were sent", sent)
		}
	}
}

func TestControlRecordsAddUp(t *testing.T) {
	f := setup(t)
	f.tuning.ControlEvery = time.Millisecond
	stop := f.start(f.relay())
	for i := range 40 {
		f.state(fmt.Sprintf("o-%d", i%6), 1+i%2)
	}
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	stop()
	type state struct {
		totals
		lastMax int64
	}
	seen := map[int32]*state{}
	sequences := map[string]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		s := seen[r.partition]
		if s == nil {
			s = &state{}
			seen[r.partition] = s
		}
		if r.fact != nil {
			s.count++
			s.hash = s.hash.Add(r.fact.Envelope)
			sequence := query[int64](f, `SELECT sequence FROM journal WHERE event_id = $1`, r.fact.ID)
			sequences[r.fact.ID] = sequence
			if s.min == 0 || sequence < s.min {
				s.min = sequence
			}
			s.max = max(s.max, sequence)
			continue
		}
		c := r.control
		s.number++
		if c.Number != s.number || (c.Kind == control.ControlKindOpening) != (c.Number == 1) || c.DataEndOffset != -1 {
			t.Errorf("partition %d: record %d is %+v", r.partition, s.number, c)
		}
		if c.Count != s.count || event.Sum(c.Hash) != s.hash {
			t.Errorf("partition %d: announced %d, passed %d", r.partition, c.Count, s.count)
		}
		if c.MinSequence != s.min || c.MaxSequence != s.max {
			t.Errorf("partition %d: interval %d–%d, passed %d–%d", r.partition, c.MinSequence, c.MaxSequence, s.min, s.max)
		}
		s.min, s.max = 0, 0
	}
	if len(seen) != partitions {
		t.Errorf("control records in %d partitions", len(seen))
	}
}

// While nothing happens freshness stays true and the data topic does not grow.
func TestIdleKeepsFreshnessTrueAndTheDataTopicStill(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	f.state("o-1", 2)
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	size := len(f.read(kafka.TopicOrder))
	from := query[time.Time](f, `SELECT clock_timestamp()`)
	f.eventually("many idle records of every partition", func() bool {
		count := map[int32]int{}
		for _, r := range f.read(kafka.TopicControl) {
			if r.control.AsOf.After(from) {
				count[r.partition]++
			}
		}
		for p := range int32(partitions) {
			if count[p] < 5 {
				return false
			}
		}
		return true
	})
	data := f.read(kafka.TopicOrder)
	if len(data) != size {
		t.Errorf("the data topic grew from %d to %d records", size, len(data))
	}
	end := map[int32]int64{}
	for _, r := range data {
		end[r.partition] = r.offset + 1
	}
	for _, r := range f.read(kafka.TopicControl) {
		if c := r.control; c.AsOf.After(from) && (c.DataEndOffset != end[r.partition] || c.DataTopicID == "" || c.Partition != r.partition) {
			t.Errorf("partition %d ends at %d: %+v", r.partition, end[r.partition], c)
		}
	}
}

// The broker goes away while the relay publishes, and comes back.
func TestABrokerRestartLosesNothing(t *testing.T) {
	f := setup(t)
	dir := t.TempDir()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	f.brokers = broker.Addr()
	f.start(f.relay())
	f.state("o-1", 3)
	f.drained()
	broker.Close()
	for i := range 20 {
		f.state(fmt.Sprintf("o-%d", i), 1)
	}
	var port int
	if _, err := fmt.Sscanf(f.brokers, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	broker, err = embedded.StartBroker(t.Context(), embedded.BrokerConfig{Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	f.drained()
	f.checkTotals()
	arrived := map[string]bool{}
	for _, id := range f.sent() {
		arrived[id] = true
	}
	if len(arrived) != 23 {
		t.Errorf("%d of 23 events arrived", len(arrived))
	}
}

// After a fatal error the producer is replaced and the unsent set sent again.
func TestAFatalProducerErrorIsSurvived(t *testing.T) {
	f := setup(t)
	f.state("o-1", 3)
	var once sync.Once
	f.start(f.relay(func(r *Relay) {
		r.hooks.read = func(o *owner) error {
			once.Do(func() { o.producer.TestFatalError(ck.ErrOutOfOrderSequenceNumber, "made up") })
			return nil
		}
	}))
	f.drained()
	f.state("o-1", 1)
	f.drained()
	f.checkTotals()
	if sent := f.sent(); !slices.Contains(sent, "o-1/4") {
		t.Errorf("sent: %v", sent)
	}
}

// A topic with another number of partitions than the journal computed is
// refused; nothing is sent into wrong partitions.
func TestAnotherPartitionCountIsRefused(t *testing.T) {
	f := setup(t)
	f.state("o-1", 1)
	refused := make(chan string, 100)
	f.start(f.relay(func(r *Relay) {
		r.cfg.Kafka.Partitions = 4
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			select {
			case refused <- string(p):
			default:
			}
		}), nil))
	}))
	if got := <-refused; !strings.Contains(got, "8 partitions, configured are 4") {
		t.Errorf("log: %s", got)
	}
	if f.unsent() != 1 {
		t.Error("the event left the unsent set")
	}
}
