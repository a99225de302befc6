package order

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// change applies events to the order, one after the other, and returns the
// facts they are to the rest of the world.
func change(o *Order, events []Event) []journal.Fact {
	stated := make([]journal.Fact, 0, len(events))
	for _, e := range events {
		o.Apply(e)
		stated = append(stated, journal.Fact{Body: fact(o, e), OccurredAt: e.meta().OccurredAt})
	}
	return stated
}

// fact turns an event into the contract that others read. Every event has one.
func fact(o *Order, e Event) event.Body {
	m := e.meta()
	switch e := e.(type) {
	case WasPlaced:
		return &facts.OrderPlaced{
			OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated,
			Fulfilment: facts.Fulfilment(e.Fulfilment), Channel: e.Channel, Lines: factLines(e.Lines),
			ShippingFee: facts.Money(e.ShippingFee), Total: facts.Money(e.Total),
			Contact: factContact(e.Contact), Address: factAddress(e.Address), PromisedAt: e.PromisedAt, PaymentPlan: factPlan(e.Plan),
		}
	case WasAmended:
		f := &facts.OrderAmended{
			OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated,
			Total: facts.Money(e.Total), Address: factAddress(e.Address), PromisedAt: e.PromisedAt, Note: e.Note,
		}
		if e.Lines != nil {
			f.Lines = factLines(e.Lines)
		}
		if e.ShippingFee != nil {
			fee := facts.Money(*e.ShippingFee)
			f.ShippingFee = &fee
		}
		if e.Plan != nil {
			f.PaymentPlan = factPlan(e.Plan)
		}
		return f
	case WasHeld:
		return &facts.OrderHeld{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, Reason: e.Reason, Note: e.Note}
	case WasReleased:
		return &facts.OrderReleased{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, Note: e.Note}
	case WasConfirmed:
		return &facts.OrderConfirmed{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PromisedAt: e.PromisedAt}
	case WasCancelled:
		return &facts.OrderCancelled{
			OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated,
			Reason: facts.CancelReason(e.Reason), Note: e.Note,
		}
	case WasCompleted:
		return &facts.OrderCompleted{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated}
	case TroubleArose:
		return &facts.OrderNeedsAttention{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor, Reason: e.Reason, Step: e.Step}
	case TroubleEnded:
		return &facts.OrderAttentionSettled{OrderID: o.ID, CustomerID: o.CustomerID, Actor: m.Actor}
	}
	return nil
}

func factLines(lines []Line) []facts.OrderLine {
	out := make([]facts.OrderLine, len(lines))
	for i, l := range lines {
		out[i] = facts.OrderLine{
			LineID: l.ID, SKU: l.SKU, Title: optional(l.Title), Quantity: l.Quantity,
			UnitPrice: facts.Money(l.UnitPrice), Warehouse: l.Warehouse,
		}
	}
	return out
}

func factPlan(plan []PlannedPayment) []facts.PlannedPayment {
	out := make([]facts.PlannedPayment, len(plan))
	for i, p := range plan {
		out[i] = facts.PlannedPayment{Method: facts.PaymentMethod(p.Method), Amount: facts.Money(p.Amount), Reference: p.Reference}
	}
	return out
}

func factContact(c *Contact) *facts.Contact {
	if c == nil {
		return nil
	}
	return &facts.Contact{Name: optional(c.Name), Email: optional(c.Email), Phone: optional(c.Phone)}
}

func factAddress(a *Address) *facts.Address {
	if a == nil {
		return nil
	}
	return &facts.Address{
		Recipient: optional(a.Recipient), Line1: optional(a.Line1), Line2: optional(a.Line2), PostalCode: optional(a.PostalCode),
		City: optional(a.City), Region: optional(a.Region), Country: a.Country,
	}
}

// optional turns the empty string into an absent one.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
