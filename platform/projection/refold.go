package projection

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A refold rebuilds one order from the journals: its state, its versions and
// its log entries. Rows change by difference. The position does not move, and
// facts that were not counted before are counted now, as for any fact that
// comes ahead of the reader. What no journal has any more disappears.

// errMoved says that an order changed while its journals were read.
var errMoved = errors.New("the order moved while its journals were read")

const refoldTries = 5

// refold rebuilds an order.
func (p *Projection[S]) refold(ctx context.Context, id string) error {
	partition := event.PartitionOf(id, p.cfg.Kafka.PartitionCount())
	for try := 1; ; try++ {
		seen, err := p.versionsOf(ctx, id)
		if err != nil {
			return err
		}
		var facts []event.Fact
		for _, key := range slices.Sorted(maps.Keys(seen)) {
			some, err := p.history(ctx, id, aggregateOf(key))
			if err != nil {
				return err
			}
			facts = append(facts, some...)
		}
		err = p.hold(ctx, partition, func(h *held[S]) error { return h.refold(ctx, id, seen, facts) })
		if errors.Is(err, errMoved) && try < refoldTries {
			continue
		}
		if err != nil {
			return fmt.Errorf("refold an order: %w", err)
		}
		return nil
	}
}

func aggregateOf(key string) event.Aggregate {
	typ, id, _ := strings.Cut(key, "/")
	return event.Aggregate{Type: typ, ID: id}
}

// versionsOf reads what is applied of an order.
func (p *Projection[S]) versionsOf(ctx context.Context, id string) (map[string]*fold.Applied, error) {
	var text []byte
	err := p.pool.QueryRow(ctx, oneState, id).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return map[string]*fold.Applied{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read applied versions: %w", err)
	}
	doc, err := fold.OpenVersions(text)
	return doc.Aggregates, err
}

// history fetches all of an aggregate from its owner.
func (p *Projection[S]) history(ctx context.Context, order string, a event.Aggregate) ([]event.Fact, error) {
	var all []event.Fact
	for {
		next := int64(len(all)) + 1
		facts, err := p.cfg.Journal.Events(ctx, a, next, next+healPage-1)
		if err != nil {
			return nil, fmt.Errorf("fetch from the owner: %w", err)
		}
		for _, f := range facts {
			if f.Key != order {
				return nil, nil // what is here under this order is not the owner's
			}
			if f.Version != int64(len(all))+1 {
				return nil, fmt.Errorf("the owner's journal of %s lacks version %d", a.Type, len(all)+1)
			}
			all = append(all, f)
		}
		if len(facts) < healPage {
			return all, nil
		}
	}
}

