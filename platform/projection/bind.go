package projection

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// bind chooses what new reads are answered from.
func (p *Projection[S]) bind(ctx context.Context, c catalog) error {
	at, known := c.by(c.pointer.schema)
	if m := p.member(c.pointer.schema); m != nil {
		own := m.own
		own.status = statusServing
		p.answerFrom(ctx, &reading{from: m.snapshots, generation: own, ready: true})
		return nil
	}
	own, _ := c.by(p.own.schema)
	was := own.status == statusRetired // it answered once
	left := known && c.followed(at) && c.now.Sub(c.pointer.switchedAt) > p.cfg.Generations.Drain
	switch {
	case was && !left:
		p.answerFrom(ctx, &reading{from: p.snapshots, generation: p.own, ready: true})
	case !was && known && at.hash == p.own.hash:
		if from := p.reads.Load(); from != nil && from.ready && from.generation.schema == at.schema {
			return nil
		}
		from, err := openSnapshots(ctx, p.cfg, at.schema)
		if err != nil {
			return err
		}
		p.answerFrom(ctx, &reading{from: from, generation: at.generation, ready: true})
	default:
		p.answerFrom(ctx, &reading{from: p.snapshots, generation: p.own})
	}
	return nil
}

// answerFrom binds new reads. Reads that are under way end on the generation
// they began with.
func (p *Projection[S]) answerFrom(ctx context.Context, next *reading) {
	old := p.reads.Load()
	if old != nil && old.from == next.from && old.ready == next.ready && old.generation.schema == next.generation.schema {
		return
	}
	if old != nil && old.ready && next.ready && old.from != next.from {
		if err := next.from.warm(ctx, old.from); err != nil {
			p.cfg.Log.WarnContext(ctx, "the first reads of a generation find its connections cold", "generation", next.generation.String(), "error", err.Error())
		}
	}
	p.reads.Store(next)
	p.waiters.wakeAll()
	if old == nil {
		return
	}
	if next.ready {
		p.cfg.Log.Info("generation answers", "generation", next.generation.String())
	}
	if old.from != p.snapshots && p.member(old.generation.schema) == nil {
		go old.from.pool.Close() // waits for reads under way
	}
}

func openWithin(ctx context.Context, cfg Config, schema string, tel *telemetry.Telemetry) (*pgxpool.Pool, error) {
	inside, err := within(cfg.Postgres, schema)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, inside, tel)
}

// bound returns what a read is answered from: the generation named, if this
// process keeps it, or what answers now. It is nil if the named one is gone.
func (p *Projection[S]) bound(generation string) *reading {
	from := p.reads.Load()
	if generation == "" || from.generation.String() == generation {
		return from
	}
	if p.family == nil {
		return nil
	}
	p.family.mu.Lock()
	defer p.family.mu.Unlock()
	for _, m := range p.family.members {
		if m.own.String() == generation {
			return &reading{from: m.snapshots, generation: m.own, ready: true}
		}
	}
	return nil
}

// PageOf returns the generation that a page token belongs to: the one for which
// check, which reads the token, gives no error. A page goes on in the generation
// it began in as long as this process keeps that, so a swap fails no query. The
// error is that of the generation that answers now.
func (p *Projection[S]) PageOf(check func(generation string) error) (string, error) {
	now := p.Answering()
	err := check(now)
	if err == nil {
		return now, nil
	}
	for _, schema := range p.schemas() {
		if m := p.member(schema); m != nil && m.own.String() != now && check(m.own.String()) == nil {
			return m.own.String(), nil
		}
	}
	return "", err
}
