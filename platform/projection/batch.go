package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// batchRun is one transaction of a partition.
type batchRun[S any] struct {
	p       *Projection[S]
	pt      *partition[S]
	at      position
	delta   *fold.Delta
	marks   *completeness.Marks
	surplus map[string]surplus
	found   []finding
	begun   bool
}

func (b *batchRun[S]) run(ctx context.Context, tx *postgres.BatchTx, items []item) error {
	if b.begun { // again after a conflict: what was folded then is not stored
		b.pt.forget()
	}
	b.begun, b.delta, b.found = true, nil, nil
	b.marks, b.surplus = b.pt.marks.Clone(), maps.Clone(b.pt.surplus)
	var err error
	if b.at, err = b.lock(ctx, tx, items); err != nil {
		return err
	}
	if b.at.term != b.pt.term {
		return consumer.ErrFenced
	}
	inputs, moved, err := b.sort(items)
	if err != nil || !moved {
		return err
	}
	d := b.p.engine.NewDelta()
	for _, in := range inputs {
		out, err := b.p.engine.Run(in.order, in.facts)
		if err != nil {
			return err
		}
		d.Merge(in.order.ID, out, in.order.Applied)
		if out.Dirty {
			in.order.Keep(out)
		}
	}
	for i := range items {
		if items[i].unreadable && items[i].fresh {
			d.Parked = append(d.Parked, fold.ParkedFact{Ref: items[i].ref, Verdict: fold.Poison, Reason: items[i].err.Error()})
			d.Counts[fold.Poison]++
		}
	}
	known, err := knownParked(items, b.pt.number, func(batch *pgx.Batch) error { return tx.Send(ctx, batch) })
	if err != nil {
		return err
	}
	b.account(items, known, d)
	return b.write(ctx, tx, d)
}

// lock takes the position row first, and loads in the same round trip the
// orders that are not in memory.
func (b *batchRun[S]) lock(ctx context.Context, tx *postgres.BatchTx, items []item) (locked position, err error) {
	batch := &pgx.Batch{}
	if b.p.building.Load() {
		// Position and rows go together: what a crash of the database undoes is
		// read again, and nobody was answered from it.
		batch.Queue("SET LOCAL synchronous_commit = off")
	}
	batch.Queue(lockPosition, b.pt.number).QueryRow(func(r pgx.Row) (err error) {
		locked, err = b.p.scanPosition(r)
		return err
	})
	b.load(batch, items)
	if err := tx.Send(ctx, batch); err != nil || locked.revision == b.pt.revision {
		return locked, err
	}
	// Somebody else wrote: a healer, or another owner. What is in memory is old.
	b.pt.forget()
	b.pt.revision = locked.revision
	again := &pgx.Batch{}
	if b.load(again, items); again.Len() == 0 {
		return locked, nil
	}
	return locked, tx.Send(ctx, again)
}

const selectStates = `SELECT order_id, state, applied FROM state WHERE order_id = ANY($1::text[])`

// wanted lists the orders of the items that are not in memory.
func (b *batchRun[S]) wanted(items []item) []string {
	missing := map[string]bool{}
	for _, it := range items {
		if it.kind == itemFact && b.pt.orders[it.fact.Key] == nil {
			missing[it.fact.Key] = true
		}
	}
	return slices.Collect(maps.Keys(missing))
}

// load queues the select of the orders that are not in memory.
func (b *batchRun[S]) load(batch *pgx.Batch, items []item) {
	wanted := b.wanted(items)
	if len(wanted) == 0 {
		return
	}
	batch.Queue(selectStates, wanted).Query(func(rows pgx.Rows) error {
		for _, id := range wanted {
			b.pt.orders[id] = fold.NewOrder[S](id)
		}
		var id string
		var bytes fold.Encoded
		_, err := pgx.ForEachRow(rows, []any{&id, &bytes.State, &bytes.Applied}, func() error {
			o, err := fold.OpenOrder[S](id, fold.Encoded{State: slices.Clone(bytes.State), Applied: slices.Clone(bytes.Applied)})
			if err != nil {
				return err
			}
			b.pt.orders[id] = o
			return nil
		})
		if err != nil {
			return fmt.Errorf("load states: %w", err)
		}
		return nil
	})
}

