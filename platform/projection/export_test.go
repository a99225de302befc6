package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// HealDue tries every gap whose time has come once.
func (p *Projection[S]) HealDue(ctx context.Context) (int, error) { return p.healDue(ctx) }

// LookAtParked pauses the reader, or lets it go on.
func (p *Projection[S]) LookAtParked(ctx context.Context) error { return p.lookAtParked(ctx) }

// Cached is how many orders a partition has in memory.
func (p *Projection[S]) Cached(number int32) int { return len(p.partitions[number].orders) }

// Point makes the generation answer without waiting for it to be built.
func (p *Projection[S]) Point(ctx context.Context) error {
	c, err := p.readCatalog(ctx)
	if err != nil {
		return err
	}
	if c.pointer.schema != p.own.schema {
		if err := p.swap(ctx, p.own, c.pointer, nil); err != nil {
			return err
		}
	}
	_, err = p.look(ctx)
	return err
}

// Alone makes the projection believe that it owns every partition, so that a
// waiting read looks again only when a commit wakes it.
func (p *Projection[S]) Alone() { p.foreign = func() bool { return false } }

// ForeignIs says whether another process applies what is read here.
func (p *Projection[S]) ForeignIs(f func() bool) { p.foreign = f }

// Reassigned is what the consumer says after a rebalance.
func (p *Projection[S]) Reassigned() { p.waiters.wakeAll() }

// Hint runs the exchange with other processes until ctx ends. Nothing but a hint
// wakes a read that waits for them.
func (p *Projection[S]) Hint(ctx context.Context) error {
	p.waiters.hints.fallback, p.waiters.hints.lasts = time.Hour, time.Hour
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.tellOthers(ctx) })
	group.Go(func() error { return p.hearOthers(ctx) })
	return group.Wait()
}

// Hears reports whether it hears other processes, and Wanted whether they want
// to hear it.
func (p *Projection[S]) Hears() bool  { return p.waiters.hints.hears.Load() }
func (p *Projection[S]) Wanted() bool { return p.waiters.hints.isWanted() }

// Knowing is how stale it may be and rule something out. It gives slow machines
// more than they need.
func (p *Projection[S]) Knowing(d time.Duration) { p.knowing = d }

// Hurried reports whether a read waits.
func (p *Projection[S]) Hurried() bool { return p.waiters.hurried() }

// ProveDue does once what control totals ask for.
func (p *Projection[S]) ProveDue(ctx context.Context) error {
	return p.proveDue(ctx, map[jobKey]*patience{})
}

// Refold rebuilds one order from the journals.
func (p *Projection[S]) Refold(ctx context.Context, order string) error { return p.refold(ctx, order) }

// At makes the kernel believe a time.
func (p *Projection[S]) At(now time.Time) { p.clock = func() time.Time { return now } }

// Learn makes known where the logs begin and end now.
func (p *Projection[S]) Learn(known map[string]map[int32]consumer.Bounds) {
	p.ends.note(p.clock(), known)
	p.claiming.Lock()
	defer p.claiming.Unlock()
	p.claimed.at = time.Time{}
}

// Look brings the process in line with the catalog, once.
func (p *Projection[S]) Look(ctx context.Context) error { _, err := p.look(ctx); return err }

// Beside returns another generation of this process, or nil.
func (p *Projection[S]) Beside(name string) *Projection[S] {
	for _, schema := range p.schemas() {
		if m := p.member(schema); m != nil && m.own.String() == name {
			return m.Projection
		}
	}
	return nil
}

// Hasten makes everything that waits for the sake of others short.
func (p *Projection[S]) Hasten() {
	p.lease, p.patience, p.grace, p.progressEvery, p.loneFor = 2*time.Second, 2*time.Second, 0, 10*time.Millisecond, 0
}

// Operate carries out operations until the context ends.
func (p *Projection[S]) Operate(ctx context.Context) error { return p.operate(ctx) }

// Die takes an operation up and is killed at a phase, before which it does its
// work, and after which it writes nothing. It returns false if there was none.
func (p *Projection[S]) Die(ctx context.Context, phase string) (bool, error) {
	o, err := p.take(ctx)
	if err != nil || o == nil {
		return false, err
	}
	killed := errors.New("killed")
	p.fail = func(at string) error {
		if at == o.kind+" "+phase {
			return killed
		}
		return nil
	}
	defer func() { p.fail = func(string) error { return nil } }()
	if err = p.perform(ctx, o); errors.Is(err, killed) {
		return true, nil
	}
	return true, fmt.Errorf("it was not killed at %s: %w", phase, err)
}

// Operators returns the service for operators.
func (p *Projection[S]) Operators() readmodelv1.GenerationServiceServer {
	return &generationServer[S]{p: p}
}

// Braked says why the reader stands still.
func (p *Projection[S]) Braked() string { return p.brake.holds() }

// HonourSkips gives up what this generation parked and an operator had skipped.
func (p *Projection[S]) HonourSkips(ctx context.Context) error { return p.honourSkips(ctx) }

// ReconcileSome compares the next n orders with their owners.
func (p *Projection[S]) ReconcileSome(ctx context.Context, n int) error {
	return p.reconcileSome(ctx, n)
}

// Before does something once when an operation comes to a phase.
func (p *Projection[S]) Before(phase string, do func()) {
	once := sync.OnceFunc(do)
	p.fail = func(at string) error {
		if at == phase {
			once()
		}
		return nil
	}
}

// Mistake makes reads believe that the marks of order's partition are of another
// time, at the revision that is stored, as a process would whose server was taken
// back in time.
func (p *Projection[S]) Mistake(order string, asOf time.Time) {
	last := p.snapshots.last.Load()
	wrong := &known{server: last.server.Add(-time.Hour), partitions: slices.Clone(last.partitions)}
	at := &wrong.partitions[p.partitionOf(order)]
	at.marks = slices.Clone(at.marks)
	for i := range at.marks {
		at.marks[i].asOf = asOf
	}
	p.snapshots.last.Store(wrong)
}

// Failing asks fail at every failpoint.
func (p *Projection[S]) Failing(fail func(string) error) { p.fail = fail }

// Brake holds the reader for a reason, or lets it go.
func (p *Projection[S]) Brake(why string) { p.brake.set(why) }

// AnswerElsewhere answers through other connections, as before a swap; back swaps
// and closes them.
func (p *Projection[S]) AnswerElsewhere(ctx context.Context) (back func(), err error) {
	from, err := openSnapshots(ctx, p.cfg, p.own.schema)
	if err != nil {
		return nil, err
	}
	own := p.reads.Load()
	p.answerFrom(ctx, &reading{from: from, generation: own.generation, ready: true})
	return func() { p.answerFrom(context.Background(), own); from.pool.Close() }, nil
}

// BulkWorkers is how many passes go on at once, and BulkShare what one of them may
// take of the memory of all.
func BulkWorkers(cores, conns, partitions int, beside bool) int {
	return workers(cores, conns, partitions, beside)
}

func BulkShare(memory int64, many int) int64 { return share(memory, many) }
