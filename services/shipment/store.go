package shipment

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

// table says how shipments are stored: the state as JSON, beside it the columns
// that lists need.
var table = journal.Table[Shipment]{
	Type: "shipment",
	New:  func(id string) *Shipment { return &Shipment{ID: id} },
	Key:  func(s *Shipment) string { return s.OrderID },
	Lock: `SELECT version, epoch, event_id, recorded_at, state FROM shipments WHERE id = $1 FOR UPDATE`,
	Save: func(batch *pgx.Batch, s *Shipment, h journal.Head, isNew bool) {
		if isNew {
			batch.Queue(`
				INSERT INTO shipments (id, order_id, fulfilment, state_name, created_at, version, epoch, event_id, recorded_at, state)
				VALUES ($1, $2, $3, $4, $8, $5, $6, $7, $8, $9)`,
				s.ID, s.OrderID, string(s.Fulfilment), string(s.State), h.Version, h.Epoch, h.EventID, h.RecordedAt, s)
			return
		}
		batch.Queue(`
			UPDATE shipments SET state_name = $2, version = $3, epoch = $4, event_id = $5, recorded_at = $6, state = $7 WHERE id = $1`,
			s.ID, string(s.State), h.Version, h.Epoch, h.EventID, h.RecordedAt, s)
	},
}

// stored is a shipment with its head, as it was read.
type stored struct {
	*Shipment
	journal.Head
	createdAt time.Time
}

// get reads one shipment, or says NotFound.
func get(ctx context.Context, pool *pgxpool.Pool, id string) (stored, error) {
	s := stored{Shipment: &Shipment{}}
	err := pool.QueryRow(ctx, `SELECT version, epoch, event_id, recorded_at, state FROM shipments WHERE id = $1`, id).
		Scan(&s.Version, &s.Epoch, &s.EventID, &s.RecordedAt, s.Shipment)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.NotFound("shipment", id)
	}
	if err != nil {
		return s, fmt.Errorf("read shipment: %w", err)
	}
	return s, nil
}

// filter selects shipments; empty fields select all. A page starts after position.
type filter struct {
	orderID    string
	fulfilment string
	states     []string
	after      *position
	limit      int
}

// position is where a page ended. Both parts of it never change.
type position struct {
	CreatedAt time.Time
	ID        string
}

// list reads shipments, newest first.
func list(ctx context.Context, pool *pgxpool.Pool, f filter) ([]stored, error) {
	sql, args := `SELECT created_at, version, epoch, event_id, recorded_at, state FROM shipments WHERE true`, []any{}
	where := func(condition string, values ...any) {
		args = append(args, values...)
		sql += " AND " + condition
	}
	if f.orderID != "" {
		where(fmt.Sprintf("order_id = $%d", len(args)+1), f.orderID)
	}
	if f.fulfilment != "" {
		where(fmt.Sprintf("fulfilment = $%d", len(args)+1), f.fulfilment)
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
		return nil, fmt.Errorf("list shipments: %w", err)
	}
	shipments, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stored, error) {
		s := stored{Shipment: &Shipment{}}
		err := row.Scan(&s.createdAt, &s.Version, &s.Epoch, &s.EventID, &s.RecordedAt, s.Shipment)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list shipments: %w", err)
	}
	return shipments, nil
}
