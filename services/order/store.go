package order

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

// table says how orders are stored: the state as JSON, beside it the columns
// that lists need, and what the process learned that commands must respect. It is
// a column of the same row, so that a command that waited for the lock sees it.
var table = journal.Table[Order]{
	Type: "order",
	New:  func(id string) *Order { return &Order{ID: id} },
	Key:  func(o *Order) string { return o.ID },
	Lock: `SELECT version, epoch, event_id, recorded_at, state || jsonb_build_object('DispatchKnown', dispatched) FROM orders WHERE id = $1 FOR UPDATE`,
	Save: func(batch *pgx.Batch, o *Order, h journal.Head, isNew bool) {
		if isNew {
			batch.Queue(`
				INSERT INTO orders (id, customer_id, state_name, created_at, version, epoch, event_id, recorded_at, state)
				VALUES ($1, $2, $3, $7, $4, $5, $6, $7, $8)`,
				o.ID, o.CustomerID, string(o.State), h.Version, h.Epoch, h.EventID, h.RecordedAt, o)
			return
		}
		batch.Queue(`
			UPDATE orders SET state_name = $2, version = $3, epoch = $4, event_id = $5, recorded_at = $6, state = $7 WHERE id = $1`,
			o.ID, string(o.State), h.Version, h.Epoch, h.EventID, h.RecordedAt, o)
	},
}

// stored is an order with its head, as it was read.
type stored struct {
	*Order
	journal.Head
	createdAt time.Time
}

// get reads one order, or says NotFound.
func get(ctx context.Context, pool *pgxpool.Pool, id string) (stored, error) {
	s := stored{Order: &Order{}}
	err := pool.QueryRow(ctx, `SELECT version, epoch, event_id, recorded_at, state FROM orders WHERE id = $1`, id).
		Scan(&s.Version, &s.Epoch, &s.EventID, &s.RecordedAt, s.Order)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.NotFound("order", id)
	}
	if err != nil {
		return s, fmt.Errorf("read order: %w", err)
	}
	return s, nil
}

// filter selects orders; empty fields select all. A page starts after position.
type filter struct {
	customerID string
	states     []string
	after      *position
	limit      int
}

// position is where a page ended. Both parts of it never change.
type position struct {
	CreatedAt time.Time
	ID        string
}

// list reads orders, newest first.
func list(ctx context.Context, pool *pgxpool.Pool, f filter) ([]stored, error) {
	sql, args := `SELECT created_at, version, epoch, event_id, recorded_at, state FROM orders WHERE true`, []any{}
	where := func(condition string, values ...any) {
		args = append(args, values...)
		sql += " AND " + condition
	}
	if f.customerID != "" {
		where(fmt.Sprintf("customer_id = $%d", len(args)+1), f.customerID)
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
		return nil, fmt.Errorf("list orders: %w", err)
	}
	orders, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stored, error) {
		s := stored{Order: &Order{}}
		err := row.Scan(&s.createdAt, &s.Version, &s.Epoch, &s.EventID, &s.RecordedAt, s.Order)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return orders, nil
}
