// Package shipment decides about shipments: what is on its way to whom.
// shipment.go is the decision and nothing else; it knows no database, no
// network and no clock.
package shipment

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// State is where a shipment stands.
//
//	Plan ──▶ PLANNED ──Dispatch──▶ DISPATCHED ──Deliver──▶ DELIVERED ──Return──▶ RETURNED
//	            │                   │   │  ▲ scans            ▲                     ▲
//	            └─Cancel─▶ CANCELLED│   └──Lose──▶ LOST ──Deliver (found)           │
//	                                │                └──────────Return──────────────┤
//	                                └──────────────────────────Return───────────────┘
//
//	A delay may be reported while PLANNED or DISPATCHED.
type State string

// The states. The zero value means that the shipment does not exist.
const (
	None       State = ""
	Planned    State = "PLANNED"
	Dispatched State = "DISPATCHED"
	Delivered  State = "DELIVERED"
	Lost       State = "LOST"
	Returned   State = "RETURNED"
	Cancelled  State = "CANCELLED"
)

// Fulfilment says who moves a shipment on.
type Fulfilment string

// The two ways. EXTERNAL shipments may have no warehouse and no lines.
const (
	Managed  Fulfilment = "MANAGED"
	External Fulfilment = "EXTERNAL"
)

// Line is one article of a shipment.
type Line struct {
	ID, SKU  string
	Quantity int32
}

// Shipment is the aggregate. Its methods decide; only Apply changes it.
type Shipment struct {
	ID, OrderID, CustomerID string
	State                   State
	Fulfilment              Fulfilment
	Warehouse               string
	Lines                   []Line
	Carrier, TrackingNumber string
	PromisedAt, ExpectedAt  *time.Time
	Stalled                 bool // delayed, and nobody knows until when
}

// Place is where a carrier saw a parcel.
type Place struct{ Facility, Area, Country string }

// Meta is what every command and event carries: who acted, and when in the
// business.
type Meta struct {
	Actor         string
	OccurredAt    time.Time
	TimeEstimated bool
}

// Commands.
type (
	// Plan asks for a new shipment.
	Plan struct {
		Meta
		OrderID, CustomerID string
		Fulfilment          Fulfilment
		Warehouse           string
		Lines               []Line
		PromisedAt          *time.Time
	}
	// Dispatch hands it to the carrier.
	Dispatch struct {
		Meta
		Carrier, TrackingNumber string
		ExpectedAt              *time.Time
	}
	// Scan records where the carrier saw it, in one text or in parts.
	Scan struct {
		Meta
		Location    string
		Place       *Place
		Description string
	}
	// Delay moves the expected date; nil says that nobody knows it any more.
	Delay struct {
		Meta
		ExpectedAt *time.Time
		Reason     string
	}
	// Deliver records that the customer has it.
	Deliver struct {
		Meta
		Location, SignedByRole string
	}
	// Lose records that the carrier lost it.
	Lose struct {
		Meta
		Reason string
	}
	// Return records that it came back.
	Return struct {
		Meta
		Reason string
	}
	// Cancel ends it before dispatch.
	Cancel struct {
		Meta
		Reason string
	}
)

// Event is something that happened to a shipment.
type Event interface{ meta() Meta }

// Events.
type (
	// WasPlanned starts a shipment.
	WasPlanned struct{ Plan }
	// WasDispatched put it on its way.
	WasDispatched struct {
		Dispatch
		Warehouse string
	}
	// WasScanned saw it somewhere.
	WasScanned struct{ Scan }
	// WasDelayed moved the expected date; Previous is the one before.
	WasDelayed struct {
		Meta
		ExpectedAt time.Time
		Previous   *time.Time
		Reason     string
	}
	// WasStalled took the expected date away; Previous is the one before.
	WasStalled struct {
		Meta
		Previous *time.Time
		Reason   string
	}
	// WasDelivered brought it to the customer.
	WasDelivered struct{ Deliver }
	// WasLost lost it.
	WasLost struct{ Lose }
	// WasReturned brought it back.
	WasReturned struct{ Return }
	// WasCancelled ended it before dispatch.
	WasCancelled struct{ Cancel }
)

func (m Meta) meta() Meta { return m }

