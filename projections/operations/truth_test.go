package operations_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"

	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
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

// differs puts an owner's answer and what the view makes of facts into the same
// words, and returns the names of those that differ.
func differs(t *testing.T, answer proto.Message, a history.Aggregate) string {
	t.Helper()
	view, truths, s := operations.View(), operations.Truths(), &operations.State{}
	for _, f := range a.Facts {
		view.Fold(s, f)
	}
	i := slices.IndexFunc(truths, func(truth projection.Truth[operations.State]) bool { return truth.Source == a.Type })
	owner, err := truths[i].Ask(t.Context(), answers{Message: answer}, a.ID)
	if err != nil || owner.At.EventID != "e" {
		t.Errorf("it stands at %v, %v", owner.At, err)
	}
	shown := truths[i].Shown(a.Order, s, a.ID)
	if diff := cmp.Diff(owner.Said.Names(), shown.Names()); diff != "" {
		t.Errorf("names (-owner +view):\n%s", diff)
	}
	var names []string
	if owner.Said.State != shown.State {
		names = append(names, fmt.Sprintf("state %s/%s", owner.Said.State, shown.State))
	}
	for i, m := range owner.Said.Money {
		if m != shown.Money[i] {
			names = append(names, m.Name)
		}
	}
	for i, f := range owner.Said.Fields {
		if f != shown.Fields[i] {
			names = append(names, f.Name)
		}
	}
	return strings.Join(names, " ")
}

var token = &freshnessv1.Token{Version: 7, EventId: "e"}

