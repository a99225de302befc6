package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// RequestMemory is how long the answer to a request id is remembered.
const RequestMemory = 30 * 24 * time.Hour

const (
	lookEvery   = 10 * time.Second
	forgetEvery = 10 * time.Minute
	// outboxLimit is how large the outbox may be with few rows in it. A read of
	// the unsent set passes every dead row.
	outboxLimit = 4 << 20
	// outboxKept is how many live rows are few.
	outboxKept = 5_000
	// outboxPatience bounds how long commands wait behind the wish for the lock.
	outboxPatience = "50ms"
)

// Prune is the journal's housekeeping until ctx ends: it forgets answers older
// than RequestMemory and relays that are gone, and keeps the outbox small. It
// never forgets answers to name-based request ids (UUID version 5): a process
// makes such an id from its own name and that of its step, so it may come again
// as long as the process is open; once it has ended, it says so itself
// ([RequestServer.ForgetRequests]). Its failures are logged: they cost disk and
// time, never a command.
func (j *Journal) Prune(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var forgot time.Time
	for {
		var err error
		if time.Since(forgot) >= forgetEvery {
			forgot = time.Now()
			err = j.forget(ctx)
		}
		if err = errors.Join(err, j.shrinkOutbox(ctx, outboxLimit)); err != nil && ctx.Err() == nil {
			j.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "housekeeping failed", slog.String("source", j.cfg.Source), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (j *Journal) forget(ctx context.Context) error {
	if _, err := j.pool.Exec(ctx, `DELETE FROM relay_member WHERE expires_at < clock_timestamp() - interval '1 hour'`); err != nil {
		return fmt.Errorf("forget relays: %w", err)
	}
	const chunk = 5_000
	for {
		tag, err := j.pool.Exec(ctx, `
			DELETE FROM idempotency WHERE request_id IN (
				SELECT request_id FROM idempotency
				 WHERE created_at < clock_timestamp() - $1::interval AND substr(request_id, 15, 1) <> '5' LIMIT $2)`, RequestMemory, chunk)
		if err != nil {
			return fmt.Errorf("prune request ids: %w", err)
		}
		if tag.RowsAffected() < chunk {
			return nil
		}
	}
}

// shrinkOutbox starts the outbox's files anew when they are large and hold
// little. Vacuum does that too, but not while any transaction in the cluster
// holds an old snapshot (a long report, a dump, a forgotten session): then dead
// rows stay, and every read of the unsent set passes them. Whoever has written
// to the outbox and not committed keeps us from the lock, and nobody waits for
// it longer than outboxPatience: the next turn tries again.
//
// Nobody reads the outbox with an older snapshot than its own lock on it, so
// that the truncation is not transactional for such a reader hurts nobody.
func (j *Journal) shrinkOutbox(ctx context.Context, limit int64) error {
	var size int64
	if err := j.pool.QueryRow(ctx, `SELECT pg_total_relation_size('outbox')`).Scan(&size); err != nil {
		return fmt.Errorf("ask for the outbox's size: %w", err)
	}
	if size <= limit {
		return nil
	}
	err := postgres.InTx(ctx, j.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+outboxPatience+`'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		var partitions []int32
		var sequences []int64
		rows, err := tx.Query(ctx, `SELECT partition, sequence FROM outbox LIMIT $1`, outboxKept+1)
		if err != nil {
			return err
		}
		var p int32
		var s int64
		if _, err := pgx.ForEachRow(rows, []any{&p, &s}, func() error {
			partitions, sequences = append(partitions, p), append(sequences, s)
			return nil
		}); err != nil || len(sequences) > outboxKept { // a true backlog
			return err
		}
		if _, err := tx.Exec(ctx, `TRUNCATE outbox`); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO outbox (partition, sequence) SELECT * FROM unnest($1::integer[], $2::bigint[])`, partitions, sequences)
		return err
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.Code == lockNotAvailable:
		return nil
	case err != nil:
		return fmt.Errorf("shrink the outbox: %w", err)
	}
	return nil
}

const lockNotAvailable = "55P03"
