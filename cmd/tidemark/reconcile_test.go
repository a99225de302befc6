package main

import (
	"strings"
	"testing"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

func TestOwnersAndViewAreShownSideBySide(t *testing.T) {
	var out strings.Builder
	err := ownersTables(&app{out: &out}, []*readmodelv1.OwnerTally{
		{Source: "payment", Compared: 3, Moved: 1, States: []*readmodelv1.TallyLine{{Name: "captured", Owner: 2, View: 3}},
			Money: []*readmodelv1.TallyLine{{Name: "refunded", Currency: "EUR", Owner: 1050, View: 1050}}},
		{Source: "shipment", NotCompared: "not compared with the owner's answers: the view does not say how"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	const want = `OWNER OF COMPARED MOVED GIVEN UP
payment 3 1 0
shipment 0 0 0 not compared with the owner's answers: the view does not say how
OWNER OF FIGURE OWNER SAYS VIEW SHOWS
payment captured 2 3 differs
payment refunded EUR 10.50 EUR 10.50`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWhoIsLikelyToBeWrong(t *testing.T) {
	report := func(keys ...string) *readmodelv1.GateReport {
		r := &readmodelv1.GateReport{Differences: []*readmodelv1.FieldDifference{{Table: "orders", Key: "order/x"}}}
		for _, k := range keys {
			r.Differences = append(r.Differences, &readmodelv1.FieldDifference{Table: "owner", Key: k, Field: "a"}, &readmodelv1.FieldDifference{Table: "owner", Key: k, Field: "b"})
		}
		return r
	}
	for _, tt := range []struct {
		name  string
		given map[string]*readmodelv1.GateReport
		asked []string
		want  []string
	}{
		{"nobody", map[string]*readmodelv1.GateReport{"timeline": report()}, []string{"timeline"}, nil},
		{"all", map[string]*readmodelv1.GateReport{"timeline": report("payment/p"), "operations": report("payment/p")}, []string{"operations", "timeline"}, []string{"payment/p", "the owner is not what its own journal says"}},
		{"one of two", map[string]*readmodelv1.GateReport{"timeline": report("payment/p"), "operations": report()}, []string{"operations", "timeline"}, []string{"the Fold of timeline misreads a fact"}},
		{"one was asked", map[string]*readmodelv1.GateReport{"timeline": report("payment/p")}, []string{"timeline"}, []string{"its owner, or the Fold of timeline"}},
	} {
		var out strings.Builder
		d := disputes{}
		for view, r := range tt.given {
			d.note(view, r)
		}
		if err := d.show(&app{out: &out}, tt.asked); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", tt.name, want, out.String())
			}
		}
		if tt.want == nil && out.Len() > 0 || strings.Contains(out.String(), "order/x") {
			t.Errorf("%s: it says\n%s", tt.name, out.String())
		}
	}
}
