package suite

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

func planned(n int) func(*timelinev1.OrderView) bool {
	return func(o *timelinev1.OrderView) bool { return len(o.GetShipments()) == n }
}

func inStatus(s timelinev1.OrderStatus) func(*timelinev1.OrderView) bool {
	return func(o *timelinev1.OrderView) bool { return o.GetStatus() == s }
}

// A managed order moves by itself to completion; every cent is collected once,
// parcel by parcel; and both read models tell the same story.
func anOrderFulfilsItself(t *testing.T, w *world) {
	placed, err := w.order.PlaceOrder(bounded(t), managed("ada"))
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	w.watch(t, id, planned(2))
	w.deliver(t, id)
	view := w.watch(t, id, inStatus(timelinev1.OrderStatus_ORDER_STATUS_COMPLETED))

	var captured int64
	for _, p := range view.GetPayments() {
		captured += p.GetCaptured().GetAmount()
		if p.GetRefunded().GetAmount() != 0 {
			t.Errorf("payment %s gave %v back", p.GetPaymentId(), p.GetRefunded())
		}
	}
	if captured != 5000 {
		t.Errorf("collected %d, want 5000: %v", captured, view.GetPayments())
	}
	entries, err := w.timeline.ListOrderTimeline(bounded(t), &timelinev1.ListOrderTimelineRequest{OrderId: id, PageSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, e := range entries.GetEntries() {
		seen[e.GetFact()]++
	}
	want := map[string]int{
		"OrderPlaced": 1, "OrderConfirmed": 1, "OrderCompleted": 1,
		"PaymentRequested": 2, "PaymentAuthorized": 2, "PaymentCaptured": 3, // the voucher is used up by the first parcel
		"ShipmentPlanned": 2, "ShipmentDispatched": 2, "ShipmentDelivered": 2,
	}
	if seen["PaymentCaptured"] == 2 { // which parcel leaves first decides how the amounts fall
		want["PaymentCaptured"] = 2
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

// Nothing of a cancelled order stays alive: what is held is released, planned
// parcels are cancelled, and the operational view has nothing to complain about.
func aCancelledOrderIsUndone(t *testing.T, w *world) {
	placed, err := w.order.PlaceOrder(bounded(t), managed("grace"))
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	w.watch(t, id, planned(2))
	_, err = w.order.CancelOrder(bounded(t), &orderv1.CancelOrderRequest{
		RequestId: uuid.NewString(), OrderId: id, Reason: orderv1.CancelReason_CANCEL_REASON_CUSTOMER,
	})
	if err != nil {
		t.Fatal(err)
	}
	view := w.watch(t, id, func(o *timelinev1.OrderView) bool {
		for _, p := range o.GetPayments() {
			if p.GetState() != "voided" {
				return false
			}
		}
		for _, s := range o.GetShipments() {
			if s.GetState() != "cancelled" {
				return false
			}
		}
		return o.GetStatus() == timelinev1.OrderStatus_ORDER_STATUS_CANCELLED
	})
	if view.GetCancelReason() != "CUSTOMER" {
		t.Errorf("reason %q", view.GetCancelReason())
	}
	payments, err := w.payment.ListPayments(bounded(t), &paymentv1.ListPaymentsRequest{OrderId: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range payments.GetPayments() {
		if p.GetState() != paymentv1.PaymentState_PAYMENT_STATE_VOIDED {
			t.Errorf("payment %s is %s", p.GetPaymentId(), p.GetState())
		}
	}
}

// A hold stops an order and shows as work until it is released.
func aHeldOrderIsWork(t *testing.T, w *world) {
	request := managed("edsger")
	request.Fulfilment = commercev1.Fulfilment_FULFILMENT_EXTERNAL
	placed, err := w.order.PlaceOrder(bounded(t), request)
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	held, err := w.order.HoldOrder(bounded(t), &orderv1.HoldOrderRequest{
		RequestId: uuid.NewString(), Actor: "operator:linus", OrderId: id, Reason: "address check",
	})
	if err != nil {
		t.Fatal(err)
	}
	kinds := func(request *operationsv1.ListWorkItemsRequest) []string {
		t.Helper()
		answer, err := w.operations.ListWorkItems(bounded(t), request)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, item := range answer.GetWorkItems() {
			kinds = append(kinds, item.GetKind().String())
		}
		return kinds
	}
	if got := kinds(&operationsv1.ListWorkItemsRequest{OrderId: id, Read: atLeast(held.GetToken())}); !slices.Contains(got, "WORK_KIND_HELD") {
		t.Errorf("work items %v, want the hold among them", got)
	}
	released, err := w.order.ReleaseOrder(bounded(t), &orderv1.ReleaseOrderRequest{RequestId: uuid.NewString(), OrderId: id})
	if err != nil {
		t.Fatal(err)
	}
	if got := kinds(&operationsv1.ListWorkItemsRequest{OrderId: id, Read: atLeast(released.GetToken())}); slices.Contains(got, "WORK_KIND_HELD") {
		t.Errorf("work items %v after the release", got)
	}
}
