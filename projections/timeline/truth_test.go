package timeline_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// answers is a connection to an owner that answers every call alike.
type answers struct {
	grpc.ClientConnInterface
	proto.Message
}

func (a answers) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	proto.Merge(reply.(proto.Message), a.Message)
	return nil
}

// sides puts an owner's answer and what the view makes of facts into the same
// words, and returns those that differ.
func sides(t *testing.T, answer proto.Message, given []event.Fact) []string {
	t.Helper()
	view, truths, s := timeline.View(), timeline.Truths(), &timeline.State{}
	for _, f := range given {
		view.Fold(s, f)
	}
	at := given[0]
	i := slices.IndexFunc(truths, func(truth projection.Truth[timeline.State]) bool { return truth.Source == at.Source })
	owner, err := truths[i].Ask(t.Context(), answers{Message: answer}, at.Aggregate.ID)
	if err != nil || owner.At.EventID != "e" || owner.At.Version != 7 {
		t.Errorf("it stands at %v, %v", owner.At, err)
	}
	shown := truths[i].Shown(at.Key, s, at.Aggregate.ID)
	if diff := cmp.Diff(owner.Said.Names(), shown.Names()); diff != "" {
		t.Errorf("names (-owner +view):\n%s", diff)
	}
	texts := func(s projection.Said) map[string]string {
		all := map[string]string{"state": s.State}
		for _, m := range s.Money {
			all[m.Name] = fmt.Sprint(m.Amount, " ", m.Currency)
		}
		for _, f := range s.Fields {
			if all[f.Name] = f.Value; f.Personal != slices.Contains([]string{"contact", "address"}, f.Name) {
				t.Errorf("%s: personal is %v", f.Name, f.Personal)
			}
		}
		return all
	}
	var differ []string
	mine, theirs := texts(owner.Said), texts(shown)
	for name, text := range mine {
		if theirs[name] != text {
			differ = append(differ, fmt.Sprintf("%s: %s, not %s", name, theirs[name], text))
		}
	}
	slices.Sort(differ)
	return differ
}

var token = &freshnessv1.Token{Version: 7, EventId: "e"}

