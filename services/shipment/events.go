package shipment

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// change applies events to the shipment, one after the other, and returns the
// facts they are to the rest of the world.
func change(s *Shipment, events []Event) []journal.Fact {
	stated := make([]journal.Fact, 0, len(events))
	for _, e := range events {
		s.Apply(e)
		stated = append(stated, journal.Fact{Body: fact(s, e), OccurredAt: e.meta().OccurredAt})
	}
	return stated
}

// fact turns an event into the contract that others read. Every event has one.
func fact(s *Shipment, e Event) event.Body {
	m := e.meta()
	switch e := e.(type) {
	case WasPlanned:
		lines := make([]facts.ShipmentLine, len(e.Lines))
		for i, l := range e.Lines {
			lines[i] = facts.ShipmentLine{LineID: l.ID, SKU: l.SKU, Quantity: l.Quantity}
		}
		return &facts.ShipmentPlanned{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			Fulfilment: facts.Fulfilment(e.Fulfilment), Warehouse: e.Warehouse, Lines: lines, PromisedAt: e.PromisedAt,
		}
	case WasDispatched:
		return &facts.ShipmentDispatched{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			Warehouse: e.Warehouse, Carrier: e.Carrier, TrackingNumber: e.TrackingNumber, ExpectedAt: e.ExpectedAt,
		}
	case WasScanned:
		f := &facts.ShipmentScanned{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			Location: e.Location, Description: e.Description,
		}
		// The fact says the place both ways: readers of version 1 know only the text.
		if p := e.Place; p != nil {
			f.Facility, f.Area, f.Country = p.Facility, p.Area, p.Country
			f.Location = facts.JoinLocation(p.Facility, p.Area, p.Country)
		} else {
			f.Facility, f.Area = facts.SplitLocation(e.Location)
		}
		return f
	case WasDelayed:
		return &facts.ShipmentDelayed{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			ExpectedAt: e.ExpectedAt, PreviousExpectedAt: e.Previous, Reason: e.Reason,
		}
	case WasStalled:
		return &facts.ShipmentStalled{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			PreviousExpectedAt: e.Previous, Reason: e.Reason,
		}
	case WasDelivered:
		f := &facts.ShipmentDelivered{
			OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID,
			Location: e.Location,
		}
		if e.SignedByRole != "" {
			f.SignedByRole = &e.SignedByRole
		}
		return f
	case WasLost:
		return &facts.ShipmentLost{OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID, Reason: e.Reason}
	case WasReturned:
		return &facts.ShipmentReturned{OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID, Reason: e.Reason}
	case WasCancelled:
		return &facts.ShipmentCancelled{OrderID: s.OrderID, CustomerID: s.CustomerID, Actor: m.Actor, TimeEstimated: m.TimeEstimated, ShipmentID: s.ID, Reason: e.Reason}
	}
	return nil
}
