package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// A process keeps every generation of its own view version: the one that
// answers, the one that is built beside it, and the ones that could answer again.
// Each is a Projection of its own, with its own consumer group; the one that the
// program opened is their head, binds reads, and looks after the catalog.

// SwitchMode says when a process has its own version answer without being told.
type SwitchMode string

// The modes.
const (
	// SwitchAlone switches when caught up if no process keeps the generation that
	// answers: nobody else could bring it on. Otherwise an operator swaps.
	SwitchAlone SwitchMode = "auto"
	// SwitchGate also switches beside a live generation, as soon as the whole gate
	// lets it.
	SwitchGate SwitchMode = "gate"
	// SwitchManual never switches, unless nothing answers yet.
	SwitchManual SwitchMode = "manual"
)

// Generations are an operator's settings for builds of a view.
type Generations struct {
	Swap           SwitchMode    `help:"When a new version of the view answers without being told: auto (when no process keeps the one that answers), gate (whenever the comparison passes), manual." enum:"auto,gate,manual" default:"auto"`
	RollbackWindow time.Duration `help:"How long a generation that was switched from follows, so that one can go back to it." default:"24h"`
	Drain          time.Duration `help:"How long a process answers from its own version after another one was switched to." default:"30s"`
	YieldAbove     time.Duration `help:"Staleness of what answers above which a generation that is being built stands still." default:"2s"`
	BulkAbove      int64         `help:"Records from which on a new generation copies what the logs have in bulk; less than 0 never does." default:"10000"`
	BulkMemory     int64         `help:"Bytes that states may take in memory while they are copied in bulk; a log is read several times if they do not fit." default:"67108864"`
}

func (g Generations) orDefault() Generations {
	if g.Swap == "" {
		g.Swap = SwitchAlone
	}
	for _, d := range []struct {
		of *time.Duration
		is time.Duration
	}{{&g.RollbackWindow, 24 * time.Hour}, {&g.Drain, 30 * time.Second}, {&g.YieldAbove, 2 * time.Second}} {
		if *d.of <= 0 {
			*d.of = d.is
		}
	}
	if g.BulkAbove == 0 {
		g.BulkAbove = 10_000
	}
	if g.BulkMemory <= 0 {
		g.BulkMemory = 64 << 20
	}
	return g
}

// family is the generations that one process keeps.
type family[S any] struct {
	looking sync.Mutex // one look at the catalog at a time

	mu      sync.Mutex
	members map[string]*member[S] // by schema
	start   func(*member[S])      // follows a generation; nil before Run
	alone   time.Time             // since when nobody keeps the generation that answers
	warned  time.Time
	again   chan struct{} // holds one token while the catalog should be looked at
	tasks   chan struct{} // and one while there may be an operation to take up
}

// member is a generation that this process keeps.
type member[S any] struct {
	*Projection[S]
	goal   map[string]map[int32]consumer.Bounds // ends of the logs when building began, or went on
	cancel context.CancelFunc
	done   chan struct{}
}

const (
	lookTick  = 500 * time.Millisecond
	buildTick = 200 * time.Millisecond
	// loneFor is how long nobody may have kept the generation that answers before
	// a process counts as alone: restarts of others are shorter, and last less
	// than what they say of themselves.
	loneFor = 3 * time.Second
)

// watch looks at the catalog until the context ends.
func (p *Projection[S]) watch(ctx context.Context) error {
	for {
		building, err := p.look(ctx)
		if err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("generations are not looked after now and are tried again", "view", p.view.Name, "error", err)
		}
		pause := lookTick
		if building {
			pause = buildTick
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			p.leave(context.WithoutCancel(ctx))
			return nil
		case <-p.family.again:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// leave says that this process keeps nothing any more. Others of its version say
// otherwise within a second.
func (p *Projection[S]) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// If it cannot be said now, it shows in a few seconds.
	_, _ = p.pool.Exec(ctx, "UPDATE tidemark.generation SET followed_at = NULL WHERE schema = ANY($1::text[])", p.schemas())
}

func (p *Projection[S]) schemas() []string {
	p.family.mu.Lock()
	defer p.family.mu.Unlock()
	var schemas []string
	for schema := range p.family.members {
		schemas = append(schemas, schema)
	}
	slices.Sort(schemas)
	return schemas
}

func (p *Projection[S]) member(schema string) *member[S] {
	p.family.mu.Lock()
	defer p.family.mu.Unlock()
	return p.family.members[schema]
}

// answering is the generation of this process that reads are bound to, or the
// head while that is another version's.
func (p *Projection[S]) answering() *Projection[S] {
	if from := p.reads.Load(); from != nil && p.family != nil {
		if m := p.member(from.generation.schema); m != nil {
			return m.Projection
		}
	}
	return p
}

// look brings this process in line with the catalog. building says that some
// generation has not caught up.
func (p *Projection[S]) look(ctx context.Context) (building bool, err error) {
	p.family.looking.Lock()
	defer p.family.looking.Unlock()
	c, err := p.readCatalog(ctx)
	if err != nil {
		return false, err
	}
	if err := p.enrol(ctx, c); err != nil {
		return false, err
	}
	if err := p.note(ctx, p.schemas()); err != nil {
		return false, err
	}
	if err := p.bind(ctx, c); err != nil {
		return false, err
	}
	if err := p.govern(ctx, c); err != nil {
		return false, err
	}
	if building, err = p.promote(ctx, c); err != nil {
		return building, err
	}
	return building, p.switchAlone(ctx, c)
}

// enrol opens the generations of this version that are new here and lets go of
// those that are to be dropped, or whose rollback window is over.
func (p *Projection[S]) enrol(ctx context.Context, c catalog) error {
	kept := map[string]bool{}
	for _, g := range c.generations {
		if g.version != p.own.version || g.hash != p.own.hash || g.status == statusDropping {
			continue
		}
		if over := g.status == statusRetired && g.retiredAt != nil && c.now.Sub(*g.retiredAt) > p.cfg.Generations.RollbackWindow; over {
			continue
		}
		kept[g.schema] = true
		if p.member(g.schema) != nil {
			continue
		}
		m := &member[S]{Projection: p}
		if g.schema != p.own.schema {
			sibling, err := p.openSibling(ctx, g.generation)
			if err != nil {
				return err
			}
			m.Projection = sibling
		}
		p.admit(m)
	}
	for _, schema := range p.schemas() {
		if !kept[schema] {
			p.dismiss(schema)
		}
	}
	return nil
}

// openSibling opens another generation of this version.
func (p *Projection[S]) openSibling(ctx context.Context, g generation) (*Projection[S], error) {
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error { return upgradeKernel(ctx, tx, g.schema) })
	if err != nil {
		return nil, err
	}
	s := newProjection(p.cfg, p.view)
	s.own, s.waiters, s.clock, s.bounds, s.pager, s.contract, s.truths = g, p.waiters, p.clock, p.bounds, p.pager, p.contract, p.truths
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	s.reads.Store(&reading{from: s.snapshots, generation: g, ready: true})
	if err := s.prepare(); err != nil {
		s.pool.Close()
		s.snapshots.pool.Close()
		return nil, err
	}
	return s, nil
}

