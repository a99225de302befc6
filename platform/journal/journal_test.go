package journal_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// thing is the aggregate of these tests: it is held again and again.
type thing struct {
	ID    string
	Holds int
}

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
		b.Queue(`UPDATE things SET version = $2, epoch = $3, event_id = $4, recorded_at = $5, state = $6 WHERE id = $1`,
			s.ID, h.Version, h.Epoch, h.EventID, h.RecordedAt, s)
	},
}

func open(t testing.TB) *journal.Journal {
	t.Helper()
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(t.Context(), testkit.Postgres(t), journal.Config{Source: "order", Partitions: 8, Codec: codec})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, j.Pool(), `CREATE TABLE things (id text PRIMARY KEY, version bigint, epoch text, event_id text, recorded_at timestamptz, state jsonb)`)
	return j
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// hold states n holds of one thing.
func hold(ctx context.Context, j *journal.Journal, requestID, id, reason string, n int) (*journalpb.GetEventsResponse, bool, error) {
	req := journal.Request{
		ID: requestID, Method: "Hold", AggregateID: id,
		Message: &journalpb.GetEventsRequest{AggregateType: reason, AggregateId: id},
	}
	return journal.Execute(ctx, j, &things, req,
		func(s *thing, now time.Time) ([]journal.Fact, error) {
			if reason == "refuse" {
				return nil, fault.IllegalTransition("thing", "HELD", "Hold")
			}
			if reason == "create" && s.Holds > 0 {
				return nil, fault.AlreadyExists("thing", id)
			}
			var stated []journal.Fact
			for range n {
				s.Holds++
				stated = append(stated, journal.Fact{Body: &facts.OrderHeld{OrderID: id, CustomerID: "c", Actor: "t", Reason: reason}})
			}
			return stated, nil
		},
		func(s *thing, h journal.Head) *journalpb.GetEventsResponse {
			return &journalpb.GetEventsResponse{NextVersion: h.Version, Events: []*journalpb.JournalEvent{{Id: h.EventID}}}
		})
}

