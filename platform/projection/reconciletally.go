package projection

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// ownerTally adds up what an owner answers and what is stored here of the same
// aggregates at the same events. It is stored as JSON, in the report of an
// operation.
type ownerTally struct {
	Why      string           `json:"why,omitempty"` // why nothing is compared
	Compared int64            `json:"compared"`
	Moved    int64            `json:"moved"`
	GivenUp  int64            `json:"given_up"`
	States   map[string]sides `json:"states,omitempty"`
	Money    map[string]sides `json:"money,omitempty"` // by name and currency, a space between
}

// sides is one figure as the owner has it and as the view has it.
type sides struct {
	Owner int64 `json:"owner"`
	View  int64 `json:"view"`
}

// tallies are the tallies by source.
type tallies map[string]*ownerTally

// maxTallied bounds the names that are told apart; others are added up together.
const (
	maxTallied  = 200
	restTallied = "(others)"
)

// tallies begins to count: every source of the view, also those whose owner is
// not asked, which then say why.
func (p *Projection[S]) tallies() tallies {
	all := tallies{}
	for _, source := range p.view.Sources {
		_, why := p.truthOf(source)
		all[source] = &ownerTally{Why: why, States: map[string]sides{}, Money: map[string]sides{}}
	}
	return all
}

// add counts what was found of one aggregate.
func (t *ownerTally) add(a answered) {
	switch a.outcome {
	case outcomeMoved:
		t.Moved++
		return
	case outcomeGivenUp:
		t.GivenUp++
		return
	}
	t.Compared++
	if a.owner != nil {
		t.count(a.owner, func(s *sides) *int64 { return &s.Owner })
	}
	t.count(a.view, func(s *sides) *int64 { return &s.View })
}

func (t *ownerTally) count(said *Said, side func(*sides) *int64) {
	enter := func(into map[string]sides, name string, n int64) {
		if _, known := into[name]; !known && len(into) >= maxTallied {
			name = restTallied
		}
		s := into[name]
		*side(&s) += n
		into[name] = s
	}
	enter(t.States, said.State, 1)
	for _, m := range said.Money {
		enter(t.Money, m.Name+" "+m.Currency, m.Amount)
	}
}

// with returns two tallies added up.
func (all tallies) with(more tallies) tallies {
	if all == nil {
		return more
	}
	for source, m := range more {
		t := all[source]
		if t == nil {
			all[source] = m
			continue
		}
		t.Why, t.Compared, t.Moved, t.GivenUp = m.Why, t.Compared+m.Compared, t.Moved+m.Moved, t.GivenUp+m.GivenUp
		for state, s := range m.States {
			t.States[state] = sides{t.States[state].Owner + s.Owner, t.States[state].View + s.View}
		}
		for name, s := range m.Money {
			t.Money[name] = sides{t.Money[name].Owner + s.Owner, t.Money[name].View + s.View}
		}
	}
	return all
}

// proto returns the tallies by source, in the order of their names.
func (all tallies) proto() (out []*readmodelv1.OwnerTally) {
	for _, source := range slices.Sorted(maps.Keys(all)) {
		t := all[source]
		m := &readmodelv1.OwnerTally{Source: source, NotCompared: t.Why, Compared: t.Compared, Moved: t.Moved, GivenUp: t.GivenUp}
		for _, state := range slices.Sorted(maps.Keys(t.States)) {
			m.States = append(m.States, &readmodelv1.TallyLine{Name: state, Owner: t.States[state].Owner, View: t.States[state].View})
		}
		for _, name := range slices.Sorted(maps.Keys(t.Money)) {
			amount, currency, _ := strings.Cut(name, " ")
			m.Money = append(m.Money, &readmodelv1.TallyLine{Name: amount, Currency: currency, Owner: t.Money[name].Owner, View: t.Money[name].View})
		}
		out = append(out, m)
	}
	return out
}

// truthOf returns how a source is compared with its owner's answers, or why it
// is not.
func (p *Projection[S]) truthOf(source string) (*Truth[S], string) {
	at := slices.IndexFunc(p.truths, func(t Truth[S]) bool { return t.Source == source })
	switch {
	case at < 0:
		return nil, "not compared with the owner's answers: the view does not say how"
	case p.cfg.Owners[source] == nil:
		return nil, fmt.Sprintf("not compared with the owner's answers: there is no connection to the owner of %s", source)
	}
	return &p.truths[at], ""
}
