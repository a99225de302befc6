package timeline_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Suite[timeline.State]{
		View: timeline.View(), Truths: timeline.Truths(), History: history.Draw, Sample: append(history.NewStory("o-1").All(), history.Bare("o-2")...),
		Service: timelinev1.TimelineService_ServiceDesc,
	})
}

// document folds facts of one order and returns what the timeline shows of it.
func document(t *testing.T, given ...event.Fact) timeline.Document {
	t.Helper()
	m := fold.NewMemory(timeline.View())
	if err := m.Apply(given...); err != nil {
		t.Fatal(err)
	}
	if n, reason := m.Parked(); n > 0 {
		t.Fatalf("%d facts parked: %s", n, reason)
	}
	rows := m.Rows("orders")
	if len(rows) != 1 {
		t.Fatalf("%d orders, want 1", len(rows))
	}
	var d timeline.Document
	if err := json.Unmarshal([]byte(rows[0]["document"].(string)), &d); err != nil {
		t.Fatal(err)
	}
	if open := d.Status == "placed" || d.Status == "confirmed" || d.Status == "shipped"; rows[0]["open"] != open {
		t.Errorf("open is %v for status %s", rows[0]["open"], d.Status)
	}
	return d
}

func TestStatus(t *testing.T) {
	day := func(n int) time.Time { return history.Dawn.AddDate(0, 0, n) }
	brl := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "BRL"} }
	promised := day(9)
	placed := &facts.OrderPlaced{OrderID: "o", CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Total: brl(100), PromisedAt: &promised}
	order := func(bodies ...facts.Fact) []event.Fact {
		a := history.Aggregate{Order: "o", Type: "order", ID: "o"}
		for i, b := range append([]facts.Fact{placed}, bodies...) {
			a.Add(day(i), b)
		}
		return a.Facts
	}
	parcel := func(id string, bodies ...facts.Fact) []event.Fact {
		a := history.Aggregate{Order: "o", Type: "shipment", ID: id}
		a.Add(day(2), &facts.ShipmentPlanned{OrderID: "o", CustomerID: "c", ShipmentID: id})
		for i, b := range bodies {
			a.Add(day(3+i), b)
		}
		return a.Facts
	}
	payment := func(bodies ...facts.Fact) []event.Fact {
		a := history.Aggregate{Order: "o", Type: "payment", ID: "p"}
		a.Add(day(0), &facts.PaymentRequested{OrderID: "o", CustomerID: "c", PaymentID: "p", Amount: brl(100), Method: facts.PaymentMethodCard})
		for _, b := range bodies {
			a.Add(day(1), b)
		}
		return a.Facts
	}
	sent, arrived, lost := &facts.ShipmentDispatched{}, &facts.ShipmentDelivered{}, &facts.ShipmentLost{}
	stalled, seen := &facts.ShipmentStalled{Reason: "customs"}, &facts.ShipmentScanned{Location: "CD 4, Campinas, BR", Facility: "CD 4", Area: "Campinas", Country: "BR"}
	dated, redated := &facts.ShipmentDispatched{ExpectedAt: &promised}, &facts.ShipmentDelayed{ExpectedAt: day(11)}
	returned, dropped := &facts.ShipmentReturned{}, &facts.ShipmentCancelled{}
	confirmed, completed := &facts.OrderConfirmed{}, &facts.OrderCompleted{}
	cancelled := &facts.OrderCancelled{Reason: facts.CancelReasonUnavailable}
	captured := &facts.PaymentCaptured{TotalCaptured: brl(100)}
	refunded := &facts.PaymentRefunded{TotalRefunded: brl(100)}
	tests := []struct {
		name             string
		given            [][]event.Fact
		status, headline string
	}{
		{"placed", [][]event.Fact{order()}, "placed", "The order was received and waits for confirmation. It is promised for 10 March 2026."},
		{"held", [][]event.Fact{order(&facts.OrderHeld{})}, "placed", "The order is on hold while we look at it."},
		{"released", [][]event.Fact{order(&facts.OrderHeld{}, &facts.OrderReleased{})}, "placed", "The order was received and waits for confirmation. It is promised for 10 March 2026."},
		{"confirmed", [][]event.Fact{order(confirmed)}, "confirmed", "The order is confirmed and being prepared. It is promised for 10 March 2026."},
		{"planned is not shipped", [][]event.Fact{order(confirmed), parcel("s")}, "confirmed", "The order is confirmed and being prepared. It is promised for 10 March 2026."},
		{"one of two on its way", [][]event.Fact{order(confirmed), parcel("s", sent), parcel("z")}, "shipped", "The order is on its way."},
		{"one of two arrived", [][]event.Fact{order(confirmed), parcel("s", sent, arrived), parcel("z", sent)}, "shipped", "1 of 2 parcels have arrived."},
		{"all arrived", [][]event.Fact{order(confirmed), parcel("s", sent, arrived), parcel("z", sent, arrived)}, "delivered", "Everything has arrived. Delivered on 5 March 2026."},
		{"a cancelled parcel does not count", [][]event.Fact{order(confirmed), parcel("s", sent, arrived), parcel("z", dropped)}, "delivered", "Everything has arrived. Delivered on 5 March 2026."},
		{"only cancelled parcels", [][]event.Fact{order(confirmed), parcel("z", dropped)}, "confirmed", "The order is confirmed and being prepared. It is promised for 10 March 2026."},
		{"lost", [][]event.Fact{order(confirmed), parcel("s", sent, lost)}, "shipped", "A parcel was lost; we are looking into it."},
		{"lost and found", [][]event.Fact{order(confirmed), parcel("s", sent, lost, arrived)}, "delivered", "Everything has arrived. Delivered on 6 March 2026."},
		{"stalled", [][]event.Fact{order(confirmed), parcel("s", dated, stalled)}, "shipped", "The order is on its way. A parcel is delayed, and there is no new date for it yet."},
		{"stalled, the other has a date", [][]event.Fact{order(confirmed), parcel("s", dated), parcel("z", dated, seen, stalled)}, "shipped", "The order is on its way. A parcel is delayed, and there is no new date for it yet."},
		{"stalled, then dated", [][]event.Fact{order(confirmed), parcel("s", dated, stalled, redated)}, "shipped", "The order is on its way. Expected by 12 March 2026."},
		{"stalled, then delivered", [][]event.Fact{order(confirmed), parcel("s", dated, stalled, arrived)}, "delivered", "Everything has arrived. Delivered on 6 March 2026."},
		{"sent back", [][]event.Fact{order(confirmed), parcel("s", sent, arrived, returned)}, "shipped", "The order was sent back."},
		{"delivered before it was confirmed", [][]event.Fact{order(), parcel("s", sent, arrived)}, "delivered", "Everything has arrived. Delivered on 5 March 2026."},
		{"completed", [][]event.Fact{order(confirmed, completed), parcel("s", sent, arrived)}, "completed", "The order is complete. Delivered on 5 March 2026."},
		{"cancelled", [][]event.Fact{order(cancelled)}, "cancelled", "The order was cancelled because the goods are not available."},
		{"cancelled, and delivered all the same", [][]event.Fact{order(cancelled), parcel("s", sent, arrived)}, "cancelled", "The order was cancelled because the goods are not available."},
		{"cancelled, money kept", [][]event.Fact{order(cancelled), payment(captured)}, "cancelled", "The order was cancelled because the goods are not available. Money that was collected is still to be given back."},
		{"cancelled, money back", [][]event.Fact{order(cancelled), payment(captured, refunded)}, "cancelled", "The order was cancelled because the goods are not available. The money was given back."},
		{"known only by a payment", [][]event.Fact{payment()}, "placed", "The order is known only through its payments and parcels so far."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var given []event.Fact
			for _, g := range tt.given {
				given = append(given, g...)
			}
			d := document(t, given...)
			if d.Status != tt.status || d.Headline != tt.headline {
				t.Errorf("%s: %q\nwant %s: %q", d.Status, d.Headline, tt.status, tt.headline)
			}
		})
	}
}

