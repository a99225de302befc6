package payment

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/journal"
)

//go:embed migrations/*.sql
var migrations embed.FS

// aggregateType is the type of the aggregate in envelopes and tokens.
const aggregateType = "payment"

// newTable says how payments are stored: the state as JSON, beside it the
// columns that lists need, and when an unanswered attempt is made again.
func newTable(retryAfter time.Duration) *journal.Table[Payment] {
	return &journal.Table[Payment]{
		Type: aggregateType,
		Name: "payments",
		New:  func(id string) *Payment { return &Payment{ID: id} },
		Key:  func(p *Payment) string { return p.OrderID },
		Lock: `SELECT version, epoch, event_id, recorded_at, state FROM payments WHERE id = $1 FOR UPDATE`,
		Save: func(batch *pgx.Batch, p *Payment, h journal.Head, isNew bool) {
			var again *time.Duration
			if p.Attempt != nil {
				again = &retryAfter
			}
			if isNew {
				batch.Queue(`
					INSERT INTO payments (id, order_id, state_name, created_at, version, epoch, event_id, recorded_at, attempt_due, state)
					VALUES ($1, $2, $3, $7, $4, $5, $6, $7, clock_timestamp() + $8::interval, $9)`,
					p.ID, p.OrderID, string(p.State()), h.Version, h.Epoch, h.EventID, h.RecordedAt, again, p)
				return
			}
			batch.Queue(`
				UPDATE payments SET state_name = $2, version = $3, epoch = $4, event_id = $5, recorded_at = $6,
				       attempt_due = clock_timestamp() + $7::interval, state = $8 WHERE id = $1`,
				p.ID, string(p.State()), h.Version, h.Epoch, h.EventID, h.RecordedAt, again, p)
		},
	}
}

// claimOverdue returns payments whose call to the provider was never answered,
// and keeps others from taking them for a while.
func claimOverdue(ctx context.Context, pool *pgxpool.Pool, retryAfter time.Duration, limit int) ([]*Payment, error) {
	rows, err := pool.Query(ctx, `
		UPDATE payments SET attempt_due = clock_timestamp() + $1::interval
		 WHERE id IN (SELECT id FROM payments WHERE attempt_due < clock_timestamp() ORDER BY attempt_due LIMIT $2 FOR UPDATE SKIP LOCKED)
		RETURNING state`, retryAfter, limit)
	if err != nil {
		return nil, fmt.Errorf("claim unanswered attempts: %w", err)
	}
	payments, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Payment, error) {
		p := &Payment{}
		return p, row.Scan(p)
	})
	if err != nil {
		return nil, fmt.Errorf("claim unanswered attempts: %w", err)
	}
	return payments, nil
}
