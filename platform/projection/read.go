package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/puddle/v2"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// reading is the generation that answers. Every read binds to one.
type reading struct {
	from       *snapshots
	generation generation
	ready      bool // false while nothing readable exists: REBUILDING
}

// openReads chooses what to answer from until the catalog is looked at: this
// process's own generation, another one with the same tables, standing still, or
// nothing.
func (p *Projection[S]) openReads(ctx context.Context, serving generation) error {
	built := p.own.status == statusServing || p.own.status == statusRetired
	own := &reading{from: p.snapshots, generation: p.own, ready: built || serving.schema == p.own.schema}
	if own.ready || serving.schema == "" || serving.hash != p.own.hash {
		p.reads.Store(own)
		return nil
	}
	from, err := openSnapshots(ctx, p.cfg, serving.schema)
	if err != nil {
		return err
	}
	p.reads.Store(&reading{from: from, generation: serving, ready: true})
	return nil
}

// defaultBudget is how long a read waits if its caller does not say.
const defaultBudget = 2 * time.Second

// question is one query, as the kernel sees it.
type question struct {
	demand
	known      string // the etag that the caller has
	order      string
	partition  int32            // of the order; -1 if the answer is about many
	queue      func(*pgx.Batch) // may be nil
	oneText    string           // see OneText
	text       **string
	what       string // see OrNotFound
	exists     func(*freshnessv1.Freshness) bool
	passed     **time.Time
	generation string   // the only one that may answer; any if empty
	skipped    *Skipped // see SkippedBy
}

// ReadOption adds to a read what not every query needs.
type ReadOption func(*question)

// OrNotFound makes the read fail, with an [freshnessv1.Absence] that says which
// kind it is, when exists reports false of an answer. what names what was asked
// for, as in "order o-1".
func OrNotFound(what string, exists func(*freshnessv1.Freshness) bool) ReadOption {
	return func(q *question) { q.what, q.exists = what, exists }
}

// DeadlinePassed makes the latest deadline that has passed part of the etag, for
// answers that the clock changes. The query sets it from the same snapshot.
func DeadlinePassed(at **time.Time) ReadOption {
	return func(q *question) { q.passed = at }
}

// InGeneration refuses to answer from another generation: a page goes on in the
// one it began in. Give it whatever [Projection.PageOf] said when the page token
// was checked, and bind the next token to the generation of the answer.
func InGeneration(name string) ReadOption {
	return func(q *question) { q.generation = name }
}

// OneText has the read find one text of the order it is about: query is a select
// of one column that gives at most one row, with the order's id as $1. into is nil
// if it gives none. A read with nothing else to do is one statement, which
// is the cheapest there is.
func OneText(query string, into **string) ReadOption {
	return func(q *question) { q.oneText, q.text = query, into }
}

// Read answers a query. queue adds the query's statements to a batch; they, the
// freshness and the demand's check share one snapshot of one generation and one
// round trip. Their results are taken by the callbacks of [pgx.QueuedQuery];
// queue may be called more than once, each time for a new answer from nothing,
// and is nil if options ask for all there is.
// order names the order that the answer is about, or is empty for an answer
// over many orders.
//
// The demand in options is met, or waited for within its budget, or answered
// by an error whose reason is one of this package's. If the answer's freshness
// says that it is not modified, the caller has it and wants no more than that.
func (p *Projection[S]) Read(ctx context.Context, options *freshnessv1.ReadOptions, order string, queue func(*pgx.Batch), more ...ReadOption) (*freshnessv1.Freshness, error) {
	q := &question{demand: p.demandOf(options), known: options.GetIfNoneMatch(), order: order, partition: p.partitionOf(order), queue: queue}
	for _, option := range more {
		option(q)
	}
	a, err := p.meet(ctx, q)
	if err != nil {
		return nil, err
	}
	f := a.freshness
	if q.exists != nil && !q.exists(f) {
		return nil, p.notFound(ctx, q, f)
	}
	f.NotModified = q.known != "" && q.known == f.GetEtag()
	return f, nil
}

// meet reads until the demand is met or its budget is over. It looks again
// only when something was committed that may matter.
func (p *Projection[S]) meet(ctx context.Context, q *question) (*answer, error) {
	keys := q.keys()
	if len(keys) == 0 {
		return p.snapshot(ctx, q)
	}
	changed := p.waiters.subscribe(keys)
	defer changed.Close()
	changed.foreign = p.foreign
	p.waiters.hurry.Add(1)
	defer p.waiters.hurry.Add(-1)
	asked := false // the owners, about writes of epochs that are over
	for deadline := time.Now().Add(q.budget); ; {
		a, err := p.snapshot(ctx, q)
		if err != nil {
			return nil, err
		}
		if a.result == demandWaits && !asked {
			asked = true
			p.askOwners(ctx, q.demand, a)
		}
		left := time.Until(deadline)
		if a.result == demandMet || a.result > demandStale || left <= 0 {
			return a, p.unmet(q.demand, a)
		}
		if err := changed.Wait(ctx, left); err != nil {
			return nil, err
		}
	}
}

