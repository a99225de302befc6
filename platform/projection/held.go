package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// held is a transaction that holds a position row. It is how anybody but the
// reader changes what a partition has. The offsets do not move; the revision
// does, so that the owner of the partition drops the states it has in memory.
type held[S any] struct {
	p      *Projection[S]
	tx     pgx.Tx
	number int32
	at     position
	delta  *fold.Delta
	before *pgx.Batch // statements that run before those of the delta
	batch  *pgx.Batch // and after
	noted  bool       // the books changed although no order did
	// reopened is an aggregate whose facts are to be tried again; may be nil.
	reopened *gap
	skips    bool             // the one that it stands still at is given up
	skipped  map[string]int64 // how many facts of orders are given up now, where that changed
}

// hold runs fn under the lock of a position and writes what it changed. fn may
// run more than once.
func (p *Projection[S]) hold(ctx context.Context, number int32, fn func(h *held[S]) error) error {
	var h *held[S]
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		locked, err := p.scanPosition(tx.QueryRow(ctx, lockPosition, number))
		if err != nil {
			return err
		}
		h = &held[S]{p: p, tx: tx, number: number, at: locked, delta: p.engine.NewDelta(), before: &pgx.Batch{}, batch: &pgx.Batch{}, skipped: map[string]int64{}}
		if err := fn(h); err != nil {
			return err
		}
		return h.write(ctx)
	})
	if err != nil {
		return asRefusal(err)
	}
	p.tell(ctx, h.delta)
	return nil
}

const (
	keepPosition = `UPDATE position SET revision = revision + 1, books = $2 WHERE partition = $1`
	keepSkipped  = `UPDATE position SET skipped = CASE WHEN $3::bigint = 0 THEN skipped - $2::text ELSE skipped || jsonb_build_object($2::text, $3::bigint) END
		WHERE partition = $1`
)

func (h *held[S]) write(ctx context.Context) error {
	if len(h.delta.States) == 0 && h.batch.Len() == 0 && !h.noted {
		return nil
	}
	sealed, err := h.at.seal()
	if err != nil {
		return err
	}
	batch := h.before
	queueDelta(batch, h.delta, h.p.sql, h.number, h.p.own.version)
	batch.QueuedQueries = append(batch.QueuedQueries, h.batch.QueuedQueries...)
	for id, n := range h.skipped {
		batch.Queue(keepSkipped, h.number, id, n)
	}
	batch.Queue(keepPosition, h.number, sealed)
	if err := h.tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write under the position's lock: %w", err)
	}
	return nil
}

// load reads orders; those that do not exist are new.
func (h *held[S]) load(ctx context.Context, ids []string) (map[string]*fold.Order[S], error) {
	orders := make(map[string]*fold.Order[S], len(ids))
	for _, id := range ids {
		orders[id] = fold.NewOrder[S](id)
	}
	rows, err := h.tx.Query(ctx, selectStates, ids)
	if err != nil {
		return nil, fmt.Errorf("load states: %w", err)
	}
	var id string
	var bytes fold.Encoded
	_, err = pgx.ForEachRow(rows, []any{&id, &bytes.State, &bytes.Applied}, func() (err error) {
		orders[id], err = fold.OpenOrder[S](id, fold.Encoded{State: slices.Clone(bytes.State), Applied: slices.Clone(bytes.Applied)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load states: %w", err)
	}
	return orders, nil
}

var errForeignPartition = errors.New("a journal has a fact in another partition than its order's")

// feed runs facts of a journal through the verdicts, counts those that were not
// counted, and lets go of gaps that are filled. It returns how many it counted.
func (h *held[S]) feed(ctx context.Context, facts []event.Fact) (fed int, err error) {
	var ids []string
	items := make([]item, len(facts))
	inputs := map[string][]fold.Input{}
	for i, f := range facts {
		if event.PartitionOf(f.Key, h.p.cfg.Kafka.PartitionCount()) != h.number {
			return 0, errForeignPartition
		}
		items[i] = item{kind: itemFact, fact: f, fresh: true}
		if inputs[f.Key] == nil {
			ids = append(ids, f.Key)
		}
		in := fold.Input{Fact: f, Given: &items[i].given}
		if f.Body == nil {
			in.Err = errUnreadable
		}
		inputs[f.Key] = append(inputs[f.Key], in)
	}
	orders, err := h.load(ctx, ids)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		o := orders[id]
		skipped := skippedOf(o.Applied)
		if h.reopened != nil && h.reopened.order == id {
			if err := h.open(o, h.reopened.aggregate); err != nil {
				return 0, err
			}
		}
		out, err := h.p.engine.Run(o, inputs[id])
		if err != nil {
			return 0, err
		}
		if err := h.release(ctx, o, out); err != nil {
			return 0, err
		}
		h.skip(id, skipped, skippedOf(o.Applied))
		h.delta.Merge(id, out, o.Applied)
	}
	known, err := knownParked(items, h.number, func(batch *pgx.Batch) error { return h.tx.SendBatch(ctx, batch).Close() })
	if err != nil {
		return 0, err
	}
	for i := range items {
		if tally(&h.at.books, &items[i], h.number, known) {
			fed++
		}
	}
	return fed, nil
}

const (
	lastWaiting = `SELECT coalesce(max(version), 0) FROM parked
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
	dropWaiting = `DELETE FROM parked WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 AND epoch <= $4 AND version <= $5`
	dropHold    = `DELETE FROM quarantine WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
)

// release lets go of the aggregates among those touched whose gap is filled.
func (h *held[S]) release(ctx context.Context, o *fold.Order[S], out *fold.Outcome) error {
	freed := false
	for key, a := range out.Touched {
		record := o.Applied[key]
		if record.Parked == "" {
			continue
		}
		h.batch.Queue(dropWaiting, a.Type, a.ID, o.ID, record.Epoch, record.Version)
		if record.Parked != fold.Gap {
			continue
		}
		last := int64(0)
		if err := h.tx.QueryRow(ctx, lastWaiting, a.Type, a.ID, o.ID).Scan(&last); err != nil {
			return fmt.Errorf("look for the last waiting version: %w", err)
		}
		for _, f := range out.Parked {
			if f.Token.Aggregate == a {
				last = max(last, f.Token.Version)
			}
		}
		if record.Version >= last {
			record.Parked, freed = "", true
			h.batch.Queue(dropHold, a.Type, a.ID, o.ID)
		}
	}
	if !freed {
		return nil
	}
	var err error
	out.Encoded, err = o.Encode()
	return err
}
