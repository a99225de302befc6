package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// cacheSize bounds the orders a partition keeps in memory between batches. A
// miss costs a select in a round trip that is made anyway.
const cacheSize = 512

// partition is what this process knows of a partition number it owns. Only the
// consumer's worker for that number touches it.
type partition[S any] struct {
	number   int32
	term     int64
	revision int64
	ids      map[string]string
	orders   map[string]*order[S] // valid at revision
	marks    *marks
}

// forget drops the states in memory, which may be ahead of the database or
// behind it.
func (pt *partition[S]) forget() {
	pt.orders, pt.revision = map[string]*order[S]{}, -1
}

// position is a locked position row.
type position struct {
	revision, term int64
	offsets        map[string]int64
}

const lockPosition = `SELECT revision, term, offsets FROM position WHERE partition = $1 FOR UPDATE`

func scanPosition(r pgx.Row) (position, error) {
	var p position
	var offsets []byte
	if err := r.Scan(&p.revision, &p.term, &offsets); err != nil {
		return p, fmt.Errorf("lock the position: %w", err)
	}
	if err := json.Unmarshal(offsets, &p.offsets); err != nil {
		return p, fmt.Errorf("read the position: %w", err)
	}
	return p, nil
}

// errTopicChanged says that the log a position belongs to is gone.
var errTopicChanged = errors.New("the topic is not the one the position belongs to: it was deleted and made again")