func TestPaymentStates(t *testing.T) {
	brl := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "BRL"} }
	asked := &facts.PaymentRequested{Amount: brl(100), Method: facts.PaymentMethodBankSlip}
	approved := &facts.PaymentAuthorized{Amount: brl(100)}
	tests := []struct {
		name  string
		given []facts.Fact
		want  timeline.PaymentDocument
	}{
		{"asked", nil, timeline.PaymentDocument{State: "requested"}},
		{"approved", []facts.Fact{approved}, timeline.PaymentDocument{State: "authorized", Authorized: 100}},
		{"declined", []facts.Fact{&facts.PaymentDeclined{}}, timeline.PaymentDocument{State: "declined"}},
		{"let go", []facts.Fact{approved, &facts.PaymentVoided{}}, timeline.PaymentDocument{State: "voided", Authorized: 100}},
		{"part collected, rest let go", []facts.Fact{approved, &facts.PaymentCaptured{TotalCaptured: brl(40)}, &facts.PaymentVoided{}},
			timeline.PaymentDocument{State: "captured", Authorized: 100, Captured: 40}},
		{"collected twice", []facts.Fact{approved, &facts.PaymentCaptured{TotalCaptured: brl(40)}, &facts.PaymentCaptured{TotalCaptured: brl(100)}},
			timeline.PaymentDocument{State: "captured", Authorized: 100, Captured: 100}},
		{"part given back", []facts.Fact{approved, &facts.PaymentCaptured{TotalCaptured: brl(100)}, &facts.PaymentRefunded{TotalRefunded: brl(30)}},
			timeline.PaymentDocument{State: "captured", Authorized: 100, Captured: 100, Refunded: 30}},
		{"all given back", []facts.Fact{approved, &facts.PaymentCaptured{TotalCaptured: brl(100)}, &facts.PaymentRefunded{TotalRefunded: brl(100)}},
			timeline.PaymentDocument{State: "refunded", Authorized: 100, Captured: 100, Refunded: 100}},
		{"corrected", []facts.Fact{approved, &facts.PaymentCaptured{TotalCaptured: brl(100)}, &facts.PaymentCorrected{CorrectedCaptured: brl(90)}},
			timeline.PaymentDocument{State: "captured", Authorized: 100, Captured: 90}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := history.Aggregate{Order: "o", Type: "payment", ID: "p"}
			for _, b := range append([]facts.Fact{asked}, tt.given...) {
				a.Add(history.Dawn, b)
			}
			tt.want.ID, tt.want.Method, tt.want.Currency, tt.want.Requested = "p", "BANK_SLIP", "BRL", 100
			if diff := cmp.Diff(tt.want, document(t, a.Facts...).Payments[0]); diff != "" {
				t.Errorf("payment (-want +got):\n%s", diff)
			}
		})
	}
}

