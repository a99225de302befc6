package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
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
	verdict   fold.Verdict
}

const (
	dueGaps = `SELECT aggregate_type, aggregate_id, order_id, partition, attempts, verdict FROM quarantine
		WHERE verdict IN ('gap', 'newer_epoch', 'equivocation') AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT $1`
	postponeGap = `UPDATE quarantine SET attempts = attempts + 1, next_attempt_at = now() + $4::interval, reason = $5
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 AND verdict = $6`
	oneState = `SELECT applied FROM state WHERE order_id = $1`
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
		err = r.Scan(&g.aggregate.Type, &g.aggregate.ID, &g.order, &g.partition, &g.attempts, &g.verdict)
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
			heal := p.healOne
			if g.verdict != fold.Gap {
				heal = p.settle
			}
			failed := heal(ctx, g)
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
		fmt.Sprintf("%d milliseconds", pause.Milliseconds()), fold.Clean(cause.Error()), string(g.verdict))
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
		facts, err := p.cfg.Journal.Events(ctx, g.aggregate, record.Version+1, record.Version+healPage)
		if err != nil {
			return fmt.Errorf("fetch from the owner: %w", err)
		}
		if len(facts) == 0 || facts[0].Version != record.Version+1 {
			return errStillMissing
		}
		for _, f := range facts {
			if f.Key != g.order || f.Aggregate != g.aggregate {
				return errOtherOrder
			}
		}
		before := record.Version
		err = p.hold(ctx, g.partition, func(h *held[S]) error {
			_, err := h.feed(ctx, facts)
			return err
		})
		if err != nil {
			return fmt.Errorf("apply what was fetched: %w", err)
		}
		if record, err = p.appliedOf(ctx, g); err != nil {
			return err
		}
		if record.Parked != fold.Gap {
			return nil
		}
		if record.Version == before {
			return errStillMissing
		}
	}
}

// errOtherOrder says that an owner and a topic disagree about what an aggregate
// belongs to.
var errOtherOrder = errors.New("the owner's journal has the aggregate under another order")

// appliedOf reads what is applied of one aggregate.
func (p *Projection[S]) appliedOf(ctx context.Context, g gap) (fold.Applied, error) {
	var text []byte
	if err := p.pool.QueryRow(ctx, oneState, g.order).Scan(&text); err != nil {
		return fold.Applied{}, fmt.Errorf("read applied versions: %w", err)
	}
	doc, err := fold.OpenVersions(text)
	if err != nil {
		return fold.Applied{}, err
	}
	if record := doc.Aggregates[g.aggregate.String()]; record != nil {
		return *record, nil
	}
	return fold.Applied{}, nil
}

// settle has the owner's journal decide about an aggregate whose versions it
// and the topic tell differently: after an equivocation, or in a newer epoch.
func (p *Projection[S]) settle(ctx context.Context, g gap) error {
	return p.refold(ctx, g.order)
}
