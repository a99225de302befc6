// Package operations answers for operators and dashboards: what work needs
// attention now?
package operations

import (
	_ "embed" // for schema.sql
	"maps"
	"slices"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// State is what operations remembers of one order: one entry per aggregate.
// Fold touches only the entry of the fact's aggregate; only Rows and Sums
// combine entries.
type State struct {
	Order     *Order               `json:"o,omitempty"`
	Payments  map[string]*Payment  `json:"p,omitempty"`
	Shipments map[string]*Shipment `json:"s,omitempty"`
}

// Order is the order's own entry.
type Order struct {
	Customer    string      `json:"c"`
	External    bool        `json:"x,omitempty"`
	Step        string      `json:"st"` // "placed", "confirmed", "completed" or "cancelled"
	Channel     string      `json:"ch,omitempty"`
	Total       facts.Money `json:"t"`
	HeldAt      *time.Time  `json:"h,omitempty"`
	HoldReason  string      `json:"hr,omitempty"`
	NeedsAt     *time.Time  `json:"na,omitempty"` // since when fulfilment needs a person
	Needs       string      `json:"nr,omitempty"` // why, as facts.OrderNeedsAttention says
	NeedsStep   string      `json:"ns,omitempty"` // the step that waits for the person
	PlacedAt    *time.Time  `json:"pl,omitempty"`
	ConfirmedAt *time.Time  `json:"cf,omitempty"`
	CompletedAt *time.Time  `json:"cp,omitempty"`
	CancelledAt *time.Time  `json:"ca,omitempty"`
	PromisedAt  *time.Time  `json:"pr,omitempty"`
	Warehouses  []string    `json:"w,omitempty"` // of the lines, sorted
}

// Payment is one payment's entry.
type Payment struct {
	Customer   string     `json:"c"`
	Method     string     `json:"m"`
	Currency   string     `json:"cu"`
	Step       string     `json:"st"` // "requested", "authorized", "declined" or "voided"
	Reason     string     `json:"r,omitempty"`
	Retryable  bool       `json:"rt,omitempty"` // the method may be tried again after the refusal
	Requested  int64      `json:"rq"`
	Authorized int64      `json:"au,omitempty"`
	Captured   int64      `json:"cp,omitempty"`
	Refunded   int64      `json:"rf,omitempty"`
	DeclinedAt *time.Time `json:"d,omitempty"`
	CapturedAt *time.Time `json:"ca,omitempty"`
}

// Shipment is one parcel's entry.
type Shipment struct {
	Customer     string     `json:"c"`
	Step         string     `json:"st"` // "planned", "dispatched", "delivered", "lost", "returned" or "cancelled"
	Warehouse    string     `json:"w,omitempty"`
	Carrier      string     `json:"ca,omitempty"`
	PromisedAt   *time.Time `json:"pr,omitempty"`
	FirstAt      *time.Time `json:"f,omitempty"` // first date expected
	ExpectedAt   *time.Time `json:"e,omitempty"`
	DelayedAt    *time.Time `json:"dl,omitempty"`
	StalledAt    *time.Time `json:"sl,omitempty"` // since when nobody knows when it will arrive
	DispatchedAt *time.Time `json:"di,omitempty"`
	DeliveredAt  *time.Time `json:"de,omitempty"`
	LostAt       *time.Time `json:"lo,omitempty"`
}

//go:embed schema.sql
var schema string

// View is the definition of the read model. Any change to what follows from
// facts, the policy included, needs a new version.
func View() fold.View[State] {
	return fold.View[State]{
		Name:    "operations",
		Version: 3,
		Schema:  schema,
		Sources: []string{"order", "payment", "shipment"},
		Fold:    apply,
		Tables: []fold.Table[State]{
			fold.Rows("work_items", workItems),
			fold.Rows("open_orders", openOrders),
			fold.Sums("warehouses", warehouseSums),
			fold.Sums("throughput", throughputSums),
			fold.Sums("statuses", statusSums),
			fold.Sums("money", moneySums),
		},
	}
}

func apply(s *State, f event.Fact) {
	switch f.Aggregate.Type {
	case "order":
		if s.Order == nil {
			s.Order = &Order{}
		}
		s.Order.apply(f)
	case "payment":
		if s.Payments == nil {
			s.Payments = map[string]*Payment{}
		}
		if s.Payments[f.Aggregate.ID] == nil {
			s.Payments[f.Aggregate.ID] = &Payment{}
		}
		s.Payments[f.Aggregate.ID].apply(f)
	case "shipment":
		if s.Shipments == nil {
			s.Shipments = map[string]*Shipment{}
		}
		if s.Shipments[f.Aggregate.ID] == nil {
			s.Shipments[f.Aggregate.ID] = &Shipment{}
		}
		s.Shipments[f.Aggregate.ID].apply(f)
	}
}

func (o *Order) apply(f event.Fact) {
	at := f.OccurredAt
	switch b := f.Body.(type) {
	case *facts.OrderPlaced:
		o.Customer, o.Step, o.Channel, o.Total, o.PlacedAt = b.CustomerID, "placed", b.Channel, b.Total, &at
		o.External = b.Fulfilment == facts.FulfilmentExternal
		o.Warehouses = warehousesOf(b.Lines)
		o.promise(b.PromisedAt)
	case *facts.OrderAmended:
		o.Total = b.Total
		if b.Lines != nil {
			o.Warehouses = warehousesOf(b.Lines)
		}
		o.promise(b.PromisedAt)
	case *facts.OrderHeld:
		o.HeldAt, o.HoldReason = &at, b.Reason
	case *facts.OrderReleased:
		o.HeldAt, o.HoldReason = nil, ""
	case *facts.OrderNeedsAttention:
		if o.NeedsAt == nil {
			o.NeedsAt = &at
		}
		o.Needs, o.NeedsStep = b.Reason, b.Step
	case *facts.OrderAttentionSettled:
		o.NeedsAt, o.Needs, o.NeedsStep = nil, "", ""
	case *facts.OrderConfirmed:
		o.Step, o.ConfirmedAt = "confirmed", &at
		o.promise(b.PromisedAt)
	case *facts.OrderCancelled:
		o.Step, o.CancelledAt, o.HeldAt = "cancelled", &at, nil
	case *facts.OrderCompleted:
		o.Step, o.CompletedAt = "completed", &at
	}
}

func (o *Order) promise(at *time.Time) {
	if at != nil {
		o.PromisedAt = at
	}
}

func warehousesOf(lines []facts.OrderLine) []string {
	var names []string
	for _, l := range lines {
		if l.Warehouse != "" {
			names = append(names, l.Warehouse)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (p *Payment) apply(f event.Fact) {
	at := f.OccurredAt
	if b, ok := f.Body.(facts.Fact); ok {
		p.Customer = b.Common().CustomerID
	}
	switch b := f.Body.(type) {
	case *facts.PaymentRequested:
		p.Step, p.Method, p.Currency, p.Requested = "requested", string(b.Method), b.Amount.Currency, b.Amount.Amount
	case *facts.PaymentAuthorized:
		p.Step, p.Authorized = "authorized", b.Amount.Amount
	case *facts.PaymentDeclined:
		p.Step, p.Reason, p.Retryable, p.DeclinedAt = "declined", b.ReasonCode, b.Retryable, &at
	case *facts.PaymentVoided:
		p.Step, p.Authorized = "voided", 0
	case *facts.PaymentCaptured:
		p.Captured, p.CapturedAt = b.TotalCaptured.Amount, &at
	case *facts.PaymentCorrected:
		p.Captured, p.CapturedAt = b.CorrectedCaptured.Amount, &at
	case *facts.PaymentRefunded:
		p.Refunded = b.TotalRefunded.Amount
	}
}

func (p *Shipment) apply(f event.Fact) {
	at := f.OccurredAt
	if b, ok := f.Body.(facts.Fact); ok {
		p.Customer = b.Common().CustomerID
	}
	switch b := f.Body.(type) {
	case *facts.ShipmentPlanned:
		p.Step, p.Warehouse, p.PromisedAt = "planned", b.Warehouse, b.PromisedAt
	case *facts.ShipmentDispatched:
		p.Step, p.Carrier, p.DispatchedAt = "dispatched", b.Carrier, &at
		if b.Warehouse != "" {
			p.Warehouse = b.Warehouse
		}
		p.expect(b.ExpectedAt)
	case *facts.ShipmentDelayed:
		p.expect(b.PreviousExpectedAt)
		p.expect(&b.ExpectedAt)
		p.DelayedAt = &at
	case *facts.ShipmentStalled:
		p.expect(b.PreviousExpectedAt)
		p.ExpectedAt, p.StalledAt = nil, &at
	case *facts.ShipmentDelivered:
		p.Step, p.DeliveredAt, p.LostAt = "delivered", &at, nil
	case *facts.ShipmentLost:
		p.Step, p.LostAt = "lost", &at
	case *facts.ShipmentReturned:
		p.Step, p.LostAt = "returned", nil
	case *facts.ShipmentCancelled:
		p.Step = "cancelled"
	}
}

func (p *Shipment) expect(at *time.Time) {
	if at == nil {
		return
	}
	if p.FirstAt == nil {
		p.FirstAt = at
	}
	p.ExpectedAt, p.StalledAt = at, nil
}

// live reports whether the parcel is still meant to be with the customer.
func (p *Shipment) live() bool { return p.Step != "cancelled" && p.Step != "returned" }

// pending reports whether somebody still has to do something about it.
func (p *Shipment) pending() bool { return p.live() && p.Step != "delivered" }

// The statuses of an order.
const (
	statusPlaced    = "placed"
	statusConfirmed = "confirmed"
	statusShipped   = "shipped"
	statusDelivered = "delivered"
	statusCompleted = "completed"
	statusCancelled = "cancelled"
)

// standing is where an order stands and since when.
type standing struct {
	status      string
	since       *time.Time
	shippedAt   *time.Time // first parcel handed over
	deliveredAt *time.Time // last parcel arrived; nil while one is to come
}

// open reports whether something is still to come.
func (s standing) open() bool {
	return s.status == statusPlaced || s.status == statusConfirmed || s.status == statusShipped
}

func (s *State) standing() standing {
	live, delivered := 0, 0
	var st standing
	var last *time.Time
	for _, p := range s.Shipments {
		if p.live() {
			live++
		}
		sent := p.DispatchedAt
		if p.Step == "delivered" {
			delivered++
			last = pick(last, p.DeliveredAt, time.Time.After)
			if sent == nil {
				sent = p.DeliveredAt
			}
		}
		st.shippedAt = pick(st.shippedAt, sent, time.Time.Before)
	}
	if live > 0 && delivered == live {
		st.deliveredAt = last
	}
	switch o := s.Order; {
	case o != nil && o.Step == statusCancelled:
		st.status, st.since = statusCancelled, o.CancelledAt
	case o != nil && o.Step == statusCompleted:
		st.status, st.since = statusCompleted, o.CompletedAt
	case st.deliveredAt != nil:
		st.status, st.since = statusDelivered, st.deliveredAt
	case st.shippedAt != nil:
		st.status, st.since = statusShipped, st.shippedAt
	case o != nil && o.Step == statusConfirmed:
		st.status, st.since = statusConfirmed, o.ConfirmedAt
	case o != nil:
		st.status, st.since = statusPlaced, o.PlacedAt
	default:
		st.status = statusPlaced
	}
	return st
}

// pick returns b if a is absent or b is better, else a.
func pick(a, b *time.Time, better func(time.Time, time.Time) bool) *time.Time {
	if a == nil || b != nil && better(*b, *a) {
		return b
	}
	return a
}

// customer is the order's customer: what the order itself says, or else what
// its payments and parcels say.
func (s *State) customer() string {
	if s.Order != nil && s.Order.Customer != "" {
		return s.Order.Customer
	}
	for _, id := range slices.Sorted(maps.Keys(s.Payments)) {
		if c := s.Payments[id].Customer; c != "" {
			return c
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Shipments)) {
		if c := s.Shipments[id].Customer; c != "" {
			return c
		}
	}
	return ""
}

func (s *State) channel() string {
	if s.Order == nil {
		return ""
	}
	return s.Order.Channel
}

// warehouses are those that have work to do for the order: the places of its
// pending parcels, or, before any parcel is planned, of its lines.
func (s *State) warehouses() []string {
	var names []string
	for _, p := range s.Shipments {
		if p.pending() {
			names = append(names, p.Warehouse)
		}
	}
	if len(s.Shipments) == 0 && s.Order != nil {
		names = append(names, s.Order.Warehouses...)
	}
	if len(names) == 0 {
		names = []string{""}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
