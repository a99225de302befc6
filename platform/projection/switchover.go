package projection

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// switchOver goes through the gate and, unless it is only a comparison, switches.
func (p *Projection[S]) switchOver(ctx context.Context, o *operation) error {
	if err := p.at(ctx, o, phaseBegins); err != nil {
		return err
	}
	if _, err := p.look(ctx); err != nil {
		return err
	}
	c, err := p.readCatalog(ctx)
	if err != nil {
		return err
	}
	to, base, err := p.sides(c, o)
	if err != nil {
		return err
	}
	if o.kind != kindCompare && c.pointer.schema == to.own.schema {
		return nil // a process that was killed had done it
	}
	if err := p.at(ctx, o, phaseCompares); err != nil {
		return err
	}
	options := gateOptions{rows: o.kind != kindRollback, parked: o.kind != kindRollback, expect: o.request.Expect, patience: p.patience}
	beat := p.beat(ctx, o)
	o.report, err = p.gate(beat.ctx, to.Projection, base, options, beat.progress)
	if lost := beat.end(); lost != nil {
		return lost
	}
	if err != nil {
		return err
	}
	o.done = o.report.OrdersCompared + o.report.OrdersApart
	o.total = o.done
	if o.kind == kindCompare {
		return nil
	}
	if len(o.report.Violations) > 0 {
		return fault.New(fault.KindFailedPrecondition, ReasonGateRefused, "%s may not answer in the place of %s: %s", to.own, base, o.report.reasons())
	}
	if err := p.at(ctx, o, phaseSwitches); err != nil {
		return err
	}
	err = p.swap(ctx, to.own, c.pointer, o.mine)
	if errors.Is(err, errPointerMoved) {
		return fault.Conflict("another generation was switched to meanwhile; nothing was changed")
	}
	if err != nil {
		return err
	}
	if err := p.at(ctx, o, phaseSwitched); err != nil && !errors.Is(err, errCancelled) && !errors.Is(err, errPausedNow) {
		return err
	}
	_, err = p.look(ctx)
	return err
}

// sides finds the generations of a switch.
func (p *Projection[S]) sides(c catalog, o *operation) (to *member[S], base listed, err error) {
	g, ok := c.by(o.schema)
	if !ok {
		return nil, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "generation %s is not there any more", o.request.Generation)
	}
	if base, ok = c.by(o.base); !ok {
		return nil, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "the generation to compare with is not there any more")
	}
	o.report = &Report{Generation: g.String(), Base: base.String()}
	if g.status == statusBuilding {
		o.report.refuse(checkState, g.String(), "it is still being built")
	}
	to = p.member(o.schema)
	if to == nil {
		o.report.refuse(checkFollowed, g.String(), "no process keeps it: its rollback window is over, or it is being dropped")
	}
	if len(o.report.Violations) > 0 {
		return nil, base, fault.New(fault.KindFailedPrecondition, ReasonGateRefused, "%s may not answer in the place of %s: %s", g, base, o.report.reasons())
	}
	return to, base, nil
}

// drop removes a generation.
func (p *Projection[S]) drop(ctx context.Context, o *operation) error {
	if err := p.at(ctx, o, phaseBegins); err != nil {
		return err
	}
	g := generation{name: p.view.Name, schema: o.schema}
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		if err := o.mine(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockCatalog, "tidemark.generation "+p.view.Name); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE tidemark.generation g SET status = 'DROPPING' WHERE schema = $1 AND status <> 'DROPPED'
			AND NOT EXISTS (SELECT FROM tidemark.pointer p WHERE p.schema = g.schema)`, o.schema)
		if err == nil && tag.RowsAffected() == 0 {
			err = fault.New(fault.KindFailedPrecondition, fault.ReasonIllegalTransition, "generation %s answers, or is dropped already", o.request.Generation)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop %s: %w", o.request.Generation, err)
	}
	if err := p.at(ctx, o, phaseLetsGo); err != nil {
		return err
	}
	if err := p.everybodyLetsGo(ctx); err != nil {
		return err
	}
	if err := p.at(ctx, o, phaseDrops); err != nil {
		return err
	}
	return p.dropGeneration(ctx, g)
}
