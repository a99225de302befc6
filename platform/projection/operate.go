package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

const operateTick = time.Second

// operate carries out operations on this version's generations, until the
// context ends. One that takes long does not hold up another.
func (p *Projection[S]) operate(ctx context.Context) error {
	running := make(chan struct{}, 4)
	defer func() {
		for range cap(running) {
			running <- struct{}{}
		}
	}()
	ticker := time.NewTicker(operateTick)
	defer ticker.Stop()
	for {
		o, err := p.take(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			p.cfg.Log.Warn("operations cannot be looked for now", "view", p.view.Name, "error", err)
		case o != nil:
			running <- struct{}{}
			go func() {
				defer func() { <-running }()
				p.carryOut(ctx, o)
			}()
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.family.tasks:
		case <-ticker.C:
		}
	}
}

// errPausedNow ends the carrying out of an operation that is paused.
var errPausedNow = errors.New("it is paused")

// carryOut works on an operation until it ended, is paused, or cannot go on now.
func (p *Projection[S]) carryOut(ctx context.Context, o *operation) {
	err := p.perform(ctx, o)
	log := p.cfg.Log.With("view", p.view.Name, "operation", o.id, "kind", o.kind)
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	ended := opSucceeded
	switch {
	case err == nil:
	case errors.Is(err, errLost):
		log.Warn("an operation is carried out by another process now")
		return
	case ctx.Err() != nil:
		err = p.release(cleanup, o, 0)
	case errors.Is(err, errPausedNow):
		err = p.release(cleanup, o, 0)
		ended = ""
	case errors.Is(err, errCancelled):
		err = p.undo(cleanup, o)
		ended = opCancelled
	case final(err):
		ended = opFailed
	default:
		o.failure = fold.Clean(err.Error())
		log.Warn("an operation cannot go on now and is tried again", "error", err)
		err = p.release(cleanup, o, time.Second)
		ended = ""
	}
	if ended != "" && ctx.Err() == nil {
		err = p.finish(cleanup, o, ended, err)
	}
	if err != nil && !errors.Is(err, errLost) {
		log.Warn("it cannot be written how an operation stands; it is taken up again", "error", err)
		return
	}
	poke(p.family.again)
	if ended != "" {
		log.Info("an operation ended", "state", ended)
	}
}

// final reports whether an error will not pass by itself.
func final(err error) bool {
	f := fault.As(err)
	return f != nil && f.Kind != fault.KindUnavailable && f.Kind != fault.KindDeadlineExceeded && f.Kind != fault.KindInternal
}

// perform does what an operation is for. A fault is final; any other error means
// to try again.
func (p *Projection[S]) perform(ctx context.Context, o *operation) error {
	if o.state == opCancelling {
		return errCancelled
	}
	switch o.kind {
	case kindRebuild:
		return p.rebuild(ctx, o)
	case kindCompare, kindSwap, kindRollback:
		return p.switchOver(ctx, o)
	case kindDrop:
		return p.drop(ctx, o)
	case kindRefold:
		return p.refoldMany(ctx, o)
	case kindReconcile:
		return p.reconcile(ctx, o)
	}
	return fault.New(fault.KindUnimplemented, fault.ReasonUnimplemented, "this program cannot carry out %s", o.kind)
}

// undo takes back what a cancelled operation did.
func (p *Projection[S]) undo(ctx context.Context, o *operation) error {
	if o.kind != kindRebuild || o.schema == "" {
		return nil
	}
	g := generation{name: p.view.Name, schema: o.schema}
	tag, err := p.pool.Exec(ctx, `UPDATE tidemark.generation g SET status = 'DROPPING' WHERE schema = $1 AND status IN ('BUILDING', 'READY', 'DROPPING')
		AND NOT EXISTS (SELECT FROM tidemark.pointer p WHERE p.schema = g.schema)`, o.schema)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	if err := p.everybodyLetsGo(ctx); err != nil {
		return err
	}
	return p.dropGeneration(ctx, g)
}

// everybodyLetsGo waits until processes have had the time to stop keeping what
// is to be dropped. One that has not fails harmlessly: its tables are gone.
func (p *Projection[S]) everybodyLetsGo(ctx context.Context) error {
	if _, err := p.look(ctx); err != nil {
		return err
	}
	return rest(ctx, p.grace)
}

// at notes a phase, and stops where the operation is to stop.
func (p *Projection[S]) at(ctx context.Context, o *operation, phase string) error {
	o.phase = phase
	if err := p.keepUp(ctx, o); err != nil {
		return err
	}
	switch o.state {
	case opPaused:
		return errPausedNow
	case opCancelling:
		return errCancelled
	}
	return p.fail(o.kind + " " + phase)
}

