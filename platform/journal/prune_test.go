package journal_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/journal"
)

// A report holds an old snapshot while events come and go. Vacuum may not take
// the dead rows; the outbox is small all the same, and holds what is unsent.
func TestTheOutboxStaysSmallUnderAHeldSnapshot(t *testing.T) {
	j := open(t)
	report, err := j.Pool().BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = report.Rollback(t.Context()) }()
	if _, err := report.Exec(t.Context(), `SET idle_in_transaction_session_timeout = 0`); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Exec(t.Context(), `SELECT count(*) FROM idempotency`); err != nil { // takes the snapshot
		t.Fatal(err)
	}
	for range 3 {
		exec(t, j.Pool(), `INSERT INTO outbox SELECT s % 8, s FROM generate_series(1000, 20000) s`)
		exec(t, j.Pool(), `DELETE FROM outbox`)
	}
	exec(t, j.Pool(), `VACUUM outbox`)
	mustHold(t, j, "o-1", 3)
	size := func() int64 { return query[int64](t, j.Pool(), `SELECT pg_total_relation_size('outbox')`) }
	large := size()
	if large < 3<<20 {
		t.Fatalf("only %d bytes before", large)
	}
	const limit = 1 << 20
	// A command that has written and not committed is not disturbed.
	tx, err := j.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO outbox VALUES (1, 500)`); err != nil {
		t.Fatal(err)
	}
	if err := j.ShrinkOutbox(t.Context(), limit); err != nil || size() < large {
		t.Errorf("beside a writer: %v, %d bytes", err, size())
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.ShrinkOutbox(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	if size() > limit/4 {
		t.Errorf("%d bytes", size())
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM outbox`); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
	// A true backlog stays where it is.
	exec(t, j.Pool(), `INSERT INTO outbox SELECT s % 8, s FROM generate_series(1000, 40000) s`)
	backlog := size()
	if err := j.ShrinkOutbox(t.Context(), limit); err != nil || size() != backlog {
		t.Errorf("a backlog of %d bytes: %v, %d bytes", backlog, err, size())
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM outbox`); n != 39_005 {
		t.Errorf("%d rows, want 39005", n)
	}
}

// Answers are forgotten after thirty days, and relays that are gone.
func TestHousekeepingForgets(t *testing.T) {
	j := open(t)
	mustHold(t, j, "o-1", 1)
	mustHold(t, j, "o-2", 1)
	exec(t, j.Pool(), `UPDATE idempotency SET created_at = clock_timestamp() - $1::interval - interval '1 second'
		WHERE request_id = (SELECT min(request_id) FROM idempotency)`, journal.RequestMemory)
	exec(t, j.Pool(), `INSERT INTO relay_member VALUES ('gone', clock_timestamp() - interval '2 hours'), ('here', clock_timestamp())`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Prune(ctx) }()
	eventually(t, func() bool {
		return query[int](t, j.Pool(), `SELECT count(*) FROM idempotency`) == 1 && query[int](t, j.Pool(), `SELECT count(*) FROM relay_member`) == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
