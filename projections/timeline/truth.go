package timeline

import (
	"context"
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

// Truths say which of what the timeline shows its owners answer as well. It is
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
	cancel := ""
	if r := o.GetCancelReason(); r != orderv1.CancelReason_CANCEL_REASON_UNSPECIFIED {
		cancel = strings.TrimPrefix(r.String(), "CANCEL_REASON_")
	}
	contact, address := "", ""
	if c := o.GetContact(); c != nil {
		contact = joined(c.GetName(), c.GetEmail(), c.GetPhone())
	}
	if a := o.GetAddress(); a != nil {
		address = joined(a.GetRecipient(), a.GetLine1(), a.GetLine2(), a.GetPostalCode(), a.GetCity(), a.GetRegion(), a.GetCountry())
	}
	return orderSaid(word(o.GetState().String(), "ORDER_STATE_"), o.GetCustomerId(), o.GetOnHold(), o.GetHoldReason(), cancel, o.GetChannel(),
		o.GetTotal(), instant(o.GetPlacedAt()), instant(o.GetPromisedAt()), contact, address)
}

func shownOrder(id string, s *State, _ string) projection.Said {
	d, step, reason := documentOf(id, s), "", ""
	if s.Order != nil {
		step, reason = s.Order.Step, s.Order.HoldReason
	}
	contact, address := "", ""
	if c := d.Contact; c != nil {
		contact = joined(given(c.Name), given(c.Email), given(c.Phone))
	}
	if a := d.Address; a != nil {
		address = joined(given(a.Recipient), given(a.Line1), given(a.Line2), given(a.PostalCode), given(a.City), given(a.Region), a.Country)
	}
	total := facts.Money{}
	if d.Total != nil {
		total = *d.Total
	}
	return orderSaid(step, d.CustomerID, d.OnHold, reason, d.CancelReason, d.Channel, &commercev1.Money{Amount: total.Amount, Currency: total.Currency},
		d.PlacedAt, d.PromisedAt, contact, address)
}

func orderSaid(state, customer string, held bool, reason, cancel, channel string, total *commercev1.Money, placed, promised *time.Time,
	contact, address string,
) projection.Said {
	return projection.Said{
		State: state,
		Money: []projection.Money{{Name: "total", Currency: total.GetCurrency(), Amount: total.GetAmount()}},
		Fields: []projection.Field{
			{Name: "customer_id", Value: customer}, {Name: "on_hold", Value: strconv.FormatBool(held)}, {Name: "hold_reason", Value: reason},
			{Name: "cancel_reason", Value: cancel}, {Name: "channel", Value: channel}, projection.When("placed_at", placed), projection.When("promised_at", promised),
			{Name: "contact", Value: contact, Personal: true}, {Name: "address", Value: address, Personal: true},
		},
	}
}

func ownersPayment(p *paymentv1.Payment) projection.Said {
	d := PaymentDocument{
		State: paymentWord(p), Method: strings.TrimPrefix(p.GetMethod().String(), "PAYMENT_METHOD_"), Currency: p.GetAmount().GetCurrency(),
		Requested: p.GetAmount().GetAmount(), Captured: p.GetCaptured().GetAmount(), Refunded: p.GetRefunded().GetAmount(),
	}
	return paymentSaid(p.GetOrderId(), p.GetCustomerId(), d)
}

// paymentWord is the owner's state as the timeline puts it: what is collected in
// part is collected, and a payment of which nothing is kept in the books after
// all says what else happened to it.
func paymentWord(p *paymentv1.Payment) string {
	switch p.GetState() {
	case paymentv1.PaymentState_PAYMENT_STATE_CAPTURED, paymentv1.PaymentState_PAYMENT_STATE_PARTIALLY_CAPTURED:
		switch {
		case p.GetCaptured().GetAmount() > 0:
			return "captured"
		case p.GetRefunded().GetAmount() > 0:
			return "refunded"
		case p.GetVoided().GetAmount() > 0:
			return "voided"
		}
		return "authorized"
	}
	return word(p.GetState().String(), "PAYMENT_STATE_")
}

func shownPayment(order string, s *State, id string) projection.Said {
	for _, d := range documentOf(order, s).Payments {
		if d.ID == id {
			return paymentSaid(order, s.Payments[id].Customer, d)
		}
	}
	return paymentSaid(order, "", PaymentDocument{})
}

func paymentSaid(order, customer string, d PaymentDocument) projection.Said {
	return projection.Said{
		State: d.State,
		Money: []projection.Money{
			{Name: "requested", Currency: d.Currency, Amount: d.Requested}, {Name: "captured", Currency: d.Currency, Amount: d.Captured},
			{Name: "refunded", Currency: d.Currency, Amount: d.Refunded},
		},
		Fields: []projection.Field{{Name: "order_id", Value: order}, {Name: "customer_id", Value: customer}, {Name: "method", Value: d.Method}},
	}
}

func ownersShipment(p *shipmentv1.Shipment) projection.Said {
	return shipmentSaid(p.GetOrderId(), p.GetCustomerId(), ShipmentDocument{
		State: word(p.GetState().String(), "SHIPMENT_STATE_"), Warehouse: p.GetWarehouse(), Carrier: p.GetCarrier(), Tracking: p.GetTrackingNumber(),
		PromisedAt: instant(p.GetPromisedAt()), ExpectedAt: instant(p.GetExpectedAt()), Stalled: p.GetStalled(),
	})
}

func shownShipment(order string, s *State, id string) projection.Said {
	for _, d := range documentOf(order, s).Shipments {
		if d.ID == id {
			return shipmentSaid(order, s.Shipments[id].Customer, d)
		}
	}
	return shipmentSaid(order, "", ShipmentDocument{})
}

func shipmentSaid(order, customer string, d ShipmentDocument) projection.Said {
	return projection.Said{
		State: d.State,
		Fields: []projection.Field{
			{Name: "order_id", Value: order}, {Name: "customer_id", Value: customer}, {Name: "warehouse", Value: d.Warehouse},
			{Name: "carrier", Value: d.Carrier}, {Name: "tracking_number", Value: d.Tracking}, projection.When("promised_at", d.PromisedAt),
			projection.When("expected_at", d.ExpectedAt), {Name: "stalled", Value: strconv.FormatBool(d.Stalled)},
		},
	}
}

// word is the name of an enum's value as the timeline writes it.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func instant(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	when := t.AsTime()
	return &when
}

func given(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// joined keeps absent apart from empty: what is there has separators at least.
func joined(parts ...string) string { return strings.Join(parts, " | ") }
