package projection

import "context"

// HealDue tries every gap whose time has come once.
func (p *Projection[S]) HealDue(ctx context.Context) (int, error) { return p.healDue(ctx) }

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
