package order

import (
	"embed"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/journal"
)

//go:embed migrations/*.sql
var migrations embed.FS

// aggregateType is the type of the aggregate in envelopes and tokens.
const aggregateType = "order"

// table says how orders are stored: the state as JSON, beside it the columns
// that lists need, and what the process learned that commands must respect. It is
// a column of the same row, so that a command that waited for the lock sees it.
var table = journal.Table[Order]{
	Type: aggregateType,
	Name: "orders",
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
