package suite

import (
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// queriesAnswerAlone stops all three services and the broker. Every query still
// answers from its own copy; as_of stands still, staleness grows, and nothing
// claims to be current. Then everything comes back and goes on.
func queriesAnswerAlone(t *testing.T, w *world) {
	placed, err := w.order.PlaceOrder(bounded(t), managed("barbara"))
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	w.watch(t, id, planned(2))
	for _, part := range []string{fleet.Order, fleet.Payment, fleet.Shipment} {
		if err := w.fleet.StopPart(part); err != nil {
			t.Fatal(err)
		}
	}
	w.stopBroker()

	queries := map[string]func() (*freshnessv1.Freshness, error){
		"ListCustomerTimeline": func() (*freshnessv1.Freshness, error) {
			a, err := w.timeline.ListCustomerTimeline(bounded(t), &timelinev1.ListCustomerTimelineRequest{CustomerId: "barbara"})
			if err == nil && len(a.GetEntries()) == 0 {
				t.Error("the customer's timeline is empty")
			}
			return a.GetFreshness(), err
		},
		"ListOrderTimeline": func() (*freshnessv1.Freshness, error) {
			a, err := w.timeline.ListOrderTimeline(bounded(t), &timelinev1.ListOrderTimelineRequest{OrderId: id})
			return a.GetFreshness(), err
		},
		"GetOrderStatus": func() (*freshnessv1.Freshness, error) {
			a, err := w.timeline.GetOrderStatus(bounded(t), &timelinev1.GetOrderStatusRequest{OrderId: id})
			return a.GetFreshness(), err
		},
		"GetCustomerOverview": func() (*freshnessv1.Freshness, error) {
			a, err := w.timeline.GetCustomerOverview(bounded(t), &timelinev1.GetCustomerOverviewRequest{CustomerId: "barbara"})
			return a.GetFreshness(), err
		},
		"WatchOrder": func() (*freshnessv1.Freshness, error) {
			stream, err := w.timeline.WatchOrder(bounded(t), &timelinev1.WatchOrderRequest{OrderId: id})
			if err != nil {
				return nil, err
			}
			a, err := stream.Recv()
			return a.GetFreshness(), err
		},
		"ListWorkItems": func() (*freshnessv1.Freshness, error) {
			a, err := w.operations.ListWorkItems(bounded(t), &operationsv1.ListWorkItemsRequest{})
			return a.GetFreshness(), err
		},
		"ListOpenOrders": func() (*freshnessv1.Freshness, error) {
			a, err := w.operations.ListOpenOrders(bounded(t), &operationsv1.ListOpenOrdersRequest{})
			return a.GetFreshness(), err
		},
		"GetWarehouseBoard": func() (*freshnessv1.Freshness, error) {
			a, err := w.operations.GetWarehouseBoard(bounded(t), &operationsv1.GetWarehouseBoardRequest{})
			return a.GetFreshness(), err
		},
		"GetThroughput": func() (*freshnessv1.Freshness, error) {
			a, err := w.operations.GetThroughput(bounded(t), &operationsv1.GetThroughputRequest{})
			return a.GetFreshness(), err
		},
		"GetTotals": func() (*freshnessv1.Freshness, error) {
			a, err := w.operations.GetTotals(bounded(t), &operationsv1.GetTotalsRequest{})
			return a.GetFreshness(), err
		},
		"WatchBoard": func() (*freshnessv1.Freshness, error) {
			stream, err := w.operations.WatchBoard(bounded(t), &operationsv1.WatchBoardRequest{})
			if err != nil {
				return nil, err
			}
			a, err := stream.Recv()
			return a.GetFreshness(), err
		},
	}
	// What was on its way when the broker stopped may still be applied; from the
	// first answers on, nothing arrives any more.
	first, began := map[string]*freshnessv1.Freshness{}, time.Now()
	for name, ask := range queries {
		f, err := ask()
		if err != nil {
			t.Fatalf("%s does not answer: %v", name, err)
		}
		first[name] = f
	}
	for name, ask := range queries {
		f, err := ask()
		if err != nil {
			t.Fatalf("%s does not answer again: %v", name, err)
		}
		checkStale(t, name, first[name], f, time.Since(began))
	}

	ctx := bounded(t)
	if err := w.startBroker(ctx); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{fleet.Payment, fleet.Shipment, fleet.Order} {
		if err := w.fleet.StartPart(ctx, part); err != nil {
			t.Fatal(err)
		}
	}
	w.deliver(t, id)
	w.watch(t, id, inStatus(timelinev1.OrderStatus_ORDER_STATUS_COMPLETED))
}

// checkStale compares two answers with nothing in between.
func checkStale(t *testing.T, name string, before, after *freshnessv1.Freshness, apart time.Duration) {
	t.Helper()
	if len(before.GetSources()) != 3 || len(after.GetSources()) != 3 {
		t.Errorf("%s: answers name %d and %d sources, want 3", name, len(before.GetSources()), len(after.GetSources()))
		return
	}
	for i, b := range before.GetSources() {
		a := after.GetSources()[i]
		if b.GetAsOf() == nil || !a.GetAsOf().AsTime().Equal(b.GetAsOf().AsTime()) {
			t.Errorf("%s: as_of of %s moved from %v to %v", name, b.GetSource(), b.GetAsOf(), a.GetAsOf())
		}
		grown := a.GetStaleness().AsDuration() - b.GetStaleness().AsDuration()
		if grown <= 0 || grown > apart+time.Second {
			t.Errorf("%s: staleness of %s grew by %v within %v", name, b.GetSource(), grown, apart)
		}
		if !a.GetProvenUntil().AsTime().Equal(b.GetProvenUntil().AsTime()) {
			t.Errorf("%s: %s was proven until %v, and now until %v", name, b.GetSource(), b.GetProvenUntil(), a.GetProvenUntil())
		}
	}
}
