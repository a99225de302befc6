package shipment

import (
	"embed"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/journal"
)

//go:embed migrations/*.sql
var migrations embed.FS

// aggregateType is the type of the aggregate in envelopes and tokens.
const aggregateType = "shipment"

// table says how shipments are stored: the state as JSON, beside it the columns
// that lists need.
var table = journal.Table[Shipment]{
	Type: aggregateType,
	Name: "shipments",
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