const readMany = `SELECT m.aggregate_type, m.aggregate_id, s.applied
	FROM unnest($1::text[], $2::text[]) AS u(t, i)
	JOIN member m ON m.aggregate_type = u.t AND m.aggregate_id = u.i
	JOIN state s ON s.order_id = m.order_id`

// found is what a snapshot says of the copy itself.
type found struct {
	known  *known
	entity *fold.Versions
	tokens map[event.Aggregate]tokenRow
}

type markRow struct {
	partition     int32
	source, epoch string
	asOf          time.Time
	book          completeness.Book
}

type tokenRow struct {
	record  *fold.Applied
	blocked bool
}

// answer is what one snapshot holds.
type answer struct {
	freshness *freshnessv1.Freshness
	tokens    map[event.Aggregate]tokenRow
	each      []demandResult // of each token
	result    demandResult
}

// snapshot runs everything once.
func (p *Projection[S]) snapshot(ctx context.Context, q *question) (*answer, error) {
	from := p.bound(q.generation)
	if from == nil {
		return nil, fault.Invalid("page_token", "is of a generation that does not answer any more; ask for the first page again")
	}
	if !from.ready {
		return nil, p.rebuilding(from)
	}
	got := found{tokens: map[event.Aggregate]tokenRow{}}
	if err := got.read(ctx, from.from, q); err != nil {
		if next := p.bound(q.generation); errors.Is(err, puddle.ErrClosedPool) && (next == nil || next.from != from.from) {
			return p.snapshot(ctx, q) // another one answers since this read was bound
		}
		return nil, fmt.Errorf("read %s: %w", from.generation, err)
	}
	if q.skipped != nil {
		*q.skipped = got.known.skipped(q.partition)
	}
	a := &answer{freshness: p.freshness(from, got, q), tokens: got.tokens}
	p.check(q.demand, a)
	return a, nil
}

func (p *Projection[S]) partitionOf(order string) int32 {
	if order == "" {
		return -1
	}
	return event.PartitionOf(order, p.cfg.Kafka.PartitionCount())
}

// read runs all statements of a read: one by itself, or a pipeline.
func (f *found) read(ctx context.Context, from *snapshots, q *question) error {
	before := from.last.Load()
	sql, args := before.statement(q)
	batch := &pgx.Batch{}
	f.queueTokens(batch, q.tokens)
	if q.queue != nil {
		q.queue(batch)
	}
	take := func(r pgx.Row) error { return f.take(r, from, before, q) }
	from.asked.note(sql)
	if batch.Len() == 0 {
		return take(from.pool.QueryRow(ctx, sql, args...))
	}
	for _, queued := range batch.QueuedQueries {
		from.asked.note(queued.SQL)
	}
	batch.Queue(sql, args...).QueryRow(take)
	return from.pool.SendBatch(ctx, batch).Close()
}

// take reads the row that the kernel asked for.
func (f *found) take(r pgx.Row, from *snapshots, before *known, q *question) error {
	var changed, applied []byte
	into := []any{&changed}
	if q.order != "" {
		if into = append(into, &applied); q.oneText != "" {
			into = append(into, q.text)
		}
	}
	if err := r.Scan(into...); err != nil {
		return err
	}
	var err error
	if f.known, err = before.with(changed); err != nil {
		return err
	}
	if f.known != before {
		from.note(f.known)
	}
	if applied != nil {
		doc, err := fold.OpenVersions(applied)
		if err != nil {
			return err
		}
		f.entity = &doc
	}
	return nil
}

// queueTokens adds the statement that says what is applied of demanded writes.
func (f *found) queueTokens(b *pgx.Batch, tokens []event.Token) {
	if len(tokens) == 0 {
		return
	}
	var types, ids []string
	for _, t := range tokens {
		types, ids = append(types, t.Type), append(ids, t.ID)
	}
	b.Queue(readMany, types, ids).Query(func(rows pgx.Rows) error {
		var a event.Aggregate
		var text []byte
		_, err := pgx.ForEachRow(rows, []any{&a.Type, &a.ID, &text}, func() error {
			doc, err := fold.OpenVersions(text)
			if err != nil {
				return err
			}
			record := doc.Aggregates[a.String()]
			if known, ok := f.tokens[a]; !ok || record != nil && (known.record == nil || record.Version > known.record.Version) {
				f.tokens[a] = tokenRow{record, doc.Blocked != ""}
			}
			return nil
		})
		return err
	})
}
