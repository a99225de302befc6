package payment

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// providerName is what facts call the provider of MANAGED payments.
const providerName = "simulator"

// change applies events to the payment, one after the other, and returns the
// facts they are to the rest of the world. What only concerns calls to the
// provider is no fact.
func change(p *Payment, events []Event) []journal.Fact {
	stated := make([]journal.Fact, 0, len(events))
	for _, e := range events {
		p.Apply(e)
		if body := fact(p, e); body != nil {
			stated = append(stated, journal.Fact{Body: body, OccurredAt: e.meta().OccurredAt})
		}
	}
	return stated
}

// fact turns an event into the contract that others read, or nil.
func fact(p *Payment, e Event) event.Body {
	m, method := e.meta(), facts.PaymentMethod(p.Method)
	money := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: p.Amount.Currency} }
	switch e := e.(type) {
	case WasRequested:
		f := &facts.PaymentRequested{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID,
			Fulfilment: facts.Fulfilment(e.Fulfilment), Method: method, Amount: facts.Money(e.Amount), Installments: max(1, e.Installments),
		}
		if e.Fulfilment == Managed {
			f.Provider = providerName
		}
		return f
	case WasAuthorized:
		return &facts.PaymentAuthorized{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			Amount: facts.Money(p.Amount), ProviderReference: e.ProviderReference, ExpiresAt: e.ExpiresAt,
		}
	case WasDeclined:
		return &facts.PaymentDeclined{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			Amount: facts.Money(p.Amount), ReasonCode: e.Code, Message: e.Message, Retryable: e.Retryable,
		}
	case WasCaptured:
		f := &facts.PaymentCaptured{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			Amount: facts.Money(e.Amount), TotalCaptured: money(e.Total),
		}
		if e.ShipmentID != "" {
			f.ShipmentID = &e.ShipmentID
		}
		return f
	case WasVoided:
		return &facts.PaymentVoided{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			Amount: money(e.Amount), Reason: e.Reason,
		}
	case WasRefunded:
		return &facts.PaymentRefunded{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			Amount: facts.Money(e.Amount), TotalRefunded: money(e.Total), Reason: e.Reason,
		}
	case WasCorrected:
		return &facts.PaymentCorrected{
			OrderID: p.OrderID, CustomerID: p.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, PaymentID: p.ID, Method: method,
			PreviousCaptured: money(e.Previous), CorrectedCaptured: facts.Money(e.Captured), EffectiveAt: e.EffectiveAt, Reason: e.Reason,
		}
	}
	return nil
}
