package projection

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// verdictOfOrder is what the comparison of one order found.
type verdictOfOrder struct {
	differences []Difference
	rows        int64
	expected    encoded             // what the state should be, if it is not
	answers     map[string]answered // what the owners of its aggregates said
}

// open reports whether the order is to be looked at again: something differs, or
// its owners are ahead of what is stored.
func (v verdictOfOrder) open() bool {
	if len(v.differences) > 0 {
		return true
	}
	for _, a := range v.answers {
		if a.again {
			return true
		}
	}
	return false
}

// after joins what a later look found: what differs did so each time, and what
// was once right at its owner's event is.
func (v verdictOfOrder) after(before verdictOfOrder) verdictOfOrder {
	v.answers = settle(before.answers, v.answers)
	v.differences = slices.DeleteFunc(v.differences, func(d Difference) bool {
		return !slices.ContainsFunc(before.differences, func(b Difference) bool { return b.Table == d.Table && b.Key == d.Key && b.Field == d.Field })
	})
	return v
}

// lookPauses are the rests between looks at orders that differ, or that their
// owners moved on meanwhile.
var lookPauses = [...]time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond}

// lookAt compares some orders, and those that are open again and again, together:
// an owner in the middle of a new epoch can contradict itself, and a copy that is
// behind catches up.
func (p *Projection[S]) lookAt(ctx context.Context, page []*storedOrder) ([]verdictOfOrder, error) {
	verdicts, err := p.judgeOrders(ctx, page)
	for _, pause := range lookPauses {
		if err != nil {
			return nil, err
		}
		at := map[string]int{}
		var ids []string
		for i, v := range verdicts {
			if v.open() {
				at[page[i].id] = i
				ids = append(ids, page[i].id)
			}
		}
		if len(ids) == 0 {
			return verdicts, nil
		}
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
		again, err := p.storedSome(ctx, ids)
		if err != nil {
			return nil, err
		}
		found, err := p.judgeOrders(ctx, again)
		if err != nil {
			return nil, err
		}
		for i, o := range again {
			verdicts[at[o.id]] = found[i].after(verdicts[at[o.id]])
			delete(at, o.id)
		}
		for _, gone := range at {
			verdicts[gone] = verdictOfOrder{}
		}
	}
	return verdicts, err
}

// judgeOrders compares some orders once.
func (p *Projection[S]) judgeOrders(ctx context.Context, page []*storedOrder) ([]verdictOfOrder, error) {
	verdicts := make([]verdictOfOrder, len(page))
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(reconcileWorkers)
	for i, o := range page {
		group.Go(func() (err error) {
			verdicts[i], err = p.judgeOrder(inside, o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return verdicts, nil
}
