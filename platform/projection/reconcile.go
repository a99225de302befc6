package projection

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Reconciling compares a generation with its owners' journals and with what they
// answer, order by order in the order of their ids, a page in memory. It changes
// nothing: what it finds, a person looks at and refolds.

const (
	reconcilePage    = 100
	reconcileWorkers = 4
	maxDiffering     = 200 // differences that are named
	maxLate          = 10_000
	phaseReconciles  = "compares with the owners"
	phaseSums        = "adds the states up"
	phaseHeads       = "compares newest versions"
)

// reconcile is the operation. One that is taken over begins anew.
func (p *Projection[S]) reconcile(ctx context.Context, o *operation) error {
	if p.cfg.Journal == nil {
		return errNoJournal
	}
	at := p.member(o.schema)
	if at == nil {
		return fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "generation %s is not kept here any more", o.schema)
	}
	o.report = &Report{Generation: at.own.String(), Base: "the owners' journals and answers", Owners: at.tallies()}
	o.done, o.total = 0, 0
	if o.request.Order != "" {
		return p.during(ctx, o, phaseReconciles, func(ctx context.Context, progress func(done, total int64)) error {
			page, err := at.storedSome(ctx, []string{o.request.Order})
			if err != nil {
				return err
			}
			if len(page) == 0 {
				return fault.NotFound("order in the read model", o.request.Order)
			}
			progress(1, 1)
			return at.reconcilePage(ctx, page, o.report)
		})
	}
	wrong := map[string]fold.Encoded{}
	for _, step := range []struct {
		phase string
		do    func(context.Context, func(done, total int64)) error
	}{
		{phaseReconciles, func(ctx context.Context, progress func(done, total int64)) error {
			return at.reconcileOrders(ctx, wrong, o.report, progress)
		}},
		{phaseSums, func(ctx context.Context, _ func(done, total int64)) error {
			return at.reconcileSums(ctx, wrong, o.report)
		}},
		{phaseHeads, func(ctx context.Context, _ func(done, total int64)) error { return at.reconcileHeads(ctx, o.report) }},
	} {
		if err := p.during(ctx, o, step.phase, step.do); err != nil {
			return err
		}
	}
	return nil
}

// during does a part of an operation that takes long, under its lease.
func (p *Projection[S]) during(ctx context.Context, o *operation, phase string, do func(context.Context, func(done, total int64)) error) error {
	if err := p.at(ctx, o, phase); err != nil {
		return err
	}
	beat := p.beat(ctx, o)
	err := do(beat.ctx, beat.progress)
	if lost := beat.end(); lost != nil {
		return lost
	}
	return err
}

// reconcileOrders compares every order. It notes the states that are wrong, as
// they should be.
func (p *Projection[S]) reconcileOrders(ctx context.Context, wrong map[string]fold.Encoded, report *Report, progress func(done, total int64)) error {
	var total int64
	if err := p.pool.QueryRow(ctx, "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'state'::regclass").Scan(&total); err != nil {
		return fmt.Errorf("estimate the orders: %w", err)
	}
	looks := p.looks(wrong, report)
	for behind := ""; ; {
		page, to, last, err := p.storedPage(ctx, behind, reconcilePage)
		if err != nil {
			return err
		}
		if err := looks.at(ctx, page); err != nil {
			return err
		}
		progress(report.OrdersCompared, max(total, report.OrdersCompared))
		if last {
			break
		}
		behind = to
	}
	if err := looks.again(ctx, true); err != nil {
		return err
	}
	slices.SortStableFunc(report.Differences, func(a, b Difference) int { return strings.Compare(a.Order, b.Order) })
	return nil
}

// reconcilePage compares some orders and adds what it finds to the report.
func (p *Projection[S]) reconcilePage(ctx context.Context, page []*storedOrder, report *Report) error {
	looks := p.looks(map[string]fold.Encoded{}, report)
	if err := looks.at(ctx, page); err != nil {
		return err
	}
	return looks.again(ctx, true)
}

// looks compares orders for a report. It notes the states that are wrong, as they
// should be.
func (p *Projection[S]) looks(wrong map[string]fold.Encoded, report *Report) *looks[S] {
	return &looks[S]{p: p, done: func(id string, v verdictOfOrder) {
		report.OrdersCompared++
		report.RowsCompared += v.rows
		report.differing(v.differences...)
		for _, a := range v.answers {
			report.Owners[a.source].add(a)
		}
		if v.expected.State != nil && len(wrong) < maxDiffering {
			wrong[id] = v.expected
		}
	}}
}

