package projection

import (
	"context"
	"time"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

// HealDue tries every gap whose time has come once.
func (p *Projection[S]) HealDue(ctx context.Context) (int, error) { return p.healDue(ctx) }

// LookAtParked pauses the reader, or lets it go on.
func (p *Projection[S]) LookAtParked(ctx context.Context) error { return p.lookAtParked(ctx) }

// Cached is how many orders a partition has in memory.
func (p *Projection[S]) Cached(number int32) int { return len(p.partitions[number].orders) }

// Point makes the generation answer without waiting for it to be built.
func (p *Projection[S]) Point(ctx context.Context) error {
	if err := p.own.point(ctx, p.pool); err != nil {
		return err
	}
	p.answerFromOwn()
	return nil
}

// Alone makes the projection believe that it owns every partition, so that a
// waiting read looks again only when a commit wakes it.
func (p *Projection[S]) Alone() { p.foreign = func() bool { return false } }

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

// EndsAre says where the logs of one partition number end now, without a broker.
func (p *Projection[S]) EndsAre(number int32, offsets map[string]int64) {
	known := map[string]map[int32]consumer.Bounds{}
	for topic, end := range offsets {
		known[topic] = map[int32]consumer.Bounds{number: {End: end}}
	}
	p.BoundsAre(known)
}

// BoundsAre says where the logs begin and end now, without a broker.
func (p *Projection[S]) BoundsAre(known map[string]map[int32]consumer.Bounds) {
	p.bounds = func(context.Context) (map[string]map[int32]consumer.Bounds, error) { return known, nil }
	p.ends.note(p.clock(), known)
	p.claimed.at = time.Time{}
}
