package traffic

import (
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func TestEveryVisitIsAnOrderThatIsPaidInFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		v := newVisit(random, Options{Customers: rapid.IntRange(1, 1000).Draw(t, "customers"), Pace: time.Second})
		total := v.place.GetShippingFee().GetAmount()
		for _, l := range v.place.GetLines() {
			total += int64(l.GetQuantity()) * l.GetUnitPrice().GetAmount()
		}
		for _, p := range v.place.GetPaymentPlan() {
			if p.GetAmount().GetAmount() <= 0 {
				t.Fatalf("a planned payment of %d", p.GetAmount().GetAmount())
			}
			total -= p.GetAmount().GetAmount()
		}
		if total != 0 || len(v.place.GetLines()) == 0 {
			t.Fatalf("%d lines, the plan leaves %d", len(v.place.GetLines()), total)
		}
	})
}

func TestTheMixHasEverything(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 1))
	seen := map[string]int{}
	for range 1000 {
		v := newVisit(random, Options{Customers: 50, Pace: time.Second})
		seen[v.then]++
		plan := v.place.GetPaymentPlan()
		if len(plan) > 1 {
			seen["voucher and card"]++
		}
		if plan[len(plan)-1].GetReference() == declined {
			seen["declined"]++
		}
		places := map[string]bool{}
		for _, l := range v.place.GetLines() {
			places[l.GetWarehouse()] = true
		}
		if len(places) > 1 {
			seen["split"]++
		}
	}
	for _, what := range []string{"", "cancel", "hold", "move", "voucher and card", "declined", "split"} {
		if seen[what] == 0 {
			t.Errorf("1000 visits without %q", what)
		}
	}
}

func TestASeedRepeatsTheVisits(t *testing.T) {
	draw := func() visit {
		v := newVisit(rand.New(rand.NewPCG(42, 1)), Options{Customers: 50, Pace: time.Second})
		v.place.RequestId, v.place.PromisedAt = "", nil
		return v
	}
	a, b := draw(), draw()
	if !proto.Equal(a.place, b.place) || a.then != b.then || a.after != b.after {
		t.Errorf("two visits of one seed differ:\n%v\n%v", a, b)
	}
}