func mustHold(t testing.TB, j *journal.Journal, id string, n int) *journalpb.GetEventsResponse {
	t.Helper()
	answer, _, err := hold(t.Context(), j, uuid.NewString(), id, "why", n)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// blockedSessions waits until n sessions of this database wait for a lock.
func blockedSessions(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	eventually(t, func() bool {
		return query[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}

func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	ticker, timeout := time.NewTicker(2*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal("the condition did not come true")
		}
	}
}

func TestACommandTakesEffectOnce(t *testing.T) {
	j := open(t)
	id := uuid.NewString()
	first, _, err := hold(t.Context(), j, id, "o-1", "why", 2)
	if err != nil {
		t.Fatal(err)
	}
	again, replayed, err := hold(t.Context(), j, id, "o-1", "why", 2)
	if err != nil || !replayed {
		t.Fatalf("replayed = %v, err = %v", replayed, err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Error("the second answer differs:", diff)
	}
	if _, _, err = hold(t.Context(), j, id, "o-1", "other body", 2); fault.ReasonOf(err) != fault.ReasonRequestIDReused {
		t.Errorf("another body: %v", err)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM journal`); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM outbox o JOIN journal j USING (sequence, partition)`); n != 2 {
		t.Errorf("%d unsent, want 2", n)
	}
}

func TestARefusedCommandLeavesNothing(t *testing.T) {
	j := open(t)
	id := uuid.NewString()
	if _, _, err := hold(t.Context(), j, id, "o-1", "refuse", 1); fault.KindOf(err) != fault.KindFailedPrecondition {
		t.Fatal(err)
	}
	if n := query[int](t, j.Pool(), `SELECT (SELECT count(*) FROM idempotency) + (SELECT count(*) FROM journal) + (SELECT count(*) FROM things)`); n != 0 {
		t.Errorf("%d rows were left", n)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'`); n != 0 {
		t.Errorf("%d transactions were left open", n)
	}
}

// Two commits of one request id race; the first is held in flight. A SELECT
// would find nothing there; the insert waits.
func TestTheSameRequestWhileTheFirstIsInFlight(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-1", 1)
	blocker, err := j.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `SELECT 1 FROM things WHERE id = 'o-1' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	type result struct {
		answer   *journalpb.GetEventsResponse
		replayed bool
		err      error
	}
	results := make(chan result, 2)
	id := uuid.NewString()
	start := func() {
		answer, replayed, err := hold(context.Background(), j, id, "o-1", "why", 1)
		results <- result{answer, replayed, err}
	}
	go start()
	blockedSessions(t, j.Pool(), 1) // waits for the thing
	if _, found, err := journal.Recall[*journalpb.GetEventsResponse](t.Context(), j, journal.Request{ID: id, Method: "Hold",
		Message: &journalpb.GetEventsRequest{AggregateType: "why", AggregateId: "o-1"}}); found || err != nil {
		t.Fatalf("a SELECT sees the request in flight: %v, %v", found, err)
	}
	go start()
	blockedSessions(t, j.Pool(), 2) // waits for the first
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b := <-results, <-results
	if a.err != nil || b.err != nil || a.replayed == b.replayed {
		t.Fatalf("a = %+v, b = %+v", a, b)
	}
	if diff := cmp.Diff(a.answer, b.answer, protocmp.Transform()); diff != "" {
		t.Error("two answers:", diff)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM journal`); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

// Sequences are drawn after the lock, so they rise with the version.
func TestSequenceOrderIsVersionOrder(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-0", 1)
	var wg sync.WaitGroup
	for w := range 12 {
		wg.Go(func() {
			for i := range 40 {
				if _, _, err := hold(t.Context(), j, uuid.NewString(), fmt.Sprintf("o-%d", i%2), "why", 1+w%3); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	inverted := query[int](t, j.Pool(), `SELECT count(*) FROM (
		SELECT sequence < lag(sequence) OVER (PARTITION BY aggregate_id ORDER BY version) AS inverted,
		       version <> row_number() OVER (PARTITION BY aggregate_id ORDER BY version) AS hole,
		       recorded_at < lag(recorded_at) OVER (PARTITION BY aggregate_id ORDER BY version) AS back FROM journal) x
		WHERE inverted OR hole OR back`)
	if inverted != 0 {
		t.Errorf("%d events are out of order", inverted)
	}
	if a, b := query[int64](t, j.Pool(), `SELECT max(version) FROM journal WHERE aggregate_id = 'o-0'`),
		query[int64](t, j.Pool(), `SELECT (state->>'Holds')::bigint FROM things WHERE id = 'o-0'`); a != b {
		t.Errorf("journal has %d, the state %d", a, b)
	}
}

func TestOfTwoCreationsOneWins(t *testing.T) {
	j := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[fault.Reason]int{}
	for range 8 {
		wg.Go(func() {
			_, _, err := hold(t.Context(), j, uuid.NewString(), "o-1", "create", 1)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				outcomes["ok"]++
			} else {
				outcomes[fault.ReasonOf(err)]++
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[fault.Reason]int{"ok": 1, fault.ReasonAlreadyExists: 7}, outcomes); diff != "" {
		t.Error(diff)
	}
}

func TestRecordedAtNeverGoesBack(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-1", 1)
	exec(t, j.Pool(), `UPDATE things SET recorded_at = '2099-01-01'`)
	mustHold(t, j, "o-1", 1)
	if at := query[time.Time](t, j.Pool(), `SELECT recorded_at FROM journal WHERE version = 2`); at.Year() != 2099 {
		t.Errorf("recorded at %s", at)
	}
}

// A broken connection leaves the outcome unknown; the command runs again with
// the same request id.
func TestABrokenConnectionIsResolvedByRunningAgain(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-1", 1)
	blocker, err := j.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `SELECT 1 FROM things WHERE id = 'o-1' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := hold(context.Background(), j, uuid.NewString(), "o-1", "why", 1)
		done <- err
	}()
	blockedSessions(t, j.Pool(), 1)
	exec(t, j.Pool(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	blockedSessions(t, j.Pool(), 1) // it is back
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM journal`); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

func TestAnOversizeFactIsRefusedAtCommandTime(t *testing.T) {
	j := open(t)
	huge := string(make([]rune, 0)) + fmt.Sprintf("%0300000d", 1)
	_, _, err := hold(t.Context(), j, uuid.NewString(), "o-1", huge, 1)
	if fault.ReasonOf(err) != fault.ReasonTooLarge {
		t.Errorf("err = %.200v", err)
	}
}

func TestCauseAndTraceAreCapturedAtCommandTime(t *testing.T) {
	j := open(t)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	if _, _, err := hold(rpc.WithCause(ctx, rpc.Cause{CausationID: "ev-1", CorrelationID: "conv-1"}), j, uuid.NewString(), "o-1", "why", 1); err != nil {
		t.Fatal(err)
	}
	id := uuid.NewString()
	if _, _, err := hold(t.Context(), j, id, "o-1", "why", 1); err != nil {
		t.Fatal(err)
	}
	rows := list(t, j, &journalpb.ListEventsRequest{Partition: event.PartitionOf("o-1", 8)})
	if len(rows) != 2 {
		t.Fatalf("%d events", len(rows))
	}
	a, b := rows[0], rows[1]
	if a.GetTraceparent() != "00-01000000000000000000000000000000-0200000000000000-01" || a.GetCausationId() != "ev-1" || a.GetCorrelationId() != "conv-1" {
		t.Errorf("a = %v", a)
	}
	if b.GetTraceparent() != "" || b.GetCausationId() != id || b.GetCorrelationId() != "o-1" {
		t.Errorf("b = %v", b)
	}
}

func TestTheFirstEpochIsMintedOnce(t *testing.T) {
	j := open(t)
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(t.Context(), j.Pool(), journal.Config{Source: "order", Partitions: 8, Codec: codec}); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM source_epoch WHERE system_identifier IS NOT NULL AND timeline > 0`); n != 1 {
		t.Errorf("%d epochs", n)
	}
	epoch := query[string](t, j.Pool(), `SELECT epoch FROM source_epoch`)
	mustHold(t, j, "o-1", 1)
	if got := query[string](t, j.Pool(), `SELECT epoch FROM journal`); got != epoch {
		t.Errorf("event of epoch %q in %q", got, epoch)
	}
}

func TestOldAnswersAreForgotten(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-1", 1)
	exec(t, j.Pool(), `UPDATE idempotency SET created_at = created_at - interval '31 days'`)
	mustHold(t, j, "o-1", 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Prune(ctx) }()
	eventually(t, func() bool { return query[int](t, j.Pool(), `SELECT count(*) FROM idempotency`) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
