package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// bulkPass is a pass under way: the orders of one part, in memory, until all of
// their facts are folded. Rows of logs and new members do not wait for that.
type bulkPass[S any] struct {
	*bulk[S]
	part   bulkPart
	orders map[string]*bulkOrder[S]
	out    *fold.Outcome // of the fact at hand
	delta  *fold.Delta   // what ordinary statements write at the end: parked facts, sums
	books  completeness.Books
	marks  *completeness.Marks
	opened map[string]string // newest epoch that was opened, by source
	known  map[string]bool   // facts that were counted when they were set aside
	odd    map[string]bool   // orders that are taken one fact at a time
	doomed bool              // others were found, and nothing of this pass is kept
	weight int64
	budget int64        // of weight
	copies []*bulkTable // per table of the view; nil for sums
	state  *bulkTable
	member *bulkTable
	full   chan bulkChunk
	empty  chan []byte // to be filled again
	// put takes chunks in the place of full, in a pass that does one thing after another.
	put func(context.Context, bulkChunk) error
}

type bulkOrder[S any] struct {
	fold.Order[S]
	bytes, look int // bytes folded, and at how many the size of the state is looked at
}

func (b *bulk[S]) newPass(part bulkPart) *bulkPass[S] {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.odd[part.number] == nil {
		b.odd[part.number] = map[string]bool{}
	}
	pass := &bulkPass[S]{
		bulk: b, part: part, orders: map[string]*bulkOrder[S]{}, delta: b.p.engine.NewDelta(), books: part.books.Clone(), marks: completeness.NewMarks(), budget: share(b.p.cfg.Generations.BulkMemory, b.many),
		opened: map[string]string{}, known: map[string]bool{}, odd: b.odd[part.number],
		state: b.table("state", "order_id", "partition", "state", "applied"), member: b.table("member", "aggregate_type", "aggregate_id", "order_id"),
		// What is not nil spares the engine to derive what was before.
		out:  &fold.Outcome{Before: []map[string]fold.Row{}, Counts: map[fold.Verdict]int{}},
		full: make(chan bulkChunk, 4), empty: make(chan []byte, 4),
	}
	for source, book := range pass.books.Sources {
		pass.opened[source] = book.Epoch
	}
	for _, spec := range b.p.view.Specs() {
		var t *bulkTable
		if spec.Kind != fold.KindSums {
			var names []string
			for _, col := range spec.All {
				names = append(names, col.Name)
			}
			t = b.table(spec.Name, names...)
		}
		pass.copies = append(pass.copies, t)
	}
	return pass
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mine reports whether records with this key are this pass's.
func (b *bulkPass[S]) mine(key []byte) bool {
	return b.part.buckets == 1 || int64(uint64(crc32.Checksum(key, castagnoli))*uint64(b.part.buckets)>>32) == b.part.done
}

// bulkItem is a record that is decoded, and its size.
type bulkItem struct {
	item
	mine  bool
	bytes int
}

// decode decodes what is the pass's of some records. Every pass looks at control
// records, which say what is superseded.
func (b *bulkPass[S]) decode(ctx context.Context, records []consumer.Record) ([]bulkItem, error) {
	items := make([]bulkItem, 0, len(records))
	for _, r := range records {
		mine := b.mine(r.Key)
		if !mine && !event.IsControl(r.Headers) {
			continue
		}
		if err := b.p.cfg.Codec.LearnRecord(ctx, r.Headers); err != nil {
			return nil, err
		}
		it := bulkItem{b.p.read(r, b.part.ids[r.Topic]), mine, len(r.Value)}
		it.fresh = true
		items = append(items, it)
	}
	return items, nil
}

// take takes one record.
func (b *bulkPass[S]) take(ctx context.Context, it *bulkItem) error {
	switch {
	case it.kind == itemMark:
		b.pass(it.mark, it.ref.Offset)
	case it.unreadable && it.mine:
		b.delta.Parked = append(b.delta.Parked, fold.ParkedFact{Ref: it.ref, Verdict: fold.Poison, Reason: it.err.Error()})
		b.delta.Counts[fold.Poison]++
	case it.kind == itemFact && it.mine:
		return b.fact(ctx, &it.item, it.bytes)
	}
	return nil
}

// pass takes a control record. Nothing is compared: that is left to the next one,
// behind what is copied in bulk.
func (b *bulkPass[S]) pass(r completeness.Mark, offset int64) {
	b.opened[r.Source] = max(b.opened[r.Source], r.Epoch)
	if _, newer := b.marks.Take(r); !newer {
		return
	}
	book := b.books.Of(r.Source)
	if r.Epoch > book.Epoch && book.Open(r.Epoch, r.First) {
		b.delta.Supersede(r.Source, b.p.topics[r.Source], r.Epoch, offset)
	}
	book.Names, book.Blocked = r.Blocked, r.Names
}

// fact gives one fact its verdict and folds it.
func (b *bulkPass[S]) fact(ctx context.Context, it *item, bytes int) error {
	o := b.orders[it.fact.Key]
	if o == nil {
		o = &bulkOrder[S]{Order: *fold.NewOrder[S](it.fact.Key), look: fold.MaxState}
		b.orders[it.fact.Key] = o
		b.weight += int64(bulkOrderWeight + len(it.fact.Key))
	}
	o.bytes += bytes
	if b.weight += int64(bytes + bulkFactMore); b.weight > b.budget*5/4 && len(b.orders) > 1 && b.part.buckets < maxBuckets {
		return errHeavy
	}
	in := fold.Input{Fact: it.fact, Ref: it.ref, Err: it.err, Opened: b.opened[it.fact.Source], Given: &it.given}
	if err := b.step(o, in); err != nil {
		return b.isOdd(it.fact.Key)
	}
	if o.bytes > o.look && !b.odd[it.fact.Key] {
		o.look *= 2
		if _, ok := b.encoded(o); !ok {
			return b.isOdd(it.fact.Key)
		}
	}
	tally(&b.books, it, b.part.number, b.known)
	return b.hand(ctx, it.fact.Key)
}

// step runs one fact through the engine. An error means that the order is not
// what it was, and that its facts must be taken with more care.
func (b *bulkPass[S]) step(o *bulkOrder[S], in fold.Input) (err error) {
	if b.odd[o.ID] {
		out, err := b.p.engine.Run(&o.Order, []fold.Input{in})
		if err == nil {
			b.out.Append(out)
			o.Keep(out)
		}
		return err
	}
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("view panicked: %v", cause)
		}
	}()
	b.p.engine.Step(&o.Order, in, b.out)
	return nil
}

