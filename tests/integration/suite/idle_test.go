package suite

import (
	"testing"
	"time"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// asOfAdvancesWhileNothingHappens waits until every source of an answer speaks
// for a moment after the test began, without any event on the way.
func asOfAdvancesWhileNothingHappens(t *testing.T, w *world) {
	placed, err := w.order.PlaceOrder(bounded(t), managed("alan"))
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	w.watch(t, id, planned(2))
	ctx := bounded(t)
	since := time.Now().Add(2 * time.Second) // longer than anything is on its way
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		answer, err := w.timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: id})
		if err != nil {
			t.Fatalf("as_of never passed %s: %v", since, err)
		}
		current := 0
		for _, s := range answer.GetFreshness().GetSources() {
			if s.GetAsOf().AsTime().After(since) {
				current++
			}
		}
		if current == 3 {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("as_of never passed %s: %v", since, answer.GetFreshness())
		}
	}
}