// What version 2 of facts added reaches the customer's eyes, and facts that were
// lifted from version 1 read as they always did.
func TestEntriesOfNewVersions(t *testing.T) {
	for want, body := range map[string]facts.Fact{
		"Parcel seen in CD 4, Campinas (BR): sorted": &facts.ShipmentScanned{Location: "CD 4, Campinas, BR", Facility: "CD 4", Area: "Campinas", Country: "BR", Description: "sorted"},
		"Parcel seen in Leipzig depot":               &facts.ShipmentScanned{Location: "Leipzig depot", Facility: "Leipzig depot"},
		"Parcel seen":                                &facts.ShipmentScanned{},
		"Parcel delayed, no new date yet: customs":   &facts.ShipmentStalled{Reason: "customs"},
		"Payment of 0.10 BRL declined: INSUFFICIENT_FUNDS; it may be tried again": &facts.PaymentDeclined{Amount: facts.Money{Amount: 10, Currency: "BRL"}, ReasonCode: "INSUFFICIENT_FUNDS", Retryable: true},
		"Somebody looks after the order":                                          &facts.OrderNeedsAttention{Reason: "STEP_REFUSED", Step: "capture/1/2"},
		"The order goes on":                                                       &facts.OrderAttentionSettled{},
		"Payment of 0.10 BRL declined: STOLEN":                                    &facts.PaymentDeclined{Amount: facts.Money{Amount: 10, Currency: "BRL"}, ReasonCode: "STOLEN"},
	} {
		typ := "shipment"
		switch body.(type) {
		case *facts.PaymentDeclined:
			typ = "payment"
		case *facts.OrderNeedsAttention, *facts.OrderAttentionSettled:
			typ = "order"
		}
		m := fold.NewMemory(timeline.View())
		a := history.Aggregate{Order: "o", Type: typ, ID: "x"}
		if err := m.Apply(a.Add(history.Dawn, body)); err != nil {
			t.Fatal(err)
		}
		if rows := m.Rows("entries"); len(rows) != 1 || rows[0]["summary"] != want {
			t.Errorf("%v, want %q", rows, want)
		}
	}
}