// isOdd notes an order that must be taken one fact at a time, from its first fact
// on. What this pass made of it cannot be told apart any more.
func (b *bulkPass[S]) isOdd(id string) error {
	if b.odd[id] || len(b.odd) >= maxOdd {
		return fmt.Errorf("%w: facts of too many orders cannot be folded", errUnfit)
	}
	b.odd[id], b.doomed = true, true
	delete(b.orders, id)
	b.out = &fold.Outcome{Before: []map[string]fold.Row{}, Counts: map[fold.Verdict]int{}}
	return nil
}

// encoded encodes a state, unless it is too large or cannot be.
func (b *bulkPass[S]) encoded(o *bulkOrder[S]) (fold.Encoded, bool) {
	bytes, err := o.Encode()
	return bytes, err == nil && len(bytes.State) <= fold.MaxState
}

// hand hands on what a fact of an order left.
func (b *bulkPass[S]) hand(ctx context.Context, id string) error {
	out := b.out
	out.Touched = nil
	if len(out.Members) > 0 {
		for _, a := range out.Members {
			if err := b.copy(ctx, b.member, fold.Row{a.Type, a.ID, id}); err != nil {
				return err
			}
		}
		out.Members = out.Members[:0]
	}
	if len(out.Parked) > 0 {
		b.delta.Parked = append(b.delta.Parked, out.Parked...)
		b.delta.Quarantined = append(b.delta.Quarantined, out.Quarantined...)
		out.Parked, out.Quarantined = nil, nil
		if int64(len(b.delta.Quarantined)) > b.p.maxParked() {
			return fmt.Errorf("%w: very many aggregates would be parked", errUnfit)
		}
	}
	for i, rows := range out.Logs {
		t := b.copies[len(b.p.view.Tables)+i]
		for _, r := range rows {
			if err := b.copy(ctx, t, r); err != nil {
				return err
			}
		}
		out.Logs[i] = rows[:0]
	}
	return nil
}

// derive writes what the states come to.
func (b *bulkPass[S]) derive(ctx context.Context) error {
	for id, o := range b.orders {
		if len(o.Applied) == 0 {
			continue // all of it was superseded
		}
		tables, err := b.tablesOf(o)
		bytes, fits := b.encoded(o)
		if err != nil || !fits {
			if err := b.isOdd(id); err != nil {
				return err
			}
			continue
		}
		if b.doomed {
			continue
		}
		if err := b.copy(ctx, b.state, fold.Row{id, int64(b.part.number), bytes.State, bytes.Applied}); err != nil {
			return err
		}
		if err := b.rows(ctx, tables); err != nil {
			return err
		}
		delete(b.orders, id)
	}
	if b.doomed {
		return errOdd
	}
	maps.Copy(b.delta.Counts, b.out.Counts)
	for _, t := range append([]*bulkTable{b.state, b.member}, b.copies...) {
		if t == nil {
			continue
		}
		if err := b.send(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// rows writes what one order comes to.
func (b *bulkPass[S]) rows(ctx context.Context, tables []map[string]fold.Row) error {
	for i, rows := range tables {
		for key, r := range rows {
			if b.copies[i] == nil {
				b.delta.Tables[i].Add(key, r, 1)
			} else if err := b.copy(ctx, b.copies[i], r); err != nil {
				return err
			}
		}
	}
	return nil
}

// tablesOf derives the rows of an order and survives it.
func (b *bulkPass[S]) tablesOf(o *bulkOrder[S]) (rows []map[string]fold.Row, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("view panicked: %v", cause)
		}
	}()
	return b.p.engine.Derive(&o.Order), nil
}

// of notes whose topics are read.
func (b *bulkPass[S]) of(ids map[string]string) error {
	for topic, id := range ids {
		switch b.part.ids[topic] {
		case "":
			b.part.ids[topic] = id
		case id:
		default:
			return fmt.Errorf("%w: topic %s was made again", errUnfit, topic)
		}
	}
	return nil
}

// finish writes the rest, and how far the partition is.
func (b *bulkPass[S]) finish(ctx context.Context, tx pgx.Tx, records int64) error {
	last := b.part.done+1 >= b.part.buckets
	kept := b.part.books
	if last {
		kept = b.books
	}
	for source, book := range b.books.Sources {
		kept.Of(source).Totals = book.Totals
		// Which sequences were marked since totals agreed is not known.
		kept.Of(source).Hole = last
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	ids, err := json.Marshal(b.part.ids)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	queueDelta(batch, b.delta, b.p.sql, b.part.number, b.p.own.version)
	if last {
		queueMarks(batch, b.marks, b.part.number)
	}
	batch.Queue(finishPart, b.part.number, b.part.done+1, ids, text, records*(b.part.done+1)/b.part.buckets)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		if err = asRefusal(err); refused(err) {
			err = errors.Join(errUnfit, err)
		}
		return fmt.Errorf("write the rest of a pass: %w", err)
	}
	return nil
}
