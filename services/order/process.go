package order

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// fulfilmentName is part of every request id of the process; it never changes.
const fulfilmentName = "fulfilment"

// defaultWarehouse ships the lines of a MANAGED order that name none.
const defaultWarehouse = "main"

// fulfilment is what the process knows of one order. It has one entry per
// payment and per shipment, filled from facts; what it decided itself stands
// beside them. process_next.go says what follows from it.
//
//	PLACED ── every planned payment held ──▶ confirm ──▶ CONFIRMED
//	   │ a payment declined                                 │ plan parcels for all lines
//	   ▼                                                    │ dispatched ──▶ collect what it is worth
//	CANCELLED ──▶ withdraw, release, give back, recall      ▼ all settled, all collected ──▶ complete
type fulfilment struct {
	Order     orderPart               `json:"order"`
	Payments  map[string]paymentPart  `json:"payments,omitempty"`
	Shipments map[string]shipmentPart `json:"shipments,omitempty"`
	// Bills is what a shipment is worth; Taken is what the process decided to
	// collect for it, per payment; Got is what of it was collected, as
	// "shipment/payment".
	Bills map[string]int64            `json:"bills,omitempty"`
	Taken map[string]map[string]int64 `json:"taken,omitempty"`
	Got   map[string]bool             `json:"got,omitempty"`
	// Refunds is what it decided to give back, per payment, in all.
	Refunds map[string]int64 `json:"refunds,omitempty"`
	// Fired are the timers that fired, Refused the steps that were refused and
	// why, Forced those that a person answers for.
	Fired   map[string]bool   `json:"fired,omitempty"`
	Refused map[string]string `json:"refused,omitempty"`
	Forced  map[string]bool   `json:"forced,omitempty"`
	// Waived is what a person decided not to collect.
	Waived int64 `json:"waived,omitempty"`
	// Marked says that the order's row knows of a dispatch.
	Marked bool `json:"marked,omitempty"`
}

type orderPart struct {
	ID, CustomerID, State string
	Managed, Held         bool
	PlanNumber            int // rises with every new payment plan
	Amendments            int // rises with every amendment
	Holds                 int // rises with every hold
	Plan                  []facts.PlannedPayment
	Lines                 []facts.OrderLine
	Total, Fee            facts.Money
	PromisedAt            *time.Time
	// Asked is the promise before the process moved it, HeldSince when the
	// present hold began, HeldFor how long the order was held since Asked.
	Asked     *time.Time    `json:",omitempty"`
	HeldSince *time.Time    `json:",omitempty"`
	HeldFor   time.Duration `json:",omitempty"`
}

type paymentPart struct {
	State                             string
	Asked, Captured, Refunded, Voided int64
	Currency                          string
	Method                            facts.PaymentMethod `json:",omitempty"`
	ExpiresAt                         *time.Time          `json:",omitempty"`
	Step                              string              `json:",omitempty"` // that asked for it
	Plan                              int                 `json:",omitempty"` // the payment plan it belongs to
	Again                             bool                `json:",omitempty"` // declined, and may be tried again
	ByHand                            int64               `json:",omitempty"` // refunded by a person, outside
}

// open is what is held and neither collected nor released.
func (p paymentPart) open() int64 {
	if p.State != authorized {
		return 0
	}
	return p.Asked - p.Captured - p.Voided
}

type shipmentPart struct {
	State, Warehouse string
	Lines            map[string]int32 `json:",omitempty"` // quantity by line; nil: all of the warehouse's
	Number           int              `json:",omitempty"` // of the process's own, per warehouse; 0: somebody else's, or the first of version 1
	Arrived          bool             `json:",omitempty"` // the customer had it
	Fate             string           `json:",omitempty"` // what was decided when it did not arrive
	Step             string           `json:",omitempty"` // that planned it
}

// States the process tells apart. Asked and never are its own: a step was
// issued, and no fact has told of it; it was refused.
const (
	placed, confirmed, completed, cancelled = "PLACED", "CONFIRMED", "COMPLETED", "CANCELLED"
	requested, authorized, declined, voided = "REQUESTED", "AUTHORIZED", "DECLINED", "VOIDED"
	planned, gone, delivered                = "PLANNED", "GONE", "DELIVERED"
	lost, returned                          = "LOST", "RETURNED"
	asked, never                            = "ASKED", "NEVER"
)

// Fates of a parcel that did not arrive, or came back.
const (
	reship   = "reship"   // its goods are sent again
	refunded = "refunded" // the customer does not pay for them
)

// fulfilmentProcess is one version of the process that makes a MANAGED order
// move by itself. An EXTERNAL order is only watched.
func fulfilmentProcess(version int) process.Definition[fulfilment] {
	rules := policies[version]
	return process.Definition[fulfilment]{
		Name:    fulfilmentName,
		Version: version,
		On:      (*fulfilment).on,
		Settled: (*fulfilment).settled,
		Fired:   func(s *fulfilment, timer string) { note(&s.Fired, timer, true) },
		Next:    func(s *fulfilment) process.Plan { return next(s, rules) },
		Waits:   waits,
	}
}

// fulfilmentVersions are all versions that may have open orders, oldest first.
func fulfilmentVersions() []process.Definition[fulfilment] {
	var all []process.Definition[fulfilment]
	for _, version := range slices.Sorted(maps.Keys(policies)) {
		all = append(all, fulfilmentProcess(version))
	}
	return all
}

func note[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}