// orderInput is what a batch brings to one order.
type orderInput[S any] struct {
	order *fold.Order[S]
	facts []fold.Input
}

// sort skips what is before the position and groups facts by order. moved is
// false if nothing is new.
func (b *batchRun[S]) sort(items []item) (inputs []*orderInput[S], moved bool, err error) {
	byOrder := map[string]*orderInput[S]{}
	next := maps.Clone(b.at.offsets)
	opened := map[string]string{}
	for source, book := range b.at.books.Sources {
		opened[source] = book.Epoch
	}
	for i := range items {
		it := &items[i]
		it.fresh = it.ref.Offset >= next[it.ref.Topic]
		if !it.fresh {
			continue
		}
		moved = true
		next[it.ref.Topic] = it.ref.Offset + 1
		switch it.kind {
		case itemMark:
			if !it.mark.Idle {
				opened[it.mark.Source] = max(opened[it.mark.Source], it.mark.Epoch)
			}
		case itemFact:
			in := byOrder[it.fact.Key]
			if in == nil {
				o := b.pt.orders[it.fact.Key]
				if o == nil {
					return nil, false, fmt.Errorf("order of a fact was not loaded")
				}
				in = &orderInput[S]{order: o}
				byOrder[it.fact.Key] = in
				inputs = append(inputs, in)
			}
			it.given = fold.Given{}
			in.facts = append(in.facts, fold.Input{Fact: it.fact, Ref: it.ref, Err: it.err, Opened: opened[it.fact.Source], Given: &it.given})
		}
	}
	return inputs, moved, nil
}

func (b *batchRun[S]) write(ctx context.Context, tx *postgres.BatchTx, d *fold.Delta) error {
	stored := maps.Clone(b.at.offsets)
	if next, ok := stored[b.p.cfg.ControlTopic]; ok {
		stored[b.p.cfg.ControlTopic] = b.marks.Hold(next)
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	sealed, err := b.at.seal()
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for _, f := range b.found {
		if f.opened != "" {
			batch.Queue(dropSuperseded, b.pt.number, f.source, b.p.topics[f.source], f.opened)
		}
	}
	queueDelta(batch, d, b.p.sql, b.pt.number, b.p.own.version)
	queueMarks(batch, b.marks, b.pt.number)
	batch.Queue(movePosition, b.pt.number, text, sealed)
	if err := tx.Commit(ctx, batch); err != nil {
		return fmt.Errorf("write a batch: %w", err)
	}
	b.delta = d
	return nil
}

// queueMarks writes the marks that moved.
func queueMarks(b *pgx.Batch, m *completeness.Marks, number int32) {
	var sources, epochs []string
	var terms, numbers, blocked []int64
	var asOf []time.Time
	for source := range m.Dirty {
		t := m.Taken[source]
		sources, epochs, asOf = append(sources, source), append(epochs, t.Epoch), append(asOf, t.AsOf)
		terms, numbers, blocked = append(terms, t.Term), append(numbers, t.Number), append(blocked, t.Blocked)
	}
	if len(sources) > 0 {
		b.Queue(upsertMarks, number, sources, epochs, terms, numbers, asOf, blocked)
	}
}

// committed brings memory to what is stored now, and tells who waits.
func (b *batchRun[S]) committed(ctx context.Context) {
	b.pt.revision++
	b.pt.marks = b.marks
	b.p.mu.Lock()
	b.pt.surplus = b.surplus
	b.p.mu.Unlock()
	var marked []int32
	for source := range b.marks.Dirty {
		taken := b.marks.Taken[source]
		b.p.seen.note(b.pt.number, source, taken.Epoch, taken.AsOf)
		marked = []int32{b.pt.number}
	}
	clear(b.marks.Dirty)
	if len(b.pt.orders) > cacheSize {
		keep := cacheSize / 2
		for id := range b.pt.orders { // map order is random enough
			if keep--; keep < 0 {
				delete(b.pt.orders, id)
			}
		}
	}
	b.p.tell(ctx, b.delta, marked...)
	b.p.report(ctx, b.pt.number, b.found)
}
