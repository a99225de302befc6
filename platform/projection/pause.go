package projection

import (
	"context"
	"fmt"
	"time"
)

// A few aggregates that stand still are theirs alone. Very many mean that this
// code, a source or somebody else's records are bad: reading on would fill the
// database with references and show ever more orders as they once were. So
// reading pauses, somebody is paged, and it goes on by itself when healing, or a
// version that can fold them, has brought the number down.

const (
	defaultMaxParked = 1000
	parkedShare      = 20 // one in so many aggregates may be parked
	pauseTick        = time.Second
)

// errPaused is why the reader stands still.
type errPaused struct{ limit int64 }

func (e *errPaused) Error() string {
	return fmt.Sprintf("reading is paused: more than %d aggregates are parked", e.limit)
}

const (
	estimateMembers = `SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'member'::regclass`
	// What waits for a newer epoch to be refolded is nobody's fault.
	tooManyParked = `SELECT count(*) > $1 FROM (SELECT FROM quarantine WHERE verdict <> 'newer_epoch' LIMIT $1 + 1) q`
)

// guard watches how many aggregates are parked, until the context ends.
func (p *Projection[S]) guard(ctx context.Context) error {
	ticker := time.NewTicker(pauseTick)
	defer ticker.Stop()
	for {
		if err := p.lookAtParked(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("parked aggregates cannot be counted now", "generation", p.own.String(), "error", err)
		}
		if err := p.honourSkips(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("skipped facts are not looked for now", "generation", p.own.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.crowd:
		case <-ticker.C:
		}
	}
}

// lookAtParked pauses the reader if too many aggregates are parked, and lets it
// go on if they no longer are.
func (p *Projection[S]) lookAtParked(ctx context.Context) error {
	p.newlyParked.Store(0)
	var members int64
	if err := p.pool.QueryRow(ctx, estimateMembers).Scan(&members); err != nil {
		return fmt.Errorf("estimate the aggregates: %w", err)
	}
	limit, tooMany := max(p.maxParked(), members/parkedShare), false
	if err := p.pool.QueryRow(ctx, tooManyParked, limit).Scan(&tooMany); err != nil {
		return fmt.Errorf("count parked aggregates: %w", err)
	}
	switch paused := p.paused.Load(); {
	case tooMany && paused == nil:
		p.paused.Store(&errPaused{limit})
		p.cfg.Log.Error("reading is paused: too many aggregates are parked", "generation", p.own.String(), "limit", limit)
	case !tooMany && paused != nil:
		p.paused.Store(nil)
		p.cfg.Log.Info("reading goes on: fewer aggregates are parked", "generation", p.own.String(), "limit", limit)
	}
	return nil
}

func (p *Projection[S]) maxParked() int64 {
	if p.cfg.MaxParked > 0 {
		return int64(p.cfg.MaxParked)
	}
	return defaultMaxParked
}

// crowded has the parked looked at soon when many came at once.
func (p *Projection[S]) crowded(more int) {
	if more > 0 && p.newlyParked.Add(int64(more)) > p.maxParked()/4 {
		poke(p.crowd)
	}
}
