package projection

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// What an owner answers is compared with what its own journal folds to here, at
// the same event. What is stored is compared with that fold too, so one that was
// written over is named there and not again here: what is named here is a Fold
// that misreads a fact, or an owner whose state is not what its journal says.

// tableOwner is the pseudo table of such differences.
const tableOwner = "owner"

// answered is what came of the question about one aggregate.
type answered struct {
	source      string
	outcome     outcomeOfAnswer
	again       bool  // another look may find it at the owner's event
	owner       *Said // nil if it has none
	view        *Said // as it is stored
	differences []Difference
}

type outcomeOfAnswer int

const (
	outcomeCompared outcomeOfAnswer = iota
	outcomeMoved
	outcomeGivenUp
)

// hearOwners compares every aggregate of an order whose source says how. fresh is
// what the facts, all of them up to the applied versions, fold to; of what was
// given up nobody has an opinion.
func (p *Projection[S]) hearOwners(ctx context.Context, stored, fresh *fold.Order[S], facts []event.Fact, skipped []string) (map[string]answered, error) {
	newest, givenUp := map[string]event.Fact{}, map[string]bool{}
	for _, f := range facts {
		key := f.Aggregate.String()
		newest[key] = f
		_, void := f.Body.(*control.FactVoided)
		givenUp[key] = givenUp[key] || void || slices.Contains(skipped, f.ID)
	}
	all := map[string]answered{}
	for _, key := range slices.Sorted(maps.Keys(stored.Applied)) {
		a := aggregateOf(key)
		truth, _ := p.truthOf(a.Type)
		switch {
		case truth == nil:
			continue
		case givenUp[key]:
			all[key] = answered{source: a.Type, outcome: outcomeGivenUp}
			continue
		}
		at := newest[key]
		answer, err := truth.Ask(ctx, p.cfg.Owners[a.Type], a.ID)
		missing := status.Code(err) == codes.NotFound
		if err != nil && !missing {
			return nil, fmt.Errorf("ask the owner of %s: %w", a.Type, err)
		}
		if at.ID == "" || !missing && (answer.At.EventID == "" || answer.At.Version > at.Version) {
			record := stored.Applied[key]
			all[key] = answered{source: a.Type, outcome: outcomeMoved, again: answer.At.EventID != "" && at.ID != "" && record.Parked == ""}
			continue
		}
		view, should := truth.shown(stored.ID, &stored.State, a.ID), truth.shown(stored.ID, &fresh.State, a.ID)
		one := answered{source: a.Type, view: &view}
		differ := func(field, owner, here string) {
			one.differences = append(one.differences, Difference{Order: stored.ID, Table: tableOwner, Key: key, Field: field, Base: owner, Value: here})
		}
		switch {
		case missing:
			differ("", "", "(row)")
		case answer.At.Version < at.Version: // its journal served that version just now
			one.owner = &answer.Said
			differ("version", fmt.Sprint(answer.At.Version), fmt.Sprint(at.Version))
		case answer.At.EventID != at.ID:
			one.owner = &answer.Said
			differ("event", answer.At.EventID, at.ID)
		default:
			one.owner = &answer.Said
			answer.Said.compare(should, differ)
		}
		all[key] = one
	}
	return all, nil
}

// shown calls Shown and survives what it makes of a state that somebody wrote.
func (t *Truth[S]) shown(order string, s *S, id string) (said Said) {
	defer func() {
		if recover() != nil {
			said = Said{State: "(cannot be shown)"}
		}
	}()
	return t.Shown(order, s, id)
}

// compare tells every field that two sides say differently.
func (s Said) compare(with Said, differ func(field, here, there string)) {
	mine, theirs := s.values(), with.values()
	both := maps.Clone(mine)
	maps.Copy(both, theirs)
	for _, name := range slices.Sorted(maps.Keys(both)) {
		a, b := mine[name], theirs[name]
		switch {
		case a.Value == b.Value:
		case a.Personal || b.Personal:
			differ(name, masked, masked)
		default:
			differ(name, a.Value, b.Value)
		}
	}
}

// settle joins two looks at an order's aggregates: one that was seen at the
// owner's event, and right, stays so when it has moved since.
func settle(before, now map[string]answered) map[string]answered {
	for key, b := range before {
		n, ok := now[key]
		if ok && n.outcome == outcomeMoved && b.outcome == outcomeCompared && len(b.differences) == 0 {
			now[key] = b
		}
	}
	return now
}