func (s *fulfilment) on(f event.Fact) {
	s.Order.ID = f.Key
	switch e := f.Body.(type) {
	case *facts.OrderPlaced:
		s.Order = orderPart{
			ID: f.Key, CustomerID: e.CustomerID, State: placed, Managed: e.Fulfilment == facts.FulfilmentManaged,
			PlanNumber: 1, Total: e.Total,
		}
		if s.Order.Managed {
			s.Order.Plan, s.Order.Lines, s.Order.Fee = e.PaymentPlan, e.Lines, e.ShippingFee
			s.Order.PromisedAt, s.Order.Asked = e.PromisedAt, e.PromisedAt
		}
	case *facts.OrderAmended:
		s.amended(e)
	case *facts.OrderHeld:
		at := f.OccurredAt
		s.Order.Held, s.Order.HeldSince = true, &at
		s.Order.Holds++ // what a hold refused is asked again, as another step
	case *facts.OrderReleased:
		if s.Order.HeldSince != nil && f.OccurredAt.After(*s.Order.HeldSince) {
			s.Order.HeldFor += f.OccurredAt.Sub(*s.Order.HeldSince)
		}
		s.Order.Held, s.Order.HeldSince = false, nil
	case *facts.OrderConfirmed:
		s.Order.State = confirmed
		if e.PromisedAt != nil {
			s.promised(e.PromisedAt, e.Actor)
		}
	case *facts.OrderCancelled:
		s.Order.State, s.Order.Held = cancelled, false
	case *facts.OrderCompleted:
		s.Order.State = completed

	case *facts.PaymentRequested:
		s.payment(e.PaymentID, func(p *paymentPart) {
			p.State, p.Asked, p.Currency, p.Method = requested, e.Amount.Amount, e.Amount.Currency, e.Method
		})
	case *facts.PaymentAuthorized:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State, p.ExpiresAt = authorized, e.ExpiresAt })
	case *facts.PaymentDeclined:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State, p.Again = declined, e.Retryable })
	case *facts.PaymentCaptured:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Captured = e.TotalCaptured.Amount })
		if e.ShipmentID != nil {
			note(&s.Got, *e.ShipmentID+"/"+e.PaymentID, true)
		}
	case *facts.PaymentVoided:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State, p.Voided = voided, p.Voided+e.Amount.Amount })
	case *facts.PaymentRefunded:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Refunded = e.TotalRefunded.Amount })
	case *facts.PaymentCorrected:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Captured = e.CorrectedCaptured.Amount })

	case *facts.ShipmentPlanned:
		s.shipment(e.ShipmentID, func(p *shipmentPart) {
			p.State, p.Warehouse, p.Lines = planned, e.Warehouse, map[string]int32{}
			for _, l := range e.Lines {
				p.Lines[l.LineID] += l.Quantity
			}
		})
	case *facts.ShipmentDispatched:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = gone })
	case *facts.ShipmentDelivered:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State, p.Arrived = delivered, true })
	case *facts.ShipmentLost:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = lost })
	case *facts.ShipmentReturned:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = returned })
	case *facts.ShipmentCancelled:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = cancelled })
	}
}

func (s *fulfilment) amended(e *facts.OrderAmended) {
	s.Order.Amendments++
	s.Order.Total = e.Total
	if e.Lines != nil {
		s.Order.Lines = e.Lines
	}
	if e.ShippingFee != nil {
		s.Order.Fee = *e.ShippingFee
	}
	if e.PromisedAt != nil {
		s.promised(e.PromisedAt, e.Actor)
	}
	if e.PaymentPlan != nil {
		s.Order.Plan = e.PaymentPlan
		s.Order.PlanNumber++
	}
}

// promised takes a new promise. One that somebody else made is where moving it
// starts from again.
func (s *fulfilment) promised(at *time.Time, actor string) {
	s.Order.PromisedAt = at
	if actor != fulfilmentName {
		s.Order.Asked, s.Order.HeldFor = at, 0
	}
}

func (s *fulfilment) payment(id string, change func(*paymentPart)) {
	p := s.Payments[id]
	change(&p)
	note(&s.Payments, id, p)
}

func (s *fulfilment) shipment(id string, change func(*shipmentPart)) {
	p := s.Shipments[id]
	change(&p)
	note(&s.Shipments, id, p)
}

// settled takes the outcome of a step of which no fact will tell.
func (s *fulfilment) settled(end process.Settlement) {
	kind, rest, _ := strings.Cut(end.Step, "/")
	if end.Outcome == process.Forced {
		s.forced(end.Step, kind, rest)
		return
	}
	if end.Outcome == process.Refused {
		note(&s.Refused, end.Step, end.Reason)
	}
	switch kind {
	case "authorize":
		for id, p := range s.Payments {
			if p.Step == end.Step && p.State == asked {
				s.payment(id, func(p *paymentPart) { p.State = never })
			}
		}
	case "plan":
		for id, p := range s.Shipments {
			if p.Step == end.Step && p.State == asked {
				s.shipment(id, func(p *shipmentPart) { p.State = never })
			}
		}
	case "capture":
		if shipment, payment, _ := strings.Cut(rest, "/"); end.Outcome == process.Withdrawn {
			delete(s.Taken[shipment], payment)
		}
	}
}

// forced goes on as if a step had done what it was to do.
func (s *fulfilment) forced(step, kind, rest string) {
	note(&s.Forced, step, true)
	delete(s.Refused, step)
	switch id, other, _ := strings.Cut(rest, "/"); kind {
	case "capture": // it stays taken, so that nothing else is taken in its place
		s.Waived += s.Taken[id][other]
	case "refund":
		s.payment(id, func(p *paymentPart) { p.ByHand = s.Refunds[id] - p.Refunded })
	case "void":
		s.payment(id, func(p *paymentPart) { p.State, p.Voided = voided, p.Asked-p.Captured })
	case "cancel-shipment":
		s.shipment(id, func(p *shipmentPart) { p.State = cancelled })
	}
}
