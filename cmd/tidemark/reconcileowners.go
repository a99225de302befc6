package main

import (
	"maps"
	"slices"
	"strings"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// ownersTables prints what the owners answer beside what a read model shows.
func ownersTables(a *app, all []*readmodelv1.OwnerTally) error {
	if len(all) == 0 {
		return nil
	}
	asked := [][]string{{"OWNER OF", "COMPARED", "MOVED", "GIVEN UP", ""}}
	figures := [][]string{{"OWNER OF", "FIGURE", "OWNER SAYS", "VIEW SHOWS", ""}}
	for _, t := range all {
		asked = append(asked, []string{clean(t.GetSource()), count(t.GetCompared()), count(t.GetMoved()), count(t.GetGivenUp()), clean(t.GetNotCompared())})
		for _, l := range slices.Concat(t.GetStates(), t.GetMoney()) {
			figures = append(figures, []string{clean(t.GetSource()), clean(l.GetName()), figure(l.GetOwner(), l.GetCurrency()), figure(l.GetView(), l.GetCurrency()), yes(l.GetOwner() != l.GetView(), "differs")})
		}
	}
	if err := table(a.out, asked...); err != nil || len(figures) == 1 {
		return err
	}
	return table(a.out, figures...)
}

// figure is a count, or money.
func figure(n int64, currency string) string {
	if currency == "" {
		return count(n)
	}
	return moneyText(&commercev1.Money{Amount: n, Currency: currency})
}

// disputes are the aggregates whose owner answers what its journal does not fold
// to, and the views that say so.
type disputes map[string][]string

// tableOwner is the table of such differences.
const tableOwner = "owner"

func (d disputes) note(view string, r *readmodelv1.GateReport) {
	for _, f := range r.GetDifferences() {
		if f.GetTable() == tableOwner && !slices.Contains(d[f.GetKey()], view) {
			d[f.GetKey()] = append(d[f.GetKey()], view)
		}
	}
}

// show says who is likely to be wrong: two views fold with code of their own.
func (d disputes) show(a *app, asked []string) error {
	if len(d) == 0 {
		return nil
	}
	rows := [][]string{{"OWNER'S ANSWER AGAINST ITS JOURNAL", "SAID BY", "LIKELY"}}
	for _, key := range slices.Sorted(maps.Keys(d)) {
		likely := "the Fold of " + strings.Join(d[key], ", ") + " misreads a fact"
		switch {
		case len(asked) == 1:
			likely = "its owner, or the Fold of " + asked[0] + ": the other views tell"
		case len(d[key]) == len(asked):
			likely = "the owner is not what its own journal says"
		}
		rows = append(rows, []string{clean(key), strings.Join(d[key], ", "), likely})
	}
	return table(a.out, rows...)
}
