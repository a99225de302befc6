package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// States that were taken over are those of the generation they came from, so
// comparing the two cannot show that the fold is another one than its author said,
// or that what was taken over was damaged. The owners can: some orders are folded
// anew from their journals.

// derivedSample is how many orders that are.
const derivedSample = 100

const (
	selectDerivedFrom = `SELECT coalesce(derived_from, '') FROM tidemark.generation WHERE schema = $1`
	sampleOrders      = `SELECT order_id FROM state ORDER BY random() LIMIT $1`
)

// checkDerived folds some orders of a generation anew that took states over. Owners
// that do not answer are a reason to wait only if somebody else does meanwhile.
func (p *Projection[S]) checkDerived(ctx context.Context, report *Report, beside bool) error {
	var from string
	if err := p.pool.QueryRow(ctx, selectDerivedFrom, p.own.schema).Scan(&from); err != nil {
		return fmt.Errorf("look what %s was made from: %w", p.own, err)
	}
	if from == "" || p.cfg.Journal == nil {
		return nil
	}
	rows, err := p.pool.Query(ctx, sampleOrders, derivedSample)
	if err != nil {
		return fmt.Errorf("choose some orders: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("choose some orders: %w", err)
	}
	some, err := p.storedSome(ctx, ids)
	if err != nil {
		return err
	}
	verdicts, err := p.lookAt(ctx, some)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case err != nil && !beside:
		p.cfg.Log.Warn("what was taken over is not compared with its owners", "generation", p.own.String(), "from", from, "error", err)
		return nil
	case err != nil:
		report.refuse(checkDerived, "some orders", "what was taken over could not be compared with its owners: %v", err)
		return nil
	}
	named := 0
	for i, v := range verdicts {
		if len(v.differences) == 0 {
			continue
		}
		if named++; named > maxNamed {
			break
		}
		d := v.differences[0]
		report.refuse(checkDerived, "order "+some[i].id, "its owners' facts do not come to what was taken over from %s: %s %s", from, d.Table, d.Field)
	}
	return nil
}
