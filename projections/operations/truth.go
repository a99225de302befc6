package operations

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"

	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Truths say which of what operations remembers its owners answer as well. It is
// the one file that knows the owners' contracts, and nothing but reconciling
// calls it.
func Truths() []projection.Truth[State] {
	return []projection.Truth[State]{
		{Source: "order", Ask: askOrder, Shown: shownOrder},
		{Source: "payment", Ask: askPayment, Shown: shownPayment},
		{Source: "shipment", Ask: askShipment, Shown: shownShipment},
	}
}

func askOrder(ctx context.Context, owner grpc.ClientConnInterface, id string) (projection.Answer, error) {
	r, err := orderv1.NewOrderServiceClient(owner).GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: id})
	return projection.AnswerOf(r.GetToken(), ownersOrder(r.GetOrder())), err
}

func askPayment(ctx context.Context, owner grpc.ClientConnInterface, id string) (projection.Answer, error) {
	r, err := paymentv1.NewPaymentServiceClient(owner).GetPayment(ctx, &paymentv1.GetPaymentRequest{PaymentId: id})
	return projection.AnswerOf(r.GetToken(), ownersPayment(r.GetPayment())), err
}

func askShipment(ctx context.Context, owner grpc.ClientConnInterface, id string) (projection.Answer, error) {
	r, err := shipmentv1.NewShipmentServiceClient(owner).GetShipment(ctx, &shipmentv1.GetShipmentRequest{ShipmentId: id})
	return projection.AnswerOf(r.GetToken(), ownersShipment(r.GetShipment())), err
}

func ownersOrder(o *orderv1.Order) projection.Said {
	said := Order{
		Step: word(o.GetState().String(), "ORDER_STATE_"), Customer: o.GetCustomerId(), External: o.GetFulfilment() == commercev1.Fulfilment_FULFILMENT_EXTERNAL,
		Channel: o.GetChannel(), Total: facts.Money{Amount: o.GetTotal().GetAmount(), Currency: o.GetTotal().GetCurrency()},
		PlacedAt: instant(o.GetPlacedAt()), PromisedAt: instant(o.GetPromisedAt()), HoldReason: o.GetHoldReason(),
	}
	for _, l := range o.GetLines() {
		if l.GetWarehouse() != "" {
			said.Warehouses = append(said.Warehouses, l.GetWarehouse())
		}
	}
	slices.Sort(said.Warehouses)
	said.Warehouses = slices.Compact(said.Warehouses)
	return orderSaid(&said, o.GetOnHold())
}

func shownOrder(_ string, s *State, _ string) projection.Said {
	if s.Order == nil {
		return orderSaid(&Order{}, false)
	}
	return orderSaid(s.Order, s.Order.HeldAt != nil)
}

func orderSaid(o *Order, held bool) projection.Said {
	reason := ""
	if held {
		reason = o.HoldReason // what is left of an earlier one means nothing
	}
	return projection.Said{
		State: o.Step,
		Money: []projection.Money{{Name: "total", Currency: o.Total.Currency, Amount: o.Total.Amount}},
		Fields: []projection.Field{
			{Name: "customer_id", Value: o.Customer}, {Name: "external", Value: strconv.FormatBool(o.External)}, {Name: "channel", Value: o.Channel},
			{Name: "on_hold", Value: strconv.FormatBool(held)}, {Name: "hold_reason", Value: reason}, projection.When("placed_at", o.PlacedAt),
			projection.When("promised_at", o.PromisedAt), {Name: "warehouses", Value: strings.Join(o.Warehouses, ", ")},
		},
	}
}

func ownersPayment(p *paymentv1.Payment) projection.Said {
	said := Payment{
		Customer: p.GetCustomerId(), Method: strings.TrimPrefix(p.GetMethod().String(), "PAYMENT_METHOD_"), Currency: p.GetAmount().GetCurrency(),
		Reason: p.GetDeclineCode(), Retryable: p.GetDeclineRetryable(),
		Requested: p.GetAmount().GetAmount(), Captured: p.GetCaptured().GetAmount(), Refunded: p.GetRefunded().GetAmount(),
	}
	switch p.GetState() {
	case paymentv1.PaymentState_PAYMENT_STATE_CAPTURED, paymentv1.PaymentState_PAYMENT_STATE_PARTIALLY_CAPTURED, paymentv1.PaymentState_PAYMENT_STATE_REFUNDED:
		if said.Step = "authorized"; p.GetVoided().GetAmount() > 0 {
			said.Step = "voided"
		}
	default:
		said.Step = word(p.GetState().String(), "PAYMENT_STATE_")
	}
	return paymentSaid(p.GetOrderId(), &said)
}

func shownPayment(order string, s *State, id string) projection.Said {
	if p := s.Payments[id]; p != nil {
		return paymentSaid(order, p)
	}
	return paymentSaid(order, &Payment{})
}

// paymentSaid counts payments by their step: operations tells what is collected
// by its amount.
func paymentSaid(order string, p *Payment) projection.Said {
	return projection.Said{
		State: p.Step,
		Money: []projection.Money{
			{Name: "requested", Currency: p.Currency, Amount: p.Requested}, {Name: "captured", Currency: p.Currency, Amount: p.Captured},
			{Name: "refunded", Currency: p.Currency, Amount: p.Refunded},
		},
		Fields: []projection.Field{
			{Name: "order_id", Value: order}, {Name: "customer_id", Value: p.Customer}, {Name: "method", Value: p.Method},
			{Name: "decline_code", Value: p.Reason}, {Name: "decline_retryable", Value: strconv.FormatBool(p.Retryable)},
		},
	}
}

func ownersShipment(p *shipmentv1.Shipment) projection.Said {
	return shipmentSaid(p.GetOrderId(), p.GetStalled(), &Shipment{
		Customer: p.GetCustomerId(), Step: word(p.GetState().String(), "SHIPMENT_STATE_"), Warehouse: p.GetWarehouse(), Carrier: p.GetCarrier(),
		PromisedAt: instant(p.GetPromisedAt()), ExpectedAt: instant(p.GetExpectedAt()),
	})
}

func shownShipment(order string, s *State, id string) projection.Said {
	if p := s.Shipments[id]; p != nil {
		return shipmentSaid(order, p.StalledAt != nil, p)
	}
	return shipmentSaid(order, false, &Shipment{})
}

func shipmentSaid(order string, stalled bool, p *Shipment) projection.Said {
	return projection.Said{
		State: p.Step,
		Fields: []projection.Field{
			{Name: "order_id", Value: order}, {Name: "customer_id", Value: p.Customer}, {Name: "warehouse", Value: p.Warehouse},
			{Name: "carrier", Value: p.Carrier}, projection.When("promised_at", p.PromisedAt), projection.When("expected_at", p.ExpectedAt),
			{Name: "stalled", Value: strconv.FormatBool(stalled)},
		},
	}
}

// word is the name of an enum's value as operations writes it.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func instant(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	when := t.AsTime()
	return &when
}