const (
	phaseBegins   = "begins"
	phaseMakes    = "makes the generation"
	phaseBuilds   = "builds"
	phaseStands   = "stands still"
	phaseCompares = "compares"
	phaseSwitches = "switches"
	phaseSwitched = "switched"
	phaseLetsGo   = "waits for others to let go"
	phaseDrops    = "drops"
	phaseRefolds  = "refolds"
)

// rebuild makes another generation of this version and waits until it is built:
// every process of the version builds it, this one watches.
func (p *Projection[S]) rebuild(ctx context.Context, o *operation) error {
	if err := p.at(ctx, o, phaseBegins); err != nil {
		return err
	}
	if o.schema == "" {
		if err := p.at(ctx, o, phaseMakes); err != nil {
			return err
		}
		if err := p.makeFor(ctx, o); err != nil {
			return err
		}
	}
	// The row of the generation, not that of the operation, holds the brake.
	if err := p.holdBuild(ctx, o, false); err != nil {
		return err
	}
	var meter rateMeter
	for {
		if _, err := p.look(ctx); err != nil {
			return err
		}
		c, err := p.readCatalog(ctx)
		if err != nil {
			return err
		}
		g, ok := c.by(o.schema)
		if !ok {
			return fault.New(fault.KindFailedPrecondition, fault.ReasonIllegalTransition, "generation %s is not there any more", o.schema)
		}
		if g.status != statusBuilding {
			if err := p.at(ctx, o, phaseBuilds); err != nil && !errors.Is(err, errPausedNow) {
				return err
			}
			o.done = max(o.done, o.total)
			return nil
		}
		if err := p.measure(ctx, o, &meter); err != nil {
			return err
		}
		phase := phaseBuilds
		o.failure = ""
		if m := p.member(o.schema); m != nil {
			if why := m.brake.holds(); why != "" {
				phase, o.failure = phaseStands, why
			}
		}
		if err := p.at(ctx, o, phase); err != nil {
			if errors.Is(err, errPausedNow) {
				return errors.Join(err, p.holdBuild(ctx, o, true))
			}
			return err
		}
		if err := rest(ctx, p.progressEvery); err != nil {
			return err
		}
	}
}

// makeFor makes the generation of a rebuild, once.
func (p *Projection[S]) makeFor(ctx context.Context, o *operation) error {
	var made generation
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		if err := o.mine(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockCatalog, "tidemark.generation "+p.view.Name); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT schema FROM tidemark.generation WHERE operation = $1", o.id).Scan(&made.schema)
		if errors.Is(err, pgx.ErrNoRows) {
			if made, err = nextGeneration(ctx, tx, p.view, o.id, p.cfg.Kafka.PartitionCount()); err == nil {
				err = upgradeKernel(ctx, tx, made.schema)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("make a generation: %w", err)
	}
	if err := p.fail(o.kind + " made"); err != nil {
		return err
	}
	o.schema = made.schema
	return p.at(ctx, o, phaseMakes)
}

func (p *Projection[S]) holdBuild(ctx context.Context, o *operation, held bool) error {
	if _, err := p.pool.Exec(ctx, "UPDATE tidemark.generation SET held = $2 WHERE schema = $1", o.schema, held); err != nil {
		return fmt.Errorf("hold a generation: %w", err)
	}
	poke(p.family.again)
	return nil
}

// measure counts the records that the generation has read, and all there are.
func (p *Projection[S]) measure(ctx context.Context, o *operation, meter *rateMeter) error {
	if meter.ends == nil || time.Since(meter.endsAt) > 5*time.Second {
		ends, err := p.bounds(ctx)
		if err != nil {
			return err
		}
		meter.ends, meter.endsAt = ends, time.Now()
	}
	behind, err := p.behind(ctx, o.schema, meter.ends)
	if err != nil {
		return err
	}
	o.total = 0
	for _, topic := range p.dataTopics() {
		for _, log := range meter.ends[topic] {
			o.total += log.End - log.Start
		}
	}
	// What is copied in bulk shows in positions only at its end.
	var copied int64
	if err := p.pool.QueryRow(ctx, bulkProgress+pgx.Identifier{o.schema}.Sanitize()+".bulk_part").Scan(&copied); err != nil {
		return fmt.Errorf("read how far copying in bulk is: %w", err)
	}
	o.done = min(o.total, o.total-behind+copied)
	o.rate = meter.rate(o.done, time.Now())
	return nil
}
