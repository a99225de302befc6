// Package order decides about orders: what was bought, by whom, and whether it
// stands. order.go is the decision and nothing else; it knows no database, no
// network and no clock.
package order

import (
	"slices"
	"time"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// State is where an order stands in its own life. A hold is a flag beside it.
//
//	           ┌────Amend (all)      ┌────Amend (promise; address, before dispatch)
//	           ▼ │                   ▼ │
//	Place ──▶ PLACED ──Confirm──▶ CONFIRMED ──Complete──▶ COMPLETED
//	            │                    │
//	            └──────Cancel────────┴──────▶ CANCELLED
//
//	Hold and Release switch the flag in PLACED and CONFIRMED; a held order is
//	neither confirmed nor completed, but it may be amended and cancelled.
type State string

// The states; an order that does not exist is in None.
const (
	None      State = ""
	Placed    State = "PLACED"
	Confirmed State = "CONFIRMED"
	Completed State = "COMPLETED"
	Cancelled State = "CANCELLED"
)

// Fulfilment says who moves an order on.
type Fulfilment string

// MANAGED orders are moved by the fulfilment process, EXTERNAL ones are only
// watched, and may have no lines and no money.
const (
	Managed  Fulfilment = "MANAGED"
	External Fulfilment = "EXTERNAL"
)

// The parts of an order.
type (
	// Money is an amount in the minor unit of its currency.
	Money struct {
		Amount   int64
		Currency string
	}
	// Line is one article of an order.
	Line struct {
		ID, SKU, Title, Warehouse string
		Quantity                  int32
		UnitPrice                 Money
	}
	// Contact says how to reach a person. Personal data.
	Contact struct{ Name, Email, Phone string }
	// Address is a postal address. Personal data.
	Address struct{ Recipient, Line1, Line2, PostalCode, City, Region, Country string }
	// PlannedPayment is one way in which the customer wants to pay.
	PlannedPayment struct {
		Method, Reference string
		Amount            Money
	}
)

// Order is the aggregate. Its methods decide; only Apply changes it.
type Order struct {
	ID, CustomerID string
	State          State
	OnHold         bool
	HoldReason     string
	Fulfilment     Fulfilment
	Channel        string
	Lines          []Line
	ShippingFee    Money
	Total          Money
	Contact        *Contact
	Address        *Address
	PromisedAt     *time.Time
	Plan           []PlannedPayment
	CancelReason   string
	PlacedAt       time.Time
	// Amendments is how often the order was amended.
	Amendments int
	// DispatchKnown: a parcel of the order is known to have left the house. No
	// event of the order says so; it is read with the order's lock.
	DispatchKnown bool
}

// Meta is what every command and event carries: who acted, and when in the
// business.
type Meta struct {
	Actor         string
	OccurredAt    time.Time
	TimeEstimated bool
}

// Commands.
type (
	// Place asks for a new order.
	Place struct {
		Meta
		CustomerID  string
		Fulfilment  Fulfilment
		Channel     string
		Lines       []Line
		ShippingFee Money
		Contact     *Contact
		Address     *Address
		PromisedAt  *time.Time
		Plan        []PlannedPayment
	}
	// Amend changes what is not nil.
	Amend struct {
		Meta
		Lines       []Line
		ShippingFee *Money
		Address     *Address
		PromisedAt  *time.Time
		Plan        []PlannedPayment
		Note        string
	}
	// Hold stops an order from moving on.
	Hold struct {
		Meta
		Reason, Note string
	}
	// Release lifts a hold.
	Release struct {
		Meta
		Note string
	}
	// Confirm accepts a placed order.
	Confirm struct {
		Meta
		PromisedAt *time.Time
		// AmendmentsSeen is how many amendments whoever confirms knows of; nil:
		// they do not care.
		AmendmentsSeen *int
	}
	// Cancel ends an order.
	Cancel struct {
		Meta
		Reason, Note string
	}
	// Complete ends an order of which everything is delivered and paid.
	Complete struct{ Meta }
)

// Event is something that happened to an order.
type Event interface{ meta() Meta }

// Events.
type (
	// WasPlaced starts an order.
	WasPlaced struct {
		Place
		Total Money
	}
	// WasAmended changed what is not nil; Total is the new sum.
	WasAmended struct {
		Amend
		Total Money
	}
	// WasHeld put an order on hold.
	WasHeld struct{ Hold }
	// WasReleased lifted the hold.
	WasReleased struct{ Release }
	// WasConfirmed accepted the order.
	WasConfirmed struct{ Confirm }
	// WasCancelled ended the order.
	WasCancelled struct{ Cancel }
	// WasCompleted ended the order.
	WasCompleted struct{ Complete }
	// TroubleArose and TroubleEnded say whether fulfilment needs a person. They
	// change nothing of the order itself.
	TroubleArose struct {
		Meta
		Reason, Step string
	}
	TroubleEnded struct{ Meta }
)

func (m Meta) meta() Meta { return m }

// Place decides about a new order.
func (o *Order) Place(c Place) ([]Event, error) {
	if o.State != None {
		return nil, fault.AlreadyExists("order", o.ID)
	}
	if c.Fulfilment == Managed && len(c.Lines) == 0 {
		return nil, fault.Invalid("lines", "a MANAGED order has at least one line")
	}
	total, err := sum(c.Lines, c.ShippingFee)
	if err != nil {
		return nil, err
	}
	if err := checkPlan(c.Fulfilment, c.Plan, total); err != nil {
		return nil, err
	}
	return []Event{WasPlaced{Place: c, Total: total}}, nil
}

// Amend decides about a change of a placed order. Of a confirmed one only the
// promise may change, and the address before a dispatch is known.
func (o *Order) Amend(c Amend) ([]Event, error) {
	if err := o.in("AmendOrder", Placed, Confirmed); err != nil {
		return nil, err
	}
	if c.Lines == nil && c.ShippingFee == nil && c.Address == nil && c.PromisedAt == nil && c.Plan == nil {
		return nil, fault.Invalid("lines", "nothing to amend: give lines, shipping_fee, address, promised_at or payment_plan")
	}
	if o.State == Confirmed {
		if c.Lines != nil || c.ShippingFee != nil || c.Plan != nil {
			return nil, fault.RuleViolated(o.stateName(), "AmendOrder", "of a confirmed order only the address and the promise may be amended")
		}
		if c.Address != nil && o.DispatchKnown {
			return nil, fault.RuleViolated(o.stateName(), "AmendOrder", "a shipment of the order is on its way: its address stays")
		}
	}
	lines, fee, plan := o.Lines, o.ShippingFee, o.Plan // as they would be
	if c.Lines != nil {
		lines = c.Lines
	}
	if c.ShippingFee != nil {
		fee = *c.ShippingFee
	}
	if fee.Currency != o.ShippingFee.Currency {
		return nil, fault.Invalid("shipping_fee.currency", "the order is in %s", o.ShippingFee.Currency)
	}
	if c.Plan != nil {
		plan = c.Plan
	}
	total, err := sum(lines, fee)
	if err != nil {
		return nil, err
	}
	if err := checkPlan(o.Fulfilment, plan, total); err != nil {
		return nil, err
	}
	return []Event{WasAmended{Amend: c, Total: total}}, nil
}

// Hold decides about stopping an order.
func (o *Order) Hold(c Hold) ([]Event, error) {
	if err := o.in("HoldOrder", Placed, Confirmed); err != nil {
		return nil, err
	}
	if o.OnHold {
		return nil, o.refuse("HoldOrder")
	}
	return []Event{WasHeld{c}}, nil
}

// Release decides about lifting a hold.
func (o *Order) Release(c Release) ([]Event, error) {
	if err := o.in("ReleaseOrder", Placed, Confirmed); err != nil {
		return nil, err
	}
	if !o.OnHold {
		return nil, o.refuse("ReleaseOrder")
	}
	return []Event{WasReleased{c}}, nil
}

// Confirm decides about accepting an order.
func (o *Order) Confirm(c Confirm) ([]Event, error) {
	if err := o.in("ConfirmOrder", Placed); err != nil {
		return nil, err
	}
	if o.OnHold {
		return nil, o.refuse("ConfirmOrder")
	}
	if c.AmendmentsSeen != nil && *c.AmendmentsSeen != o.Amendments {
		return nil, fault.RuleViolated(o.stateName(), "ConfirmOrder", "the order was amended meanwhile")
	}
	return []Event{WasConfirmed{c}}, nil
}

// Cancel decides about ending an order; a held one may be cancelled too.
func (o *Order) Cancel(c Cancel) ([]Event, error) {
	if err := o.in("CancelOrder", Placed, Confirmed); err != nil {
		return nil, err
	}
	return []Event{WasCancelled{c}}, nil
}

// Complete decides about ending an order of which all is done.
func (o *Order) Complete(c Complete) ([]Event, error) {
	if err := o.in("CompleteOrder", Confirmed); err != nil {
		return nil, err
	}
	if o.OnHold {
		return nil, o.refuse("CompleteOrder")
	}
	return []Event{WasCompleted{c}}, nil
}

// Apply changes the order by what happened. It accepts whatever was once
// decided, so it checks nothing.
func (o *Order) Apply(e Event) {
	switch e := e.(type) {
	case WasPlaced:
		o.CustomerID, o.State, o.Fulfilment, o.Channel = e.CustomerID, Placed, e.Fulfilment, e.Channel
		o.Lines, o.ShippingFee, o.Total = e.Lines, e.ShippingFee, e.Total
		o.Contact, o.Address, o.PromisedAt, o.Plan, o.PlacedAt = e.Contact, e.Address, e.PromisedAt, e.Plan, e.OccurredAt
	case WasAmended:
		o.Amendments++
		o.Total = e.Total
		if e.Lines != nil {
			o.Lines = e.Lines
		}
		if e.ShippingFee != nil {
			o.ShippingFee = *e.ShippingFee
		}
		if e.Address != nil {
			o.Address = e.Address
		}
		if e.PromisedAt != nil {
			o.PromisedAt = e.PromisedAt
		}
		if e.Plan != nil {
			o.Plan = e.Plan
		}
	case WasHeld:
		o.OnHold, o.HoldReason = true, e.Reason
	case WasReleased:
		o.OnHold, o.HoldReason = false, ""
	case WasConfirmed:
		o.State = Confirmed
		if e.PromisedAt != nil {
			o.PromisedAt = e.PromisedAt
		}
	case WasCancelled:
		o.State, o.CancelReason, o.OnHold, o.HoldReason = Cancelled, e.Reason, false, ""
	case WasCompleted:
		o.State = Completed
	}
}

func (o *Order) in(command string, states ...State) error {
	if o.State == None {
		return fault.NotFound("order", o.ID)
	}
	if slices.Contains(states, o.State) {
		return nil
	}
	return o.refuse(command)
}

func (o *Order) refuse(command string) error {
	return fault.IllegalTransition("order", o.stateName(), command)
}

func (o *Order) stateName() string {
	if o.OnHold {
		return string(o.State) + "_ON_HOLD"
	}
	return string(o.State)
}
