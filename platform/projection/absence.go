package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// absenceAge is how stale a copy may be and still say that something never
// existed. It is above the pause between two control records of an idle source,
// or the same question would get two answers by turns.
const absenceAge = 10 * time.Second

// absent is an error that says which kind of absence it is.
func absent(err *fault.Error, kind freshnessv1.Absence_Kind, f *freshnessv1.Freshness) error {
	return rpc.WithDetails(err, &freshnessv1.Absence{Kind: kind, Freshness: f})
}

func (p *Projection[S]) rebuilding(from *reading) error {
	return absent(fault.New(fault.KindUnavailable, ReasonRebuilding, "the view is being built and cannot tell yet"),
		freshnessv1.Absence_KIND_REBUILDING, &freshnessv1.Freshness{Generation: from.generation.String()})
}

// notFound says honestly why something is not in an answer. That it never
// existed is said only when nothing leaves it open.
func (p *Projection[S]) notFound(ctx context.Context, q *question, f *freshnessv1.Freshness) error {
	say := func(reason fault.Reason, kind freshnessv1.Absence_Kind, why string, args ...any) error {
		return absent(fault.New(fault.KindNotFound, reason, "no %s%s", q.what, fmt.Sprintf(why, args...)), kind, f)
	}
	notYet := func(why string, args ...any) error {
		return say(ReasonNotYetProjected, freshnessv1.Absence_KIND_NOT_YET_PROJECTED, why, args...)
	}
	switch status := f.GetEntityStatus(); {
	case status > freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT:
		return say(ReasonQuarantined, freshnessv1.Absence_KIND_QUARANTINED, ": a fact of it waits to be applied")
	case !f.GetDemandMet():
		return notYet(" yet: what was demanded of the copy is not met")
	case len(f.GetEntityVersions()) > 0:
		return notYet(" yet: facts of it are here, but none that shows it")
	}
	open := p.stale(f, p.knowing)
	for _, s := range f.GetSources() {
		if s.GetCompleteness() == freshnessv1.Completeness_COMPLETENESS_UNPROVEN && s.GetAsOf() != nil {
			open = append(open, staleSource{s.GetSource(), "is not proven to be whole: " + s.GetCompletenessReason()})
		}
	}
	if q.order != "" {
		has, err := p.ownerHas(ctx, q.order)
		switch {
		case err == nil && has:
			return notYet(" yet: its owner has it")
		case err == nil && len(open) > 0 && open[0].source == orderSource:
			open = open[1:]
		}
	}
	if len(open) > 0 {
		why, _ := name(open)
		return notYet(" here, and this copy cannot rule it out: %s", why)
	}
	return say(ReasonNeverExisted, freshnessv1.Absence_KIND_NEVER_EXISTED, "")
}

// orderSource owns the aggregates whose ids are the orders'.
const orderSource = "order"

// ownerHas reports whether the owner of orders has an order.
func (p *Projection[S]) ownerHas(ctx context.Context, order string) (bool, error) {
	if _, copied := p.topics[orderSource]; !copied {
		return false, errNotAsked
	}
	facts, err := p.ask(ctx, event.Aggregate{Type: orderSource, ID: order}, 1)
	return len(facts) > 0, err
}

// Queries ask owners seldom and shortly: a copy answers by itself, whatever
// its sources do, and does not pass a flood of queries on to them.
const (
	askLimit = 250 * time.Millisecond
	askRate  = 20 // a second
)

var errNotAsked = errors.New("the owner was not asked")

// ask fetches one version of an aggregate from its owner's journal, for a query
// that cannot be answered honestly otherwise.
func (p *Projection[S]) ask(ctx context.Context, a event.Aggregate, version int64) ([]event.Fact, error) {
	if p.cfg.Journal == nil || !p.asking.take(p.clock()) {
		return nil, errNotAsked
	}
	bounded, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	facts, err := p.cfg.Journal.Events(bounded, a, version, version)
	if err != nil {
		if ctx.Err() == nil { // else the caller went away, which says nothing of the owner
			p.asking.spend(p.clock())
		}
		return nil, fmt.Errorf("ask the owner of %s: %w", a.Type, err)
	}
	return facts, nil
}

// allowance is how often something may be done: askRate times a second, and as
// many at once after a quiet second.
type allowance struct {
	mu   sync.Mutex
	left float64
	at   time.Time
}

// take reports whether it may be done now.
func (a *allowance) take(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if passed := now.Sub(a.at); passed > 0 {
		a.left, a.at = min(askRate, a.left+passed.Seconds()*askRate), now
	}
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// spend uses all of it up, after a failure: the next try is a second away.
func (a *allowance) spend(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left, a.at = 1-askRate, now
}