// Plan decides about a new shipment.
func (s *Shipment) Plan(c Plan) ([]Event, error) {
	if s.State != None {
		return nil, fault.AlreadyExists("shipment", s.ID)
	}
	if c.Fulfilment == Managed {
		if c.Warehouse == "" {
			return nil, fault.Invalid("warehouse", "is required for a MANAGED shipment")
		}
		if len(c.Lines) == 0 {
			return nil, fault.Invalid("lines", "a MANAGED shipment has at least one line")
		}
	}
	seen := make(map[string]bool, len(c.Lines))
	for i, l := range c.Lines {
		if seen[l.ID] {
			return nil, fault.Invalid(fmt.Sprintf("lines[%d].line_id", i), "%q appears twice", l.ID)
		}
		if l.Quantity < 1 || l.Quantity > 10_000 {
			return nil, fault.Invalid(fmt.Sprintf("lines[%d].quantity", i), "must be between 1 and 10000")
		}
		seen[l.ID] = true
	}
	return []Event{WasPlanned{c}}, nil
}

// Dispatch decides about handing it to the carrier.
func (s *Shipment) Dispatch(c Dispatch) ([]Event, error) {
	if err := s.in("DispatchShipment", Planned); err != nil {
		return nil, err
	}
	return []Event{WasDispatched{Dispatch: c, Warehouse: s.Warehouse}}, nil
}

// Scan decides about a scan; a shipment that was dispatched can be scanned for ever.
func (s *Shipment) Scan(c Scan) ([]Event, error) {
	if err := s.in("RecordScan", Dispatched, Delivered, Lost, Returned); err != nil {
		return nil, err
	}
	if c.Place != nil && c.Location != "" {
		return nil, fault.Invalid("location", "give the place in one text or in parts, not both")
	}
	return []Event{WasScanned{c}}, nil
}

// Delay decides about another expected date, or about none.
func (s *Shipment) Delay(c Delay) ([]Event, error) {
	if err := s.in("ReportDelay", Planned, Dispatched); err != nil {
		return nil, err
	}
	previous := s.ExpectedAt
	if previous == nil && !s.Stalled {
		previous = s.PromisedAt
	}
	if c.ExpectedAt == nil {
		return []Event{WasStalled{Meta: c.Meta, Previous: previous, Reason: c.Reason}}, nil
	}
	return []Event{WasDelayed{Meta: c.Meta, ExpectedAt: *c.ExpectedAt, Previous: previous, Reason: c.Reason}}, nil
}

// Deliver decides about a delivery; a lost shipment may be found.
func (s *Shipment) Deliver(c Deliver) ([]Event, error) {
	if err := s.in("DeliverShipment", Dispatched, Lost); err != nil {
		return nil, err
	}
	return []Event{WasDelivered{c}}, nil
}

// Lose decides about a loss.
func (s *Shipment) Lose(c Lose) ([]Event, error) {
	if err := s.in("LoseShipment", Dispatched); err != nil {
		return nil, err
	}
	return []Event{WasLost{c}}, nil
}

// Return decides about a return, by the customer or by the carrier.
func (s *Shipment) Return(c Return) ([]Event, error) {
	if err := s.in("ReturnShipment", Dispatched, Delivered, Lost); err != nil {
		return nil, err
	}
	return []Event{WasReturned{c}}, nil
}

// Cancel decides about ending it before dispatch.
func (s *Shipment) Cancel(c Cancel) ([]Event, error) {
	if err := s.in("CancelShipment", Planned); err != nil {
		return nil, err
	}
	return []Event{WasCancelled{c}}, nil
}

// Apply changes the shipment by what happened. It accepts whatever was once
// decided, so it checks nothing.
func (s *Shipment) Apply(e Event) {
	switch e := e.(type) {
	case WasPlanned:
		s.State = Planned
		s.OrderID, s.CustomerID, s.Fulfilment = e.OrderID, e.CustomerID, e.Fulfilment
		s.Warehouse, s.Lines, s.PromisedAt = e.Warehouse, e.Lines, e.PromisedAt
	case WasDispatched:
		s.State, s.Carrier, s.TrackingNumber = Dispatched, e.Carrier, e.TrackingNumber
		if e.ExpectedAt != nil {
			s.ExpectedAt, s.Stalled = e.ExpectedAt, false
		}
	case WasDelayed:
		s.ExpectedAt, s.Stalled = &e.ExpectedAt, false
	case WasStalled:
		s.ExpectedAt, s.Stalled = nil, true
	case WasDelivered:
		s.State = Delivered
	case WasLost:
		s.State = Lost
	case WasReturned:
		s.State = Returned
	case WasCancelled:
		s.State = Cancelled
	}
}

func (s *Shipment) in(command string, states ...State) error {
	if s.State == None {
		return fault.NotFound("shipment", s.ID)
	}
	if slices.Contains(states, s.State) {
		return nil
	}
	return fault.IllegalTransition("shipment", string(s.State), command)
}
