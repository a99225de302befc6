package payment

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/fault"
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

// stored is a payment with its head, as it was read.
type stored struct {
	*Payment
	journal.Head
	createdAt time.Time
}

// get reads one payment, or says NotFound.
func get(ctx context.Context, pool *pgxpool.Pool, id string) (stored, error) {
	p := stored{Payment: &Payment{}}
	err := pool.QueryRow(ctx, `SELECT version, epoch, event_id, recorded_at, state FROM payments WHERE id = $1`, id).
		Scan(&p.Version, &p.Epoch, &p.EventID, &p.RecordedAt, p.Payment)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fault.NotFound("payment", id)
	}
	if err != nil {
		return p, fmt.Errorf("read payment: %w", err)
	}
	return p, nil
}

// filter selects payments; empty fields select all. A page starts after position.
type filter struct {
	orderID string
	states  []string
	after   *position
	limit   int
}

// position is where a page ended. Both parts of it never change.
type position struct {
	CreatedAt time.Time
	ID        string
}

// list reads payments, newest first.
func list(ctx context.Context, pool *pgxpool.Pool, f filter) ([]stored, error) {
	sql, args := `SELECT created_at, version, epoch, event_id, recorded_at, state FROM payments WHERE true`, []any{}
	where := func(condition string, values ...any) {
		args = append(args, values...)
		sql += " AND " + condition
	}
	if f.orderID != "" {
		where(fmt.Sprintf("order_id = $%d", len(args)+1), f.orderID)
	}
	if len(f.states) > 0 {
		where(fmt.Sprintf("state_name = ANY ($%d)", len(args)+1), f.states)
	}
	if f.after != nil {
		where(fmt.Sprintf("(created_at, id) < ($%d, $%d)", len(args)+1, len(args)+2), f.after.CreatedAt, f.after.ID)
	}
	sql += fmt.Sprintf(" ORDER BY created_at DESC, id DESC LIMIT $%d", len(args)+1)
	rows, err := pool.Query(ctx, sql, append(args, f.limit)...)
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	payments, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stored, error) {
		p := stored{Payment: &Payment{}}
		err := row.Scan(&p.createdAt, &p.Version, &p.Epoch, &p.EventID, &p.RecordedAt, p.Payment)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return payments, nil
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
