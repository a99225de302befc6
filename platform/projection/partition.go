package projection

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
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
	orders   map[string]*fold.Order[S] // valid at revision
	marks    *completeness.Marks
	surplus  map[string]surplus // by source
}

// forget drops the states in memory, which may be ahead of the database or
// behind it.
func (pt *partition[S]) forget() {
	pt.orders, pt.revision = map[string]*fold.Order[S]{}, -1
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
	if err := p.brake.wait(ctx); err != nil {
		return err
	}
	if paused := p.paused.Load(); paused != nil {
		return paused
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
