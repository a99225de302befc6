package reconcile

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// loaded is how long a fleet under load is compared and nothing may be named. Ten
// minutes is what a release takes; without it two passes are made.
var loaded = flag.Duration("reconcile.for", 0, "how long to compare a fleet under load")

func atLeast(tokens ...*freshnessv1.Token) *freshnessv1.ReadOptions {
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}}, WaitBudget: durationpb.New(30 * time.Second),
	}
}

func TestReadModelsAndTheirOwnersUnderLoad(t *testing.T) {
	w := open(t)
	for i := range 6 {
		w.place(quiet{id: fmt.Sprintf("q-%d", i)})
	}
	for _, q := range []quiet{
		{id: "q-part", captured: 6_000}, {id: "q-rest", captured: 6_000, release: 1}, {id: "q-back", captured: 6_000, refunded: 6_000, release: 1},
		{id: "q-some", captured: 6_000, refunded: 1_000}, {id: "q-void", release: 1}, {id: "q-nought", captured: 6_000, corrected: []int64{0}},
		{id: "q-kept-nothing", captured: 6_000, release: 1, refunded: 2_000, corrected: []int64{4_000, 2_000}},
		{id: misread, captured: 6_000, refunded: 1_000},
	} {
		w.place(q)
		w.knows(q.id)
	}
	w.works()
	for _, step := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"nothing is wrong", nothingIsWrong},
		{"what was written over is named", whatWasWrittenOver},
		{"an owner that contradicts its journal is named", anOwnerThatContradicts},
		{"a Fold that misreads is named", aFoldThatMisreads},
		{"nothing is wrong any more", nothingIsWrong},
	} {
		t.Run(step.name, func(t *testing.T) {
			inside := *w
			inside.T = t
			step.run(t, &inside)
		})
	}
}

// nothingIsWrong compares both views until orders came in meanwhile.
func nothingIsWrong(t *testing.T, w *world) {
	until, before := time.Now().Add(*loaded), w.placed.Placed.Load()
	for pass := 0; pass < 2 || time.Now().Before(until) || w.placed.Placed.Load() < before+5; pass++ {
		for _, view := range []string{"timeline", "operations"} {
			r := w.full(view)
			if found := named(r); len(found) > 0 || r.GetDiffering() != 0 {
				t.Fatalf("pass %d: %s differs: %v", pass, view, found)
			}
			for _, tally := range r.GetOwners() {
				if tally.GetNotCompared() != "" || tally.GetCompared() == 0 && tally.GetSource() != "shipment" {
					t.Errorf("%s of %s: %v", tally.GetSource(), view, tally)
				}
				for _, l := range append(tally.GetStates(), tally.GetMoney()...) {
					if l.GetOwner() != l.GetView() {
						t.Errorf("%s of %s: %v", tally.GetSource(), view, l)
					}
				}
			}
		}
	}
}

func whatWasWrittenOver(t *testing.T, w *world) {
	schema := w.rows("timeline")
	state := func(from, to string) string {
		return fmt.Sprintf(`UPDATE %s.state SET state = replace(state::text, '"st":"%s"', '"st":"%s"')::json WHERE order_id = 'q-3'`, schema, from, to)
	}
	w.exec("timeline", "UPDATE "+schema+".orders SET open = NOT open WHERE order_id = 'q-1'")
	w.exec("timeline", "UPDATE "+schema+".orders SET customer_id = 'forged' WHERE order_id = 'q-2'")
	w.exec("timeline", state("placed", "confirmed"))
	want := []string{"q-1 orders  open", "q-2 orders  customer_id", "q-3 state  Order.st"}
	got := named(w.full("timeline"))
	for i := range got {
		if strings.HasPrefix(got[i], "q-3 state") {
			got[i] = "q-3 state  Order.st"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.exec("timeline", "UPDATE "+schema+".orders SET open = NOT open WHERE order_id = 'q-1'")
	w.exec("timeline", "UPDATE "+schema+".orders SET customer_id = 'quiet' WHERE order_id = 'q-2'")
	w.exec("timeline", state("confirmed", "placed"))
}

// anOwnerThatContradicts changes rows of owners; their journals stay as they are.
func anOwnerThatContradicts(t *testing.T, w *world) {
	change := func(captured, state string) {
		w.exec("payment", "UPDATE payments SET state = jsonb_set(state, '{Captured}', '"+captured+"') WHERE id = 'q-part'")
		w.exec("order", `UPDATE orders SET state = jsonb_set(state, '{State}', '"`+state+`"') WHERE id = 'q-4'`)
		w.exec("order", "UPDATE orders SET version = CASE version WHEN 1 THEN 0 ELSE 1 END WHERE id = 'q-5'")
	}
	change("6001", "COMPLETED")
	want := []string{"q-4 owner order/q-4 state", "q-5 owner order/q-5 version", "q-part owner payment/q-part captured"}
	for _, view := range []string{"timeline", "operations"} {
		r := w.full(view)
		if diff := cmp.Diff(want, named(r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", view, diff)
		}
		for _, d := range r.GetDifferences() {
			if d.GetField() == "captured" && (d.GetBaseValue() != "6001 EUR" || d.GetValue() != "6000 EUR") {
				t.Errorf("%s: %v", view, d)
			}
		}
	}
	change("6000", "PLACED")
}

// aFoldThatMisreads: journal, state, rows, entries and sums agree with each other.
func aFoldThatMisreads(t *testing.T, w *world) {
	r := w.full("misread")
	if diff := cmp.Diff([]string{misread + " owner payment/" + misread + " refunded"}, named(r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, tally := range r.GetOwners() {
		for _, l := range tally.GetMoney() {
			if want := l.GetName() == "refunded"; l.GetOwner()+1000 == l.GetView() != want {
				t.Errorf("%s: %v", tally.GetSource(), l)
			}
		}
	}
}