// Claim makes this process the owner of a partition number. It implements
// [consumer.Handler].
func (p *Projection[S]) Claim(ctx context.Context, number int32, ids map[string]string) (map[string]int64, error) {
	pt := &partition[S]{number: number, ids: ids, orders: map[string]*order[S]{}, marks: newMarks()}
	var offsets map[string]int64
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		locked, err := scanPosition(tx.QueryRow(ctx, lockPosition, number))
		if err != nil {
			return err
		}
		var stored map[string]string
		var text []byte
		if err := tx.QueryRow(ctx, "SELECT topic_ids FROM position WHERE partition = $1", number).Scan(&text); err != nil {
			return fmt.Errorf("read the topic ids: %w", err)
		}
		if err := json.Unmarshal(text, &stored); err != nil {
			return fmt.Errorf("read the topic ids: %w", err)
		}
		for topic, id := range ids {
			if known, ok := stored[topic]; ok && known != id {
				return fmt.Errorf("topic %s: %w", topic, errTopicChanged)
			}
		}
		maps.Copy(stored, ids)
		if text, err = json.Marshal(stored); err != nil {
			return err
		}
		offsets, pt.revision, pt.term = locked.offsets, locked.revision+1, locked.term+1
		_, err = tx.Exec(ctx, "UPDATE position SET revision = $2, term = $3, topic_ids = $4 WHERE partition = $1",
			number, pt.revision, pt.term, text)
		if err != nil {
			return fmt.Errorf("write the claim: %w", err)
		}
		rows, err := tx.Query(ctx, "SELECT source, epoch, term, number, as_of, blocked_count FROM source_mark WHERE partition = $1", number)
		if err != nil {
			return err
		}
		var source string
		var m sourceMark
		_, err = pgx.ForEachRow(rows, []any{&source, &m.epoch, &m.term, &m.number, &m.asOf, &m.blocked}, func() error {
			taken := m
			pt.marks.taken[source] = &taken
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim partition %d of %s: %w", number, p.own, err)
	}
	p.mu.Lock()
	p.partitions[number] = pt
	p.mu.Unlock()
	return offsets, nil
}

// Handle applies records of one partition number. It implements
// [consumer.Handler].
func (p *Projection[S]) Handle(ctx context.Context, number int32, records []consumer.Record) error {
	p.mu.Lock()
	pt := p.partitions[number]
	p.mu.Unlock()
	if pt == nil {
		return fmt.Errorf("partition %d of %s: %w", number, p.own, consumer.ErrFenced)
	}
	items := make([]item, len(records))
	for i, r := range records {
		if err := p.cfg.Codec.LearnRecord(ctx, r.Headers); err != nil {
			return fmt.Errorf("partition %d of %s: %w", number, p.own, err)
		}
		items[i] = p.read(r, pt.ids[r.Topic])
	}
	err := p.apply(ctx, pt, items)
	if !refused(err) {
		return err
	}
	// The database refuses some value. One at a time, the one that it refuses
	// parks; the others pass.
	for i := range items {
		err := p.apply(ctx, pt, items[i:i+1])
		if refused(err) {
			items[i].err = err
			err = p.apply(ctx, pt, items[i:i+1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal is an error of the database about a value, not about itself.
type refusal struct{ code string }

func (r *refusal) Error() string { return "the database refused the rows: SQLSTATE " + r.code }

func refused(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

// asRefusal turns errors about data, constraints and limits into refusals,
// without the message, which quotes values.
func asRefusal(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "23" || pg.Code[:2] == "54") {
		return &refusal{pg.Code}
	}
	return err
}

// apply stores the effects of items and the position behind them in one
// transaction.
func (p *Projection[S]) apply(ctx context.Context, pt *partition[S], items []item) error {
	batch := &batchRun[S]{p: p, pt: pt}
	err := postgres.InBatches(ctx, p.pool, func(tx *postgres.BatchTx) error { return batch.run(ctx, tx, items) })
	if err != nil {
		pt.forget()
		return fmt.Errorf("apply to partition %d of %s: %w", pt.number, p.own, asRefusal(err))
	}
	if batch.delta != nil {
		batch.committed(ctx)
	}
	return nil
}

// batchRun is one transaction of a partition.
type batchRun[S any] struct {
	p       *Projection[S]
	pt      *partition[S]
	delta   *delta
	offsets map[string]int64
	marks   *marks
	begun   bool
}

func (b *batchRun[S]) run(ctx context.Context, tx *postgres.BatchTx, items []item) error {
	if b.begun { // again after a conflict: what was folded then is not stored
		b.pt.forget()
	}
	b.begun, b.delta, b.marks = true, nil, b.pt.marks.clone()
	locked, err := b.lock(ctx, tx, items)
	if err != nil {
		return err
	}
	if locked.term != b.pt.term {
		return consumer.ErrFenced
	}
	b.offsets = locked.offsets
	inputs, moved, err := b.sort(items)
	if err != nil || !moved {
		return err
	}
	d := b.p.engine.newDelta()
	for _, in := range inputs {
		out, err := b.p.engine.run(in.order, in.facts)
		if err != nil {
			return err
		}
		d.merge(in.order.id, out, in.order.applied)
		if out.dirty {
			in.order.stored = out.encoded
		}
	}
	for i := range items {
		if items[i].unreadable && items[i].fresh {
			d.parked = append(d.parked, parkedFact{ref: items[i].ref, verdict: Poison, reason: items[i].err.Error()})
			d.counts[Poison]++
		}
	}
	return b.write(ctx, tx, d)
}

// lock takes the position row first, and loads in the same round trip the
// orders that are not in memory.
func (b *batchRun[S]) lock(ctx context.Context, tx *postgres.BatchTx, items []item) (locked position, err error) {
	batch := &pgx.Batch{}
	batch.Queue(lockPosition, b.pt.number).QueryRow(func(r pgx.Row) (err error) {
		locked, err = scanPosition(r)
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
			b.pt.orders[id] = newOrder[S](id)
		}
		var id string
		var bytes encoded
		_, err := pgx.ForEachRow(rows, []any{&id, &bytes.state, &bytes.applied}, func() error {
			o, err := openOrder[S](id, encoded{slices.Clone(bytes.state), slices.Clone(bytes.applied)})
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
	order *order[S]
	facts []input
}

// sort skips what is before the position, groups facts by order, takes marks
// at their place, and moves the offsets. moved is false if nothing is new.
func (b *batchRun[S]) sort(items []item) (inputs []*orderInput[S], moved bool, err error) {
	byOrder := map[string]*orderInput[S]{}
	reached := func(m mark) bool {
		topic := b.p.topics[m.source]
		return b.pt.ids[topic] == m.topicID && b.offsets[topic] >= m.end
	}
	for i := range items {
		it := &items[i]
		it.fresh = it.ref.Offset >= b.offsets[it.ref.Topic]
		if !it.fresh {
			continue
		}
		moved = true
		b.offsets[it.ref.Topic] = it.ref.Offset + 1
		switch it.kind {
		case itemMark:
			if it.mark.idle {
				b.marks.idle(it.mark, it.ref.Offset, reached)
			} else {
				b.marks.take(it.mark)
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
			in.facts = append(in.facts, input{fact: it.fact, ref: it.ref, err: it.err})
		}
	}
	b.marks.retry(reached)
	return inputs, moved, nil
}

func (b *batchRun[S]) write(ctx context.Context, tx *postgres.BatchTx, d *delta) error {
	stored := maps.Clone(b.offsets)
	if next, ok := stored[b.p.cfg.ControlTopic]; ok {
		stored[b.p.cfg.ControlTopic] = b.marks.hold(next)
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	d.queue(batch, b.p.sql, b.pt.number, b.p.own.version)
	b.marks.queue(batch, b.pt.number)
	batch.Queue(movePosition, b.pt.number, text)
	if err := tx.Commit(ctx, batch); err != nil {
		return fmt.Errorf("write a batch: %w", err)
	}
	b.delta = d
	return nil
}

// queue writes the marks that moved.
func (m *marks) queue(b *pgx.Batch, number int32) {
	var sources, epochs []string
	var terms, numbers, blocked []int64
	var asOf []time.Time
	for source := range m.dirty {
		t := m.taken[source]
		sources, epochs, asOf = append(sources, source), append(epochs, t.epoch), append(asOf, t.asOf)
		terms, numbers, blocked = append(terms, t.term), append(numbers, t.number), append(blocked, t.blocked)
	}
	if len(sources) > 0 {
		b.Queue(upsertMarks, number, sources, epochs, terms, numbers, asOf, blocked)
	}
}

// committed brings memory to what is stored now, and tells who waits.
func (b *batchRun[S]) committed(ctx context.Context) {
	b.pt.revision++
	b.pt.marks = b.marks
	for source := range b.marks.dirty {
		b.p.seen.note(b.pt.number, source, b.marks.taken[source].asOf)
	}
	clear(b.marks.dirty)
	if len(b.pt.orders) > cacheSize {
		keep := cacheSize / 2
		for id := range b.pt.orders { // map order is random enough
			if keep--; keep < 0 {
				delete(b.pt.orders, id)
			}
		}
	}
	b.p.tell(ctx, b.delta)
}