const (
	dropMember  = `DELETE FROM member WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
	dropOrder   = `DELETE FROM state WHERE order_id = $1`
	allWaiting  = `SELECT reference, aggregate_type, aggregate_id, version FROM parked WHERE order_id = $1`
	dropWaits   = `DELETE FROM parked WHERE reference = ANY($1::text[])`
	allHolds    = `DELETE FROM quarantine WHERE order_id = $1`
	trimEntries = `DELETE FROM %s AS t WHERE t.aggregate_type = $1 AND t.aggregate_id = $2 AND NOT EXISTS (
		SELECT FROM unnest($3::text[], $4::bigint[], $5::text[]) AS u(epoch, version, event_id)
		WHERE u.epoch = t.epoch AND u.version = t.version AND u.event_id = t.event_id)`
)

// refold replaces an order by what the facts make of a new one.
func (h *held[S]) refold(ctx context.Context, id string, seen map[string]*fold.Applied, facts []event.Fact) error {
	loaded, err := h.load(ctx, []string{id})
	if err != nil {
		return err
	}
	old, fresh := loaded[id], fold.NewOrder[S](id)
	if !sameVersions(old.Applied, seen) {
		return errMoved
	}
	waiting, err := h.waitingOf(ctx, id)
	if err != nil {
		return err
	}
	inputs := make([]fold.Input, len(facts))
	for i, f := range facts {
		if inputs[i] = (fold.Input{Fact: f}); f.Body == nil {
			inputs[i].Err = errUnreadable
		}
	}
	out, err := h.p.engine.Run(fresh, inputs)
	if err != nil {
		return err
	}
	h.skip(id, skippedOf(old.Applied), skippedOf(fresh.Applied))
	h.count(old, facts, waiting)
	h.replace(old, fresh, out, facts)
	var done []string
	for _, w := range waiting {
		record := fresh.Applied[w.aggregate.String()]
		if record == nil || w.version <= record.Version {
			done = append(done, w.reference)
		} else if record.Parked == "" { // the journal was read before this came
			record.Parked = fold.Gap
			out.Quarantined = append(out.Quarantined, fold.Quarantine{
				Aggregate: w.aggregate, Order: id, Verdict: fold.Gap, Reason: "it came while the order was refolded",
			})
			out.Touched[w.aggregate.String()] = w.aggregate
		}
	}
	h.batch.Queue(dropWaits, done)
	return h.store(fresh, out)
}

// replace takes the old order's rows away by difference, and what its journals
// do not have.
func (h *held[S]) replace(old, fresh *fold.Order[S], out *fold.Outcome, facts []event.Fact) {
	out.Before = h.p.engine.Derive(old)
	if len(fresh.Applied) == 0 {
		out.After = make([]map[string]fold.Row, len(out.Before))
	} else {
		out.After = h.p.engine.Derive(fresh)
	}
	out.Dirty = true
	if out.Touched == nil {
		out.Touched = map[string]event.Aggregate{}
	}
	for key := range old.Applied {
		a := aggregateOf(key)
		var epochs, ids []string
		var versions []int64
		for _, f := range facts {
			if f.Aggregate == a {
				epochs, versions, ids = append(epochs, f.Epoch), append(versions, f.Version), append(ids, f.ID)
			}
		}
		for _, log := range h.p.view.Specs()[len(h.p.view.Tables):] {
			h.before.Queue(fmt.Sprintf(trimEntries, log.Name), a.Type, a.ID, epochs, versions, ids)
		}
		if fresh.Applied[key] == nil {
			h.batch.Queue(dropMember, a.Type, a.ID, old.ID)
		}
	}
	h.before.Queue(allHolds, old.ID)
}

// store writes the order, or removes it if nothing is left of it.
func (h *held[S]) store(fresh *fold.Order[S], out *fold.Outcome) (err error) {
	if out.Encoded, err = fresh.Encode(); err != nil {
		return err
	}
	if err := out.Encoded.Check(); err != nil {
		return err
	}
	h.delta.Merge(fresh.ID, out, fresh.Applied)
	if len(fresh.Applied) == 0 {
		h.batch.Queue(dropOrder, fresh.ID)
	}
	return nil
}

// count adds those facts of a refolded order that were never counted: not
// applied under their epoch before, and not waiting.
func (h *held[S]) count(old *fold.Order[S], facts []event.Fact, waiting map[string]waitingFact) {
	for _, f := range facts {
		it := item{fact: f}
		if _, waits := waiting[it.reference(h.number)]; !waits && !old.Applied[f.Aggregate.String()].Covers(f.Envelope) {
			h.at.books.Count(f.Envelope)
		}
	}
}

// waitingFact is a parked reference of an order.
type waitingFact struct {
	reference string
	aggregate event.Aggregate
	version   int64
}

func (h *held[S]) waitingOf(ctx context.Context, id string) (map[string]waitingFact, error) {
	rows, err := h.tx.Query(ctx, allWaiting, id)
	if err != nil {
		return nil, fmt.Errorf("look for what waits: %w", err)
	}
	waiting := map[string]waitingFact{}
	var w waitingFact
	_, err = pgx.ForEachRow(rows, []any{&w.reference, &w.aggregate.Type, &w.aggregate.ID, &w.version}, func() error {
		waiting[w.reference] = w
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for what waits: %w", err)
	}
	return waiting, nil
}

func sameVersions(a, b map[string]*fold.Applied) bool {
	return maps.EqualFunc(a, b, func(x, y *fold.Applied) bool {
		return x.Epoch == y.Epoch && x.Version == y.Version && string(x.Recent) == string(y.Recent)
	})
}
