package projection

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A generation that is being built reads as fast as it can, on the same machine
// and from the same database as the one that answers. It stands still while that
// one falls behind, so that its users do not notice.

// govern sets the brakes of the generations that do not answer.
func (p *Projection[S]) govern(ctx context.Context, c catalog) error {
	var late string
	asked := false
	for _, g := range c.generations {
		m := p.member(g.schema)
		if m == nil {
			continue
		}
		m.building.Store(g.status == statusBuilding)
		why := ""
		switch {
		case g.held:
			why = "an operator paused it"
		case g.status == statusBuilding:
			if !asked {
				asked = true
				var err error
				if late, err = p.late(ctx, c); err != nil {
					return err
				}
			}
			why = late
		}
		m.brake.set(why)
	}
	return nil
}

// late says why what answers must be let past: it is kept, stale, and behind the
// ends of its logs. Staleness alone is not enough: a source that is down ages
// every copy of it.
func (p *Projection[S]) late(ctx context.Context, c catalog) (string, error) {
	at, known := c.by(c.pointer.schema)
	if !known || !c.followed(at) {
		return "", nil
	}
	schema := pgx.Identifier{at.schema}.Sanitize()
	var age float64
	if err := p.pool.QueryRow(ctx, "SELECT coalesce(extract(epoch FROM now() - min(as_of)), 0)::float8 FROM "+schema+".source_mark").Scan(&age); err != nil {
		return "", fmt.Errorf("look how stale %s is: %w", at, err)
	}
	staleness := time.Duration(age * float64(time.Second))
	if staleness <= p.cfg.Generations.YieldAbove {
		return "", nil
	}
	ends, err := p.bounds(ctx)
	if err != nil {
		return "", err
	}
	behind, err := p.behind(ctx, at.schema, ends)
	if err != nil || behind == 0 {
		return "", err
	}
	return fmt.Sprintf("%s answers and is %s old and %d records behind", at, staleness.Round(100*time.Millisecond), behind), nil
}
