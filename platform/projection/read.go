package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// reading is the generation that answers. Every read binds to one.
type reading struct {
	pool       *pgxpool.Pool
	generation generation
	ready      bool // false while nothing readable exists: REBUILDING
}

// openReads chooses what to answer from until this process's own generation
// is built: another one with the same tables, standing still, or nothing.
func (p *Projection[S]) openReads(ctx context.Context, serving generation) error {
	own := &reading{pool: p.pool, generation: p.own, ready: p.own.status == statusServing}
	if own.ready || serving.schema == "" || serving.hash != p.own.hash {
		p.reads.Store(own)
		return nil
	}
	inside, err := within(p.cfg.Postgres, serving.schema)
	if err != nil {
		return err
	}
	pool, err := postgres.Open(ctx, inside, p.cfg.Telemetry)
	if err != nil {
		return err
	}
	p.reads.Store(&reading{pool: pool, generation: serving, ready: true})
	return nil
}

const (
	defaultBudget = 2 * time.Second
	// recheck is how often a waiting read looks again when another process may
	// be the one that applies.
	recheck = 100 * time.Millisecond
)

// Read answers a query. queue adds the query's statements to a batch; they, the
// freshness and the demand's check share one snapshot of one generation and one
// round trip. Their results are taken by the callbacks of [pgx.QueuedQuery];
// queue may be called more than once, each time for a new answer from nothing.
// order names the order that the answer is about, or is empty for an answer
// over many orders.
//
// The demand in options is met, or waited for within its budget, or answered
// by an error: see [Unmet]. A demand of a kind that does not exist yet is an
// error, never silently "any".
func (p *Projection[S]) Read(ctx context.Context, options *freshnessv1.ReadOptions, order string, queue func(*pgx.Batch)) (*freshnessv1.Freshness, error) {
	want, err := p.demandOf(options)
	if err != nil {
		return nil, err
	}
	if len(want.tokens) == 0 {
		f, _, _, err := p.snapshot(ctx, want, order, queue)
		return f, err
	}
	var keys []string
	for _, t := range want.tokens {
		keys = append(keys, aggregateKey(t.Aggregate))
	}
	changed := p.waiters.subscribe(keys)
	defer changed.Close()
	changed.foreign = p.foreign
	p.waiters.hurry.Add(1)
	defer p.waiters.hurry.Add(-1)
	asked := false // the owners, about writes of epochs that are over
	for deadline := time.Now().Add(want.budget); ; {
		f, tokens, result, err := p.snapshot(ctx, want, order, queue)
		if err == nil && result == demandWaits && !asked {
			asked = true
			if result = p.askOwners(ctx, want, tokens, f); result == demandMet {
				f.DemandMet = true
			}
		}
		if err != nil || result == demandMet {
			return f, err
		}
		left := time.Until(deadline)
		if result != demandWaits || left <= 0 {
			return p.unmet(want, result, f)
		}
		if err := changed.Wait(ctx, left); err != nil {
			return nil, err
		}
	}
}

const (
	beginRead = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
	readMarks = `SELECT m.partition, m.source, m.epoch, m.as_of, p.books -> 's' -> m.source
		FROM source_mark m JOIN position p ON p.partition = m.partition`
	readOne  = `SELECT applied FROM state WHERE order_id = $1`
	readMany = `SELECT m.aggregate_type, m.aggregate_id, s.applied
		FROM unnest($1::text[], $2::text[]) AS u(t, i)
		JOIN member m ON m.aggregate_type = u.t AND m.aggregate_id = u.i
		JOIN state s ON s.order_id = m.order_id`
)

// found is what a snapshot says of the copy itself.
type found struct {
	marks  []markRow
	entity *appliedDoc
	tokens map[event.Aggregate]tokenRow
}

type markRow struct {
	partition     int32
	source, epoch string
	asOf          time.Time
	book          book
}

type tokenRow struct {
	record  *applied
	blocked bool
}

// snapshot runs everything once.
func (p *Projection[S]) snapshot(ctx context.Context, want demand, order string, queue func(*pgx.Batch)) (*freshnessv1.Freshness, map[event.Aggregate]tokenRow, demandResult, error) {
	from := p.reads.Load()
	if !from.ready {
		return nil, nil, 0, p.rebuilding(from)
	}
	got := found{tokens: map[event.Aggregate]tokenRow{}}
	batch := &pgx.Batch{}
	batch.Queue(beginRead)
	got.queue(batch, p.partitionOf(order), order, want)
	queue(batch)
	batch.Queue("COMMIT")
	if err := from.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, nil, 0, fmt.Errorf("read %s: %w", from.generation, err)
	}
	result := p.check(want, got.tokens)
	return p.freshness(from, got, order, result == demandMet), got.tokens, result, nil
}

func (p *Projection[S]) partitionOf(order string) int32 {
	if order == "" {
		return -1
	}
	return event.PartitionOf(order, p.cfg.Kafka.PartitionCount())
}

// queue adds the statements that say how fresh the copy is. An answer about
// one order is as fresh as that order's partition.
func (f *found) queue(b *pgx.Batch, partition int32, order string, want demand) {
	scanMarks := func(rows pgx.Rows) error {
		var m markRow
		var text []byte
		_, err := pgx.ForEachRow(rows, []any{&m.partition, &m.source, &m.epoch, &m.asOf, &text}, func() error {
			m.book = book{State: unproven, Reason: "not compared yet"}
			if text != nil {
				if err := json.Unmarshal(text, &m.book); err != nil {
					return fmt.Errorf("read what was counted: %w", err)
				}
			}
			f.marks = append(f.marks, m)
			return nil
		})
		return err
	}
	if order == "" {
		b.Queue(readMarks).Query(scanMarks)
	} else {
		b.Queue(readMarks+" WHERE m.partition = $1", partition).Query(scanMarks)
		b.Queue(readOne, order).Query(func(rows pgx.Rows) error {
			var text []byte
			_, err := pgx.ForEachRow(rows, []any{&text}, func() error {
				doc, err := openApplied(text)
				f.entity = &doc
				return err
			})
			return err
		})
	}
	if len(want.tokens) == 0 {
		return
	}
	var types, ids []string
	for _, t := range want.tokens {
		types, ids = append(types, t.Type), append(ids, t.ID)
	}
	b.Queue(readMany, types, ids).Query(func(rows pgx.Rows) error {
		var a event.Aggregate
		var text []byte
		_, err := pgx.ForEachRow(rows, []any{&a.Type, &a.ID, &text}, func() error {
			doc, err := openApplied(text)
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
