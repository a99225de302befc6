package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// A gap heals itself: the missing versions, and those that wait behind them,
// are fetched from the owner and applied in order, in one transaction under the
// position lock. The position does not move.

const (
	healWorkers  = 4
	healBatch    = 100                   // gaps taken up at once
	healPage     = 200                   // versions applied in one transaction
	healInterval = 25 * time.Millisecond // least time between two fetches of one worker
	healTick     = time.Second           // looks for gaps whose pause is over
	healMaxPause = 5 * time.Minute
)

type gap struct {
	aggregate event.Aggregate
	order     string
	partition int32
	attempts  int
}

const (
	dueGaps = `SELECT aggregate_type, aggregate_id, order_id, partition, attempts FROM quarantine
		WHERE verdict = 'gap' AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT $1`
	postponeGap = `UPDATE quarantine SET attempts = attempts + 1, next_attempt_at = now() + $4::interval, reason = $5
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 AND verdict = 'gap'`
	lastWaiting = `SELECT coalesce(max(version), 0) FROM parked
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
	dropWaiting = `DELETE FROM parked WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 AND epoch <= $4 AND version <= $5`
	release     = `DELETE FROM quarantine WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
	oneState    = `SELECT state, applied FROM state WHERE order_id = $1`
)

// heal works off gaps until the context ends.
func (p *Projection[S]) heal(ctx context.Context) error {
	if p.cfg.Journal == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(healTick)
	defer ticker.Stop()
	for {
		n, err := p.healDue(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			p.cfg.Log.Warn("gaps are not healed now and are tried again", "generation", p.own.String(), "error", err)
		case n == healBatch:
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.gaps:
		case <-ticker.C:
		}
	}
}

// healDue tries every gap whose time has come once.
func (p *Projection[S]) healDue(ctx context.Context) (n int, err error) {
	rows, err := p.pool.Query(ctx, dueGaps, healBatch)
	if err != nil {
		return 0, fmt.Errorf("list gaps: %w", err)
	}
	gaps, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g gap, err error) {
		err = r.Scan(&g.aggregate.Type, &g.aggregate.ID, &g.order, &g.partition, &g.attempts)
		return g, err
	})
	if err != nil {
		return 0, fmt.Errorf("list gaps: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(healWorkers)
	for _, g := range gaps {
		group.Go(func() error {
			pace := time.NewTimer(healInterval)
			defer pace.Stop()
			failed := p.healOne(ctx, g)
			if failed != nil && ctx.Err() == nil {
				if err := p.postpone(ctx, g, failed); err != nil {
					return err
				}
			}
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
			return nil
		})
	}
	return len(gaps), group.Wait()
}

func (p *Projection[S]) postpone(ctx context.Context, g gap, cause error) error {
	pause := min(100*time.Millisecond<<min(g.attempts, 16), healMaxPause)
	_, err := p.pool.Exec(ctx, postponeGap, g.aggregate.Type, g.aggregate.ID, g.order,
		fmt.Sprintf("%d milliseconds", pause.Milliseconds()), clean(cause.Error()))
	if err != nil {
		return fmt.Errorf("postpone a gap: %w", err)
	}
	return nil
}

// errStillMissing says that the owner does not have the version either.
var errStillMissing = errors.New("the owner's journal does not have the missing version yet")

// healOne fetches and applies until nothing of the aggregate waits.
func (p *Projection[S]) healOne(ctx context.Context, g gap) error {
	record, err := p.appliedOf(ctx, g)
	if err != nil {
		return err
	}
	for {
		facts, err := p.cfg.Journal(ctx, g.aggregate, record.Version+1, record.Version+healPage)
		if err != nil {
			return fmt.Errorf("fetch from the owner: %w", err)
		}
		if len(facts) == 0 || facts[0].Version != record.Version+1 {
			return errStillMissing
		}
		var d *delta
		before := record.Version
		err = postgres.InTx(ctx, p.pool, func(tx pgx.Tx) (err error) {
			d, record, err = p.healTx(ctx, tx, g, facts)
			return err
		})
		if err != nil {
			return fmt.Errorf("apply what was fetched: %w", asRefusal(err))
		}
		p.tell(ctx, d)
		if record.Parked != Gap {
			return nil
		}
		if record.Version == before {
			return errStillMissing
		}
	}
}

func (p *Projection[S]) appliedOf(ctx context.Context, g gap) (applied, error) {
	var state, text []byte
	if err := p.pool.QueryRow(ctx, oneState, g.order).Scan(&state, &text); err != nil {
		return applied{}, fmt.Errorf("read applied versions: %w", err)
	}
	doc, err := openApplied(text)
	if err != nil {
		return applied{}, err
	}
	if record := doc.Aggregates[g.aggregate.String()]; record != nil {
		return *record, nil
	}
	return applied{}, nil
}

// healTx applies fetched facts to one order. It bumps the position's revision,
// so that an owner of the partition drops the state it has in memory.
func (p *Projection[S]) healTx(ctx context.Context, tx pgx.Tx, g gap, facts []event.Fact) (*delta, applied, error) {
	if _, err := scanPosition(tx.QueryRow(ctx, lockPosition, g.partition)); err != nil {
		return nil, applied{}, err
	}
	var bytes encoded
	if err := tx.QueryRow(ctx, oneState, g.order).Scan(&bytes.state, &bytes.applied); err != nil {
		return nil, applied{}, fmt.Errorf("load the state: %w", err)
	}
	o, err := openOrder[S](g.order, bytes)
	if err != nil {
		return nil, applied{}, err
	}
	var last int64
	var inputs []input
	for _, f := range facts {
		in := input{fact: f}
		if f.Key != g.order || f.Aggregate != g.aggregate {
			in.err = errors.New("the owner's journal has it under another order")
			in.fact.Key, in.fact.Aggregate = g.order, g.aggregate
		}
		inputs = append(inputs, in)
	}
	if err := tx.QueryRow(ctx, lastWaiting, g.aggregate.Type, g.aggregate.ID, g.order).Scan(&last); err != nil {
		return nil, applied{}, fmt.Errorf("look for the last waiting version: %w", err)
	}
	d := p.engine.newDelta()
	out, err := p.engine.run(o, inputs)
	if err != nil {
		return nil, applied{}, err
	}
	record, _ := o.of(g.aggregate)
	if record.Parked == Gap && record.Version >= last {
		record.Parked = ""
		out.dirty, out.touched[g.aggregate.String()] = true, g.aggregate
		if out.encoded, err = o.encode(); err != nil {
			return nil, applied{}, err
		}
	}
	d.merge(o.id, out, o.applied)
	batch := &pgx.Batch{}
	d.queue(batch, p.sql, g.partition, p.own.version)
	batch.Queue(dropWaiting, g.aggregate.Type, g.aggregate.ID, g.order, record.Epoch, record.Version)
	if record.Parked == "" {
		batch.Queue(release, g.aggregate.Type, g.aggregate.ID, g.order)
	}
	batch.Queue("UPDATE position SET revision = revision + 1 WHERE partition = $1", g.partition)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, applied{}, fmt.Errorf("write what was healed: %w", err)
	}
	return d, *record, nil
}