func TestWhatTheOrderServiceAnswersIsWhatIsShown(t *testing.T) {
	day := func(n int) time.Time { return history.Dawn.AddDate(0, 0, n) }
	promised, city, name := day(9), "Hamburg", "Ada"
	eur := facts.Money{Amount: 500, Currency: "EUR"}
	a := history.Aggregate{Order: "o", Type: "order", ID: "o"}
	a.Add(day(0), &facts.OrderPlaced{
		OrderID: "o", CustomerID: "c", Channel: "web", Total: eur, PromisedAt: &promised,
		Contact: &facts.Contact{Name: &name}, Address: &facts.Address{City: &city, Country: "DE"},
	})
	a.Add(day(1), &facts.OrderHeld{OrderID: "o", CustomerID: "c", Reason: "stock"})
	answer := func(change func(*orderv1.Order)) *orderv1.GetOrderResponse {
		o := &orderv1.Order{
			OrderId: "o", CustomerId: "c", State: orderv1.OrderState_ORDER_STATE_PLACED, OnHold: true, HoldReason: "stock", Channel: "web",
			Total: &commercev1.Money{Amount: 500, Currency: "EUR"}, PlacedAt: timestamppb.New(day(0)), PromisedAt: timestamppb.New(promised),
			Contact: &commercev1.Contact{Name: name}, Address: &commercev1.Address{City: city, Country: "DE"},
		}
		change(o)
		return &orderv1.GetOrderResponse{Order: o, Token: token}
	}
	for _, tt := range []struct {
		name   string
		change func(*orderv1.Order)
		want   string
	}{
		{"nothing", func(*orderv1.Order) {}, ""},
		{"state", func(o *orderv1.Order) { o.State = orderv1.OrderState_ORDER_STATE_CONFIRMED }, "state: placed, not confirmed"},
		{"hold", func(o *orderv1.Order) { o.OnHold = false }, "on_hold: true, not false"},
		{"why", func(o *orderv1.Order) { o.HoldReason = "fraud" }, "hold_reason: stock, not fraud"},
		{"total", func(o *orderv1.Order) { o.Total.Amount++ }, "total: 500 EUR, not 501 EUR"},
		{"currency", func(o *orderv1.Order) { o.Total.Currency = "USD" }, "total: 500 EUR, not 500 USD"},
		{"promise", func(o *orderv1.Order) { o.PromisedAt = nil }, "promised_at: 2026-03-10T06:00:00Z, not "},
		{"a cancel", func(o *orderv1.Order) { o.CancelReason = orderv1.CancelReason_CANCEL_REASON_FRAUD }, "cancel_reason: , not FRAUD"},
		{"the address", func(o *orderv1.Order) { o.Address.City = "Kiel" }, "address: "},
		{"no contact", func(o *orderv1.Order) { o.Contact = nil }, "contact: "},
	} {
		got := strings.Join(sides(t, answer(tt.change), a.Facts), "; ")
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestWhatThePaymentServiceAnswersIsWhatIsShown goes through the states that the
// two put differently.
func TestWhatThePaymentServiceAnswersIsWhatIsShown(t *testing.T) {
	eur := func(n int64) facts.Money { return facts.Money{Amount: n, Currency: "EUR"} }
	money := func(n int64) *commercev1.Money { return &commercev1.Money{Amount: n, Currency: "EUR"} }
	authorized, voided := &facts.PaymentAuthorized{Amount: eur(100)}, &facts.PaymentVoided{Amount: eur(40)}
	captured, refunded := func(n int64) facts.Fact { return &facts.PaymentCaptured{TotalCaptured: eur(n)} }, func(n int64) facts.Fact { return &facts.PaymentRefunded{TotalRefunded: eur(n)} }
	corrected := &facts.PaymentCorrected{CorrectedCaptured: eur(0)}
	for _, tt := range []struct {
		name                       string
		state                      string
		captured, refunded, voided int64
		given                      []facts.Fact
	}{
		{"asked for", "REQUESTED", 0, 0, 0, nil},
		{"held", "AUTHORIZED", 0, 0, 0, []facts.Fact{authorized}},
		{"declined", "DECLINED", 0, 0, 0, []facts.Fact{&facts.PaymentDeclined{}}},
		{"released", "VOIDED", 0, 0, 100, []facts.Fact{authorized, voided}},
		{"collected in part", "PARTIALLY_CAPTURED", 60, 0, 0, []facts.Fact{authorized, captured(60)}},
		{"the rest released", "CAPTURED", 60, 0, 40, []facts.Fact{authorized, captured(60), voided}},
		{"all given back", "REFUNDED", 60, 60, 40, []facts.Fact{authorized, captured(60), voided, refunded(60)}},
		{"given back in part", "CAPTURED", 100, 30, 0, []facts.Fact{authorized, captured(100), refunded(30)}},
		{"nothing was collected after all", "CAPTURED", 0, 0, 0, []facts.Fact{authorized, captured(100), corrected}},
		{"nor of what was not released", "CAPTURED", 0, 0, 40, []facts.Fact{authorized, captured(60), voided, corrected}},
		{"and yet given back", "CAPTURED", 0, 30, 0, []facts.Fact{authorized, captured(100), refunded(30), corrected}},
		{"collected nothing", "CAPTURED", 0, 0, 0, []facts.Fact{authorized, captured(0)}},
	} {
		a := history.Aggregate{Order: "o", Type: "payment", ID: "p"}
		a.Add(history.Dawn, &facts.PaymentRequested{OrderID: "o", CustomerID: "c", PaymentID: "p", Amount: eur(100), Method: facts.PaymentMethodCard})
		for _, b := range tt.given {
			a.Add(history.Dawn, b)
		}
		for i := range a.Facts { // every fact names the customer
			common := a.Facts[i].Body.(facts.Fact)
			if common.Common().CustomerID == "" {
				a.Facts[i].Body = withCustomer(common)
			}
		}
		p := &paymentv1.Payment{
			PaymentId: "p", OrderId: "o", CustomerId: "c", State: paymentv1.PaymentState(paymentv1.PaymentState_value["PAYMENT_STATE_"+tt.state]),
			Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: money(100), Captured: money(tt.captured), Refunded: money(tt.refunded), Voided: money(tt.voided),
		}
		if got := sides(t, &paymentv1.GetPaymentResponse{Payment: p, Token: token}, a.Facts); len(got) > 0 {
			t.Errorf("%s: %v", tt.name, got)
		}
		p.Captured.Amount++
		if got := strings.Join(sides(t, &paymentv1.GetPaymentResponse{Payment: p, Token: token}, a.Facts), "; "); !strings.Contains(got, "captured: ") {
			t.Errorf("%s, one cent more: %v", tt.name, got)
		}
	}
}

func withCustomer(f facts.Fact) facts.Fact {
	switch f := f.(type) {
	case *facts.PaymentAuthorized:
		f.CustomerID = "c"
	case *facts.PaymentDeclined:
		f.CustomerID = "c"
	case *facts.PaymentVoided:
		f.CustomerID = "c"
	case *facts.PaymentCaptured:
		f.CustomerID = "c"
	case *facts.PaymentRefunded:
		f.CustomerID = "c"
	case *facts.PaymentCorrected:
		f.CustomerID = "c"
	}
	return f
}

func TestWhatTheShipmentServiceAnswersIsWhatIsShown(t *testing.T) {
	promised, expected := history.Dawn.AddDate(0, 0, 3), history.Dawn.AddDate(0, 0, 5)
	a := history.Aggregate{Order: "o", Type: "shipment", ID: "s"}
	a.Add(history.Dawn, &facts.ShipmentPlanned{OrderID: "o", CustomerID: "c", ShipmentID: "s", Warehouse: "north", PromisedAt: &promised})
	a.Add(history.Dawn, &facts.ShipmentDispatched{OrderID: "o", CustomerID: "c", ShipmentID: "s", Warehouse: "north", Carrier: "dhl", TrackingNumber: "1", ExpectedAt: &promised})
	a.Add(history.Dawn, &facts.ShipmentDelayed{OrderID: "o", CustomerID: "c", ShipmentID: "s", ExpectedAt: expected, PreviousExpectedAt: &promised})
	p := &shipmentv1.Shipment{
		ShipmentId: "s", OrderId: "o", CustomerId: "c", State: shipmentv1.ShipmentState_SHIPMENT_STATE_DISPATCHED, Warehouse: "north", Carrier: "dhl",
		TrackingNumber: "1", PromisedAt: timestamppb.New(promised), ExpectedAt: timestamppb.New(expected),
	}
	if got := sides(t, &shipmentv1.GetShipmentResponse{Shipment: p, Token: token}, a.Facts); len(got) > 0 {
		t.Error(got)
	}
	a.Add(history.Dawn, &facts.ShipmentStalled{OrderID: "o", CustomerID: "c", ShipmentID: "s", PreviousExpectedAt: &expected})
	if got := sides(t, &shipmentv1.GetShipmentResponse{Shipment: p, Token: token}, a.Facts); len(got) != 2 {
		t.Errorf("a date that is gone: %v", got)
	}
	p.ExpectedAt, p.Stalled = nil, true
	if got := sides(t, &shipmentv1.GetShipmentResponse{Shipment: p, Token: token}, a.Facts); len(got) > 0 {
		t.Error(got)
	}
}