func (p *Projection[S]) admit(m *member[S]) {
	p.family.mu.Lock()
	p.family.members[m.own.schema] = m
	start := p.family.start
	p.family.mu.Unlock()
	if start != nil {
		start(m)
	}
}

// dismiss stops keeping a generation.
func (p *Projection[S]) dismiss(schema string) {
	p.family.mu.Lock()
	m := p.family.members[schema]
	delete(p.family.members, schema)
	p.family.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
		<-m.done
	}
	if m.Projection != p {
		go m.Close() // waits for reads under way
	} else {
		m.metrics.unregister()
	}
	p.cfg.Log.Info("generation is not kept any more", "generation", m.own.String())
}

// keep runs the family: one follower per member, until the context ends.
func (p *Projection[S]) keep(ctx context.Context, spawn func(func() error)) {
	start := func(m *member[S]) {
		var inside context.Context
		inside, m.cancel = context.WithCancel(ctx)
		m.done = make(chan struct{})
		spawn(func() error {
			defer close(m.done)
			return m.copy(inside)
		})
	}
	p.family.mu.Lock()
	p.family.start = start
	var all []*member[S]
	for _, m := range p.family.members {
		all = append(all, m)
	}
	p.family.mu.Unlock()
	for _, m := range all {
		start(m)
	}
}

// promote notes which generations have caught up.
func (p *Projection[S]) promote(ctx context.Context, c catalog) (building bool, err error) {
	for i, g := range c.generations {
		m := p.member(g.schema)
		if m == nil || g.status != statusBuilding {
			continue
		}
		done, failed := m.caughtUp(ctx)
		if building = building || !done; done {
			m.building.Store(false) // from here on its commits are as durable as what is answered
			failed = p.becomeReady(ctx, g.generation)
			c.generations[i].status = statusReady
			poke(p.family.tasks)
		}
		err = errors.Join(err, failed)
	}
	return building, err
}

// caughtUp reports whether the generation has passed the ends that the logs had
// when this process began to look.
func (m *member[S]) caughtUp(ctx context.Context) (bool, error) {
	if m.goal == nil {
		ends, err := m.bounds(ctx)
		if err != nil {
			return false, err
		}
		m.goal = ends
		if m.goal == nil {
			m.goal = map[string]map[int32]consumer.Bounds{}
		}
	}
	return m.passed(ctx, m.goal)
}

// switchAlone has this process's own version answer if nothing does yet, or if
// nobody keeps what does.
func (p *Projection[S]) switchAlone(ctx context.Context, c catalog) (err error) {
	own, ok := c.by(p.own.schema)
	m := p.member(p.own.schema)
	if !ok || m == nil || own.status == statusBuilding || p.member(c.pointer.schema) != nil {
		p.family.alone = time.Time{}
		return nil
	}
	at, known := c.by(c.pointer.schema)
	if known && c.followed(at) {
		p.family.alone = time.Time{}
		if p.cfg.Generations.Swap != SwitchGate || own.status != statusReady {
			return nil
		}
	} else if known {
		if p.family.alone.IsZero() {
			p.family.alone = time.Now()
		}
		if p.cfg.Generations.Swap == SwitchManual || time.Since(p.family.alone) < p.loneFor {
			return nil
		}
		if done, err := m.caughtUp(ctx); err != nil || !done {
			return err
		}
	}
	if known {
		report, err := p.gate(ctx, m.Projection, at, gateOptions{rows: c.followed(at), parked: true}, nil)
		if err != nil {
			return err
		}
		if len(report.Violations) > 0 {
			if time.Since(p.family.warned) > 10*time.Second {
				p.family.warned = time.Now()
				p.cfg.Log.Error("a new generation is built and may not answer yet", "generation", p.own.String(), "answers", at.String(), "why", report.reasons())
			}
			return nil
		}
	}
	if err := p.swap(ctx, p.own, c.pointer, nil); err != nil && !errors.Is(err, errPointerMoved) {
		return fmt.Errorf("switch: %w", err)
	}
	if c, err = p.readCatalog(ctx); err != nil {
		return err
	}
	return p.bind(ctx, c)
}