func (r *Report) differing(found ...Difference) {
	for _, d := range found {
		if r.Differing++; len(r.Differences) < maxDiffering {
			r.Differences = append(r.Differences, d)
		}
	}
}

// reconcileSums compares sums with the states of one snapshot. A state that is
// wrong counts as it should be: sums are not blamed for it.
func (p *Projection[S]) reconcileSums(ctx context.Context, wrong map[string]fold.Encoded, report *Report) error {
	c := &comparison[S]{p: p, to: p, report: report}
	found := len(report.Violations)
	err := p.inSnapshot(ctx, func(tx pgx.Tx) error {
		c.sums = newSumCheck(p.view.Specs())
		states, err := openCursor(ctx, tx, "reconciled", stateColumns, pgx.Identifier{p.own.schema, "state"}.Sanitize())
		if err != nil {
			return err
		}
		for {
			id, ok, err := states.peek(ctx)
			if err != nil {
				return err
			}
			if !ok {
				return c.checkSums(ctx, tx)
			}
			rows, err := states.take(ctx, id)
			if err != nil {
				return err
			}
			var pr pair[S]
			pr.state(0, rows[0])
			if should, ok := wrong[id]; ok && sameText(should.Applied, pr.new.applied) {
				pr.new.state = should.State
			}
			tables, err := c.derive(id, pr.new)
			if err != nil {
				return err
			}
			for i, spec := range p.view.Specs() {
				if spec.Kind != fold.KindSums {
					continue
				}
				for _, r := range tables[i] {
					c.sums.add(spec, pr.partition, r, 1)
				}
			}
		}
	})
	report.Differing += int64(len(report.Violations) - found)
	return err
}

// sameText compares versions of an order, whatever was refolded: epochs and ids
// included, parked or not.
func sameText(a, b []byte) bool {
	x, errA := fold.OpenVersions(a)
	y, errB := fold.OpenVersions(b)
	return errA == nil && errB == nil && sameVersions(x.Aggregates, y.Aggregates)
}

// lateHead is an aggregate that is behind its owner.
type lateHead struct {
	token   event.Token
	version int64
	order   string
}

// reconcileHeads compares the owners' newest versions with those applied, and
// waits for the reader. What stands still says so by itself.
func (p *Projection[S]) reconcileHeads(ctx context.Context, report *Report) error {
	var late []lateHead
	for _, source := range p.view.Sources {
		for partition := range p.cfg.Kafka.PartitionCount() {
			for page, first := "", true; first || page != ""; first = false {
				heads, next, err := p.cfg.Journal.Heads(ctx, source, partition, page)
				if err != nil {
					return err
				}
				some, err := p.behindHeads(ctx, heads)
				if err != nil {
					return err
				}
				if late = append(late, some...); len(late) > maxLate {
					report.refuse(checkVersions, "source "+source, "more than %d aggregates are behind their owner: it is compared again when they are not", maxLate)
					report.Differing++
					return nil
				}
				page = next
			}
		}
	}
	for deadline := time.Now().Add(p.patience); len(late) > 0 && time.Now().Before(deadline); {
		if err := rest(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		var still []lateHead
		for some := range slices.Chunk(late, comparePage) {
			tokens := make([]event.Token, len(some))
			for i, l := range some {
				tokens[i] = l.token
			}
			behind, err := p.behindHeads(ctx, tokens)
			if err != nil {
				return err
			}
			still = append(still, behind...)
		}
		late = still
	}
	for _, l := range late {
		if l.order == "" {
			facts, err := p.cfg.Journal.Events(ctx, l.token.Aggregate, l.token.Version, l.token.Version)
			if err != nil {
				return err
			}
			if len(facts) > 0 {
				l.order = facts[0].Key
			}
		}
		report.differing(Difference{Order: l.order, Table: tableApplied, Key: l.token.Aggregate.String(), Base: fmt.Sprint(l.token.Version), Value: fmt.Sprint(l.version)})
	}
	return nil
}

// behindHeads returns those heads that are not applied here and do not stand
// still.
func (p *Projection[S]) behindHeads(ctx context.Context, heads []event.Token) (late []lateHead, err error) {
	entries, err := p.entries(ctx, heads)
	if err != nil {
		return nil, err
	}
	for _, h := range heads {
		switch e := entries[h.Aggregate]; {
		case e.record == nil:
			late = append(late, lateHead{h, 0, ""})
		case e.record.Version < h.Version && e.record.Parked == "":
			late = append(late, lateHead{h, e.record.Version, e.order})
		}
	}
	return late, nil
}
