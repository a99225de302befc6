package projection

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// verdictOfOrder is what the comparison of one order found.
type verdictOfOrder struct {
	differences []Difference
	rows        int64
	expected    fold.Encoded        // what the state should be, if it is not
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

// lookPauses are the rests between looks at an order that differs, or that its
// owner moved on meanwhile.
var lookPauses = [...]time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond}

// maxOpen bounds the orders that wait for another look.
const maxOpen = 10_000

// looks compares orders, and those that are open again and again: an owner in the
// middle of a new epoch can contradict itself, and a copy that is behind catches
// up. Nobody waits for them while there are others to compare.
type looks[S any] struct {
	p    *Projection[S]
	open []openLook // by when they are due
	done func(id string, v verdictOfOrder)
}

type openLook struct {
	id  string
	v   verdictOfOrder
	n   int // looks again, so far
	due time.Time
}

// at looks at some orders, and again at those that are due.
func (l *looks[S]) at(ctx context.Context, page []*storedOrder) error {
	verdicts, err := l.p.judgeOrders(ctx, page)
	if err != nil {
		return err
	}
	for i, v := range verdicts {
		l.settle(openLook{id: page[i].id, v: v})
	}
	return l.again(ctx, len(l.open) > maxOpen)
}

// settle is done with an order, or has it wait for another look.
func (l *looks[S]) settle(o openLook) {
	if !o.v.open() || o.n == len(lookPauses) {
		l.done(o.id, o.v)
		return
	}
	o.due = time.Now().Add(lookPauses[o.n])
	o.n++
	at, _ := slices.BinarySearchFunc(l.open, o, func(a, b openLook) int { return a.due.Compare(b.due) })
	l.open = slices.Insert(l.open, at, o)
}

// again looks at the orders that are due, or waits for all and looks at them.
func (l *looks[S]) again(ctx context.Context, all bool) error {
	for len(l.open) > 0 {
		if wait := time.Until(l.open[0].due); wait > 0 && !all {
			return nil
		} else if wait > 0 {
			if err := rest(ctx, wait); err != nil {
				return err
			}
		}
		now := time.Now()
		due := map[string]openLook{}
		for len(due) < reconcilePage && len(l.open) > 0 && !l.open[0].due.After(now) {
			due[l.open[0].id] = l.open[0]
			l.open = l.open[1:]
		}
		page, err := l.p.storedSome(ctx, slices.Collect(maps.Keys(due)))
		if err != nil {
			return err
		}
		verdicts, err := l.p.judgeOrders(ctx, page)
		if err != nil {
			return err
		}
		for i, o := range page {
			before := due[o.id]
			delete(due, o.id)
			before.v = verdicts[i].after(before.v)
			l.settle(before)
		}
		for gone := range due {
			l.done(gone, verdictOfOrder{})
		}
	}
	return nil
}

// lookAt compares some orders until none is open, or has been for long enough.
func (p *Projection[S]) lookAt(ctx context.Context, page []*storedOrder) ([]verdictOfOrder, error) {
	at := map[string]int{}
	for i, o := range page {
		at[o.id] = i
	}
	verdicts := make([]verdictOfOrder, len(page))
	l := &looks[S]{p: p, done: func(id string, v verdictOfOrder) { verdicts[at[id]] = v }}
	if err := l.at(ctx, page); err != nil {
		return nil, err
	}
	return verdicts, l.again(ctx, true)
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
