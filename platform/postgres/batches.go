package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BatchTx is a transaction in which every batch is one round trip: BEGIN
// travels with the first, COMMIT with the last. Two round trips are the least
// for a transaction that reads before it writes, and what a server spends on a
// small transaction is mostly waking up.
type BatchTx struct {
	conn  *pgxpool.Conn
	begun bool
	done  bool
}

// InBatches runs fn inside one READ COMMITTED transaction. Nothing is stored
// unless fn calls [BatchTx.Commit]; if it does not, or returns an error, the
// transaction is rolled back. Conflicts and unknown outcomes are handled as by
// [InTx], so fn may run again and must have no effect but through tx.
func InBatches(ctx context.Context, pool *pgxpool.Pool, fn func(tx *BatchTx) error) error {
	return retried(ctx, func() error { return tryBatches(ctx, pool, fn) })
}

func tryBatches(ctx context.Context, pool *pgxpool.Pool, fn func(*BatchTx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	tx := &BatchTx{conn: conn}
	defer tx.end(ctx)
	return fn(tx)
}

// Send runs a batch. Results go to the callbacks of its queued queries.
func (tx *BatchTx) Send(ctx context.Context, b *pgx.Batch) error {
	tx.open(b)
	return tx.conn.SendBatch(ctx, b).Close()
}

// Commit runs a batch and commits. When the callbacks of this batch see their
// results the server has committed already: they cannot stop it any more.
func (tx *BatchTx) Commit(ctx context.Context, b *pgx.Batch) error {
	tx.open(b)
	b.Queue("COMMIT")
	err := tx.conn.SendBatch(ctx, b).Close()
	if err == nil {
		tx.done = true
		return nil
	}
	if WasRefused(err) {
		return err // a statement was, and with it all that follow
	}
	return fmt.Errorf("commit: %w: %w", ErrCommitUnknown, err)
}

// open puts BEGIN in front of the first batch.
func (tx *BatchTx) open(b *pgx.Batch) {
	if tx.begun {
		return
	}
	tx.begun = true
	var first pgx.Batch
	first.Queue("BEGIN")
	b.QueuedQueries = slices.Insert(b.QueuedQueries, 0, first.QueuedQueries[0])
}

// end rolls back what was not committed. The caller's context may be the
// reason, so the rollback gets one of its own; a connection on which it fails
// is closed by its release.
func (tx *BatchTx) end(ctx context.Context) {
	defer tx.conn.Release()
	if tx.done || tx.conn.Conn().IsClosed() || tx.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_, _ = tx.conn.Exec(bounded, "ROLLBACK")
}
