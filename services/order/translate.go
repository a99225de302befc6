package order

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
)

func placeIn(r *orderpb.PlaceOrderRequest) (Place, error) {
	p := Place{
		CustomerID: r.GetCustomerId(), Fulfilment: Fulfilment(owner.EnumIn(r.GetFulfilment(), "FULFILMENT_")), Channel: r.GetChannel(),
		Contact: contactIn(r.GetContact()), Address: addressIn(r.GetAddress()), PromisedAt: owner.TimeIn(r.GetPromisedAt()),
	}
	if p.Channel == "" {
		p.Channel = "web"
	}
	var err error
	if p.ShippingFee, err = moneyIn("shipping_fee", r.GetShippingFee()); err != nil {
		return p, err
	}
	if p.Lines, err = linesIn("lines", r.GetLines()); err != nil {
		return p, err
	}
	p.Plan, err = planIn(r.GetPaymentPlan())
	return p, err
}

func amendIn(r *orderpb.AmendOrderRequest) (Amend, error) {
	a := Amend{Address: addressIn(r.GetAddress()), PromisedAt: owner.TimeIn(r.GetPromisedAt()), Note: r.GetNote()}
	var err error
	if r.GetLines() != nil {
		if a.Lines, err = linesIn("lines.lines", r.GetLines().GetLines()); err != nil {
			return a, err
		}
	}
	if r.GetShippingFee() != nil {
		fee, err := moneyIn("shipping_fee", r.GetShippingFee())
		if err != nil {
			return a, err
		}
		a.ShippingFee = &fee
	}
	if len(r.GetPaymentPlan()) > 0 {
		a.Plan, err = planIn(r.GetPaymentPlan())
	}
	return a, err
}

func linesIn(field string, lines []*orderpb.OrderLine) ([]Line, error) {
	out := make([]Line, len(lines))
	for i, l := range lines {
		price, err := moneyIn(fmt.Sprintf("%s[%d].unit_price", field, i), l.GetUnitPrice())
		if err != nil {
			return nil, err
		}
		out[i] = Line{ID: l.GetLineId(), SKU: l.GetSku(), Title: l.GetTitle(), Quantity: l.GetQuantity(), UnitPrice: price, Warehouse: l.GetWarehouse()}
	}
	return out, nil
}

func planIn(plan []*orderpb.PlannedPayment) ([]PlannedPayment, error) {
	out := make([]PlannedPayment, len(plan))
	for i, p := range plan {
		amount, err := moneyIn(fmt.Sprintf("payment_plan[%d].amount", i), p.GetAmount())
		if err != nil {
			return nil, err
		}
		out[i] = PlannedPayment{Method: owner.EnumIn(p.GetMethod(), "PAYMENT_METHOD_"), Amount: amount, Reference: p.GetReference()}
	}
	return out, nil
}

// moneyIn refuses what looks like a currency and is none.
func moneyIn(field string, m *commercepb.Money) (Money, error) {
	if err := owner.CheckCurrency(field+".currency", m.GetCurrency()); err != nil {
		return Money{}, err
	}
	return Money{Amount: m.GetAmount(), Currency: m.GetCurrency()}, nil
}

func moneyOut(m Money) *commercepb.Money {
	return &commercepb.Money{Amount: m.Amount, Currency: m.Currency}
}

func contactIn(c *commercepb.Contact) *Contact {
	if c == nil {
		return nil
	}
	return &Contact{Name: c.GetName(), Email: c.GetEmail(), Phone: c.GetPhone()}
}

func addressIn(a *commercepb.Address) *Address {
	if a == nil {
		return nil
	}
	return &Address{
		Recipient: a.GetRecipient(), Line1: a.GetLine1(), Line2: a.GetLine2(), PostalCode: a.GetPostalCode(),
		City: a.GetCity(), Region: a.GetRegion(), Country: a.GetCountry(),
	}
}

func orderOut(o *Order, h journal.Head) *orderpb.Order {
	out := &orderpb.Order{
		OrderId: o.ID, CustomerId: o.CustomerID, OnHold: o.OnHold, HoldReason: o.HoldReason, Channel: o.Channel,
		State:       orderpb.OrderState(orderpb.OrderState_value["ORDER_STATE_"+string(o.State)]),
		Fulfilment:  commercepb.Fulfilment(commercepb.Fulfilment_value["FULFILMENT_"+string(o.Fulfilment)]),
		ShippingFee: moneyOut(o.ShippingFee), Total: moneyOut(o.Total), PromisedAt: owner.TimeOut(o.PromisedAt), PlacedAt: owner.TimeOut(&o.PlacedAt),
		Version: h.Version, UpdatedAt: timestamppb.New(h.RecordedAt),
	}
	if o.CancelReason != "" {
		out.CancelReason = orderpb.CancelReason(orderpb.CancelReason_value["CANCEL_REASON_"+o.CancelReason])
	}
	if c := o.Contact; c != nil {
		out.Contact = &commercepb.Contact{Name: c.Name, Email: c.Email, Phone: c.Phone}
	}
	if a := o.Address; a != nil {
		out.Address = &commercepb.Address{
			Recipient: a.Recipient, Line1: a.Line1, Line2: a.Line2, PostalCode: a.PostalCode, City: a.City, Region: a.Region, Country: a.Country,
		}
	}
	for _, l := range o.Lines {
		out.Lines = append(out.Lines, &orderpb.OrderLine{
			LineId: l.ID, Sku: l.SKU, Title: l.Title, Quantity: l.Quantity, UnitPrice: moneyOut(l.UnitPrice), Warehouse: l.Warehouse,
		})
	}
	for _, p := range o.Plan {
		out.PaymentPlan = append(out.PaymentPlan, &orderpb.PlannedPayment{
			Method: commercepb.PaymentMethod(commercepb.PaymentMethod_value["PAYMENT_METHOD_"+p.Method]),
			Amount: moneyOut(p.Amount), Reference: p.Reference,
		})
	}
	return out
}