func TestWhatTheOrderServiceAnswersIsWhatIsRemembered(t *testing.T) {
	promised := history.Dawn.AddDate(0, 0, 9)
	a := history.Aggregate{Order: "o", Type: "order", ID: "o"}
	a.Add(history.Dawn, &facts.OrderPlaced{
		OrderID: "o", CustomerID: "c", Channel: "web", Fulfilment: facts.FulfilmentExternal, Total: facts.Money{Amount: 500, Currency: "EUR"}, PromisedAt: &promised,
		Lines: []facts.OrderLine{{LineID: "1", Warehouse: "south"}, {LineID: "2", Warehouse: "north"}, {LineID: "3", Warehouse: "north"}, {LineID: "4"}},
	})
	a.Add(history.Dawn, &facts.OrderHeld{Reason: "stock"})
	a.Add(history.Dawn, &facts.OrderCancelled{Reason: facts.CancelReasonFraud})
	for _, tt := range []struct {
		name, want string
		change     func(*orderv1.Order)
	}{
		{"nothing", "", func(*orderv1.Order) {}},
		{"state", "state completed/cancelled", func(o *orderv1.Order) { o.State = orderv1.OrderState_ORDER_STATE_COMPLETED }},
		{"hold", "on_hold hold_reason", func(o *orderv1.Order) { o.OnHold, o.HoldReason = true, "stock" }},
		{"total", "total", func(o *orderv1.Order) { o.Total.Amount++ }},
		{"fulfilment", "external", func(o *orderv1.Order) { o.Fulfilment = commercev1.Fulfilment_FULFILMENT_MANAGED }},
		{"a line", "warehouses", func(o *orderv1.Order) { o.Lines = o.GetLines()[1:] }},
	} {
		o := &orderv1.Order{
			OrderId: "o", CustomerId: "c", State: orderv1.OrderState_ORDER_STATE_CANCELLED, Channel: "web", Fulfilment: commercev1.Fulfilment_FULFILMENT_EXTERNAL,
			Total: &commercev1.Money{Amount: 500, Currency: "EUR"}, PlacedAt: timestamppb.New(history.Dawn), PromisedAt: timestamppb.New(promised),
			Lines: []*orderv1.OrderLine{{Warehouse: "south"}, {Warehouse: "north"}, {Warehouse: "north"}, {}},
		}
		tt.change(o)
		if got := differs(t, &orderv1.GetOrderResponse{Order: o, Token: token}, a); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWhatThePaymentServiceAnswersIsWhatIsRemembered(t *testing.T) {
	eur := func(n int64) facts.Money { return facts.Money{Amount: n, Currency: "EUR"} }
	money := func(n int64) *commercev1.Money { return &commercev1.Money{Amount: n, Currency: "EUR"} }
	authorized, voided := &facts.PaymentAuthorized{Amount: eur(100)}, &facts.PaymentVoided{Amount: eur(40)}
	captured := &facts.PaymentCaptured{TotalCaptured: eur(60)}
	for _, tt := range []struct {
		state                      string
		captured, refunded, voided int64
		code                       string
		given                      []facts.Fact
	}{
		{"REQUESTED", 0, 0, 0, "", nil},
		{"AUTHORIZED", 0, 0, 0, "", []facts.Fact{authorized}},
		{"DECLINED", 0, 0, 0, "no_funds", []facts.Fact{&facts.PaymentDeclined{ReasonCode: "no_funds", Retryable: true}}},
		{"VOIDED", 0, 0, 100, "", []facts.Fact{authorized, voided}},
		{"PARTIALLY_CAPTURED", 60, 0, 0, "", []facts.Fact{authorized, captured}},
		{"CAPTURED", 60, 0, 40, "", []facts.Fact{authorized, captured, voided}},
		{"REFUNDED", 60, 60, 0, "", []facts.Fact{authorized, captured, &facts.PaymentRefunded{TotalRefunded: eur(60)}}},
		{"CAPTURED", 0, 0, 0, "", []facts.Fact{authorized, captured, &facts.PaymentCorrected{CorrectedCaptured: eur(0)}}},
	} {
		a := history.Aggregate{Order: "o", Type: "payment", ID: "p"}
		for _, b := range append([]facts.Fact{&facts.PaymentRequested{Amount: eur(100), Method: facts.PaymentMethodCard}}, tt.given...) {
			a.Add(history.Dawn, b)
		}
		p := &paymentv1.Payment{
			OrderId: "o", State: paymentv1.PaymentState(paymentv1.PaymentState_value["PAYMENT_STATE_"+tt.state]), DeclineCode: tt.code, DeclineRetryable: tt.code != "",
			Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: money(100), Captured: money(tt.captured), Refunded: money(tt.refunded), Voided: money(tt.voided),
		}
		if got := differs(t, &paymentv1.GetPaymentResponse{Payment: p, Token: token}, a); got != "" {
			t.Errorf("%s: %s differ", tt.state, got)
		}
		p.Refunded.Amount++
		if got := differs(t, &paymentv1.GetPaymentResponse{Payment: p, Token: token}, a); got != "refunded" {
			t.Errorf("%s, one cent more: %s differ", tt.state, got)
		}
	}
}

func TestWhatTheShipmentServiceAnswersIsWhatIsRemembered(t *testing.T) {
	expected := history.Dawn.AddDate(0, 0, 5)
	a := history.Aggregate{Order: "o", Type: "shipment", ID: "s"}
	a.Add(history.Dawn, &facts.ShipmentPlanned{Warehouse: "north", PromisedAt: &expected})
	a.Add(history.Dawn, &facts.ShipmentDispatched{Carrier: "dhl", ExpectedAt: &expected})
	a.Add(history.Dawn, &facts.ShipmentStalled{PreviousExpectedAt: &expected})
	p := &shipmentv1.Shipment{
		OrderId: "o", State: shipmentv1.ShipmentState_SHIPMENT_STATE_DISPATCHED, Warehouse: "north", Carrier: "dhl", PromisedAt: timestamppb.New(expected), Stalled: true,
	}
	if got := differs(t, &shipmentv1.GetShipmentResponse{Shipment: p, Token: token}, a); got != "" {
		t.Errorf("%s differ", got)
	}
	a.Add(history.Dawn, &facts.ShipmentDelivered{})
	if got := differs(t, &shipmentv1.GetShipmentResponse{Shipment: p, Token: token}, a); got != "state dispatched/delivered" {
		t.Errorf("%s differ", got)
	}
}
