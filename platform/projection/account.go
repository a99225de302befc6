package projection

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// settleTime is how long the copy may have more than its source has marked
// sent, after the reader passed the end that the log had when that was first
// seen.
const settleTime = 30 * time.Second

// surplus is what a partition of a source has more than the source has marked.
type surplus struct {
	since  time.Time
	end    int64     // end of the log when it was first seen; -1 while unknown
	passed time.Time // when the reader passed it
}

// finding is what a control record showed, to be told once it is stored.
type finding struct {
	source      string
	result      completeness.Settlement
	low, high   int64
	number      int64
	asOf        time.Time // of the record
	task        completeness.Task
	count, want int64
	state, was  completeness.State
	opened      string // an epoch that was opened after another one
}

const (
	selectParked = `SELECT reference FROM parked WHERE reference = ANY($1::text[])`
	// dropSuperseded forgets what waits of the epochs before one that was opened.
	// Its aggregates are compared with the owner's newest events.
	dropSuperseded = `DELETE FROM parked WHERE partition = $1 AND (aggregate_type = $2 OR topic = $3) AND epoch < $4`
)

// knownParked returns which of the facts wait already. Nearly always there is
// nothing to ask, and no round trip.
func knownParked(items []item, partition int32, send func(*pgx.Batch) error) (map[string]bool, error) {
	var references []string
	for i := range items {
		if it := &items[i]; it.fresh && it.kind == itemFact && it.given.MayBeCounted() {
			references = append(references, it.reference(partition))
		}
	}
	known := map[string]bool{}
	if len(references) == 0 {
		return known, nil
	}
	batch := &pgx.Batch{}
	batch.Queue(selectParked, references).Query(func(rows pgx.Rows) error {
		var reference string
		_, err := pgx.ForEachRow(rows, []any{&reference}, func() error { known[reference] = true; return nil })
		return err
	})
	if err := send(batch); err != nil {
		return nil, fmt.Errorf("look for what waits already: %w", err)
	}
	return known, nil
}

func (it *item) reference(partition int32) string {
	return fold.ParkedFact{Ref: it.ref, Token: it.fact.Token(), Order: it.fact.Key}.Reference(partition)
}

// tally counts a fact unless it was counted before: each identity once,
// whatever its verdict.
func tally(b *completeness.Books, it *item, partition int32, known map[string]bool) bool {
	g := it.given
	if g.MayBeCounted() {
		reference := it.reference(partition)
		if known[reference] {
			return false
		}
		known[reference] = true
	} else if !g.Counts() {
		return false
	}
	b.Count(it.fact.Envelope)
	return true
}

// account goes through the batch once more, now that every fact has its
// verdict: it counts facts, takes control records at their place, and moves the
// offsets.
func (b *batchRun[S]) account(items []item, known map[string]bool, d *fold.Delta) {
	now := b.p.clock()
	for i := range items {
		it := &items[i]
		if !it.fresh {
			continue
		}
		b.at.offsets[it.ref.Topic] = it.ref.Offset + 1
		switch {
		case it.kind == itemFact:
			tally(&b.at.books, it, b.pt.number, known)
		case it.kind == itemMark && it.mark.Idle:
			b.marks.Wait(it.mark, it.ref.Offset, now)
		case it.kind == itemMark:
			b.pass(it.mark, it.ref.Offset, true, now, d)
		}
		if len(b.marks.Waiting) > 0 {
			b.retry(now, d)
		}
	}
}

// retry takes idle marks whose place is reached.
func (b *batchRun[S]) retry(now time.Time, d *fold.Delta) {
	for source, w := range b.marks.Waiting {
		topic := b.p.topics[source]
		if b.pt.ids[topic] != w.Mark.TopicID {
			continue
		}
		at, place := b.at.offsets[topic], w.Mark.End
		if end, ok := b.p.ends.after(w.Since, topic, b.pt.number); ok && end < place && at == end {
			place = end // the log ends before: what was behind is lost, and totals tell what
		}
		if at >= place {
			delete(b.marks.Waiting, source)
			b.pass(w.Mark, at, at == place, now, d)
		} else {
			b.p.ends.ask()
		}
	}
}

// pass takes a control record at an offset of its source's topic. exact says that
// the reader is at its very place, so that totals can be compared.
func (b *batchRun[S]) pass(r completeness.Mark, offset int64, exact bool, now time.Time, d *fold.Delta) {
	before, newer := b.marks.Take(r)
	if !newer {
		return // of an older epoch or term, or seen before
	}
	book := b.at.books.Of(r.Source)
	f := finding{source: r.Source, was: book.State, number: r.Number, asOf: r.AsOf, want: r.Totals.Count}
	if r.Epoch > book.Epoch && book.Open(r.Epoch, r.First) {
		f.opened = r.Epoch
		d.Supersede(r.Source, b.p.topics[r.Source], r.Epoch, offset)
	}
	book.Names, book.Blocked = r.Blocked, r.Names
	hole := before.Misses(r)
	if !exact {
		book.Hole = book.Hole || hole
		if f.opened != "" {
			b.found = append(b.found, f)
		}
		return
	}
	over := b.surplus[r.Source]
	overdue := !over.passed.IsZero() && now.Sub(over.passed) >= settleTime
	f.result = book.Check(r, hole, overdue)
	if f.result == completeness.More {
		b.surplus[r.Source] = b.overrun(over, r.Source, now)
	} else {
		delete(b.surplus, r.Source)
	}
	f.state, f.task, f.low, f.high, f.count = book.State, book.Task, book.Low, book.High, book.Totals[r.Epoch].Count
	b.found = append(b.found, f)
}

// overrun follows a surplus: the end of the log when it was first seen, and
// when the reader passed that.
func (b *batchRun[S]) overrun(over surplus, source string, now time.Time) surplus {
	topic := b.p.topics[source]
	if over.since.IsZero() {
		over = surplus{since: now, end: -1}
	}
	if over.end < 0 {
		end, ok := b.p.ends.after(over.since, topic, b.pt.number)
		if !ok {
			b.p.ends.ask()
			return over
		}
		over.end = end
	}
	if over.passed.IsZero() && b.at.offsets[topic] >= over.end {
		over.passed = now
	}
	return over
}

// report tells what control records showed.
func (p *Projection[S]) report(ctx context.Context, partition int32, found []finding) {
	work := false
	for _, f := range found {
		work = work || f.task != "" || f.opened != ""
		if f.opened != "" {
			p.cfg.Log.WarnContext(ctx, "a source began a new epoch; its newest events are compared", "generation", p.own.String(),
				"source", f.source, "partition", partition, "epoch", f.opened)
		}
		switch {
		case f.state == completeness.Violated && f.was != completeness.Violated:
			p.metrics.fault(ctx, f.source, partition, f.result)
			p.cfg.Log.ErrorContext(ctx, "control totals prove a fault; it is healed from the owner", "generation", p.own.String(),
				"source", f.source, "partition", partition, "fault", f.result.String(), "from_sequence", f.low, "to_sequence", f.high,
				"record", f.number, "as_of", f.asOf, "counted", f.count, "sent", f.want)
		case f.was == completeness.Violated && f.state == completeness.Proven:
			p.cfg.Log.InfoContext(ctx, "control totals agree again", "generation", p.own.String(),
				"source", f.source, "partition", partition, "record", f.number, "counted", f.count)
		}
	}
	if work {
		poke(p.work)
	}
}

// poke wakes who waits on a channel that holds one token.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
