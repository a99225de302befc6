// Package timeline answers for customer service: what does the customer believe
// is happening, and what happened to their orders?
package timeline

import (
	_ "embed" // for schema.sql
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// State is what the timeline remembers of one order: one entry per aggregate.
// Fold touches only the entry of the fact's aggregate; only Rows and Sums
// combine entries.
type State struct {
	Order     *Order               `json:"o,omitempty"`
	Payments  map[string]*Payment  `json:"p,omitempty"`
	Shipments map[string]*Shipment `json:"s,omitempty"`
}

// Head is what every entry has.
type Head struct {
	Customer string    `json:"c"`
	LastAt   time.Time `json:"l"` // latest business time seen; times may run backwards
}

// Order is the order's own entry.
//
//	PLACED → CONFIRMED → COMPLETED; PLACED | CONFIRMED → CANCELLED
type Order struct {
	Head
	Step       string         `json:"st"` // "placed", "confirmed", "completed" or "cancelled"
	Held       bool           `json:"h,omitempty"`
	HoldReason string         `json:"hr,omitempty"`
	Cancel     string         `json:"cr,omitempty"`
	Channel    string         `json:"ch,omitempty"`
	Total      facts.Money    `json:"t"`
	PlacedAt   time.Time      `json:"pl"`
	PromisedAt *time.Time     `json:"pr,omitempty"`
	Contact    *facts.Contact `json:"co,omitempty"`
	Address    *facts.Address `json:"ad,omitempty"`
	ContactAt  time.Time      `json:"ca"` // when contact or address was given last
}

// Payment is one payment's entry.
type Payment struct {
	Head
	Method     string `json:"m"`
	Step       string `json:"st"` // "requested", "authorized", "declined" or "voided"
	Currency   string `json:"cu"`
	Requested  int64  `json:"rq"`
	Authorized int64  `json:"au,omitempty"`
	Captured   int64  `json:"cp,omitempty"`
	Refunded   int64  `json:"rf,omitempty"`
}

// Shipment is one parcel's entry.
type Shipment struct {
	Head
	Step         string     `json:"st"` // "planned", "dispatched", "delivered", "lost", "returned" or "cancelled"
	Warehouse    string     `json:"w,omitempty"`
	Carrier      string     `json:"ca,omitempty"`
	Tracking     string     `json:"t,omitempty"`
	Location     string     `json:"lo,omitempty"`
	PromisedAt   *time.Time `json:"pr,omitempty"`
	FirstAt      *time.Time `json:"f,omitempty"` // first date expected
	ExpectedAt   *time.Time `json:"e,omitempty"`
	Stalled      bool       `json:"sl,omitempty"` // delayed, and nobody knows until when
	DispatchedAt *time.Time `json:"di,omitempty"`
	DeliveredAt  *time.Time `json:"de,omitempty"`
}

//go:embed schema.sql
var schema string

// View is the definition of the read model. Any change to what follows from
// facts needs a new version.
func View() fold.View[State] {
	return fold.View[State]{
		Name:    "timeline",
		Version: 3,
		Schema:  schema,
		Sources: []string{"order", "payment", "shipment"},
		Fold:    apply,
		Tables: []fold.Table[State]{
			fold.Rows("orders", orderRows),
			fold.Sums("customers", customerSums),
			fold.Sums("spend", spendSums),
		},
		Logs: []fold.LogTable{fold.Log("entries", entries)},
	}
}

func apply(s *State, f event.Fact) {
	switch f.Aggregate.Type {
	case "order":
		applyOrder(s, f)
	case "payment":
		applyPayment(s, f)
	case "shipment":
		applyShipment(s, f)
	}
}

// see notes what every fact carries.
func (h *Head) see(f event.Fact) {
	if fact, ok := f.Body.(facts.Fact); ok {
		h.Customer = fact.Common().CustomerID
	}
	if f.OccurredAt.After(h.LastAt) {
		h.LastAt = f.OccurredAt
	}
}

func applyOrder(s *State, f event.Fact) {
	if s.Order == nil {
		s.Order = &Order{}
	}
	o := s.Order
	o.see(f)
	switch b := f.Body.(type) {
	case *facts.OrderPlaced:
		o.Step, o.Channel, o.Total, o.PlacedAt = "placed", b.Channel, b.Total, f.OccurredAt
		o.promise(b.PromisedAt)
		o.reach(b.Contact, b.Address, f.OccurredAt)
	case *facts.OrderAmended:
		o.Total = b.Total
		o.promise(b.PromisedAt)
		o.reach(nil, b.Address, f.OccurredAt)
	case *facts.OrderHeld:
		o.Held, o.HoldReason = true, b.Reason
	case *facts.OrderReleased:
		o.Held, o.HoldReason = false, ""
	case *facts.OrderConfirmed:
		o.Step = "confirmed"
		o.promise(b.PromisedAt)
	case *facts.OrderCancelled:
		o.Step, o.Cancel, o.Held, o.HoldReason = "cancelled", string(b.Reason), false, ""
	case *facts.OrderCompleted:
		o.Step = "completed"
	}
}

func (o *Order) promise(at *time.Time) {
	if at != nil {
		o.PromisedAt = at
	}
}

// reach notes contact points; what is not given stays as it was.
func (o *Order) reach(c *facts.Contact, a *facts.Address, at time.Time) {
	if c != nil {
		o.Contact = c
	}
	if a != nil {
		o.Address = a
	}
	if c != nil || a != nil {
		o.ContactAt = at
	}
}

func applyPayment(s *State, f event.Fact) {
	if s.Payments == nil {
		s.Payments = map[string]*Payment{}
	}
	p := s.Payments[f.Aggregate.ID]
	if p == nil {
		p = &Payment{}
		s.Payments[f.Aggregate.ID] = p
	}
	p.see(f)
	switch b := f.Body.(type) {
	case *facts.PaymentRequested:
		p.Step, p.Method, p.Currency, p.Requested = "requested", string(b.Method), b.Amount.Currency, b.Amount.Amount
	case *facts.PaymentAuthorized:
		p.Step, p.Authorized = "authorized", b.Amount.Amount
	case *facts.PaymentDeclined:
		p.Step = "declined"
	case *facts.PaymentVoided:
		p.Step = "voided"
	case *facts.PaymentCaptured:
		p.Captured = b.TotalCaptured.Amount
	case *facts.PaymentCorrected:
		p.Captured = b.CorrectedCaptured.Amount
	case *facts.PaymentRefunded:
		p.Refunded = b.TotalRefunded.Amount
	}
}

func applyShipment(s *State, f event.Fact) {
	if s.Shipments == nil {
		s.Shipments = map[string]*Shipment{}
	}
	p := s.Shipments[f.Aggregate.ID]
	if p == nil {
		p = &Shipment{}
		s.Shipments[f.Aggregate.ID] = p
	}
	p.see(f)
	at := f.OccurredAt
	switch b := f.Body.(type) {
	case *facts.ShipmentPlanned:
		p.Step, p.Warehouse, p.PromisedAt = "planned", b.Warehouse, b.PromisedAt
	case *facts.ShipmentDispatched:
		p.Step, p.Carrier, p.Tracking, p.DispatchedAt = "dispatched", b.Carrier, b.TrackingNumber, &at
		if b.Warehouse != "" {
			p.Warehouse = b.Warehouse
		}
		p.expect(b.ExpectedAt)
	case *facts.ShipmentScanned:
		p.Location = placeOf(b)
	case *facts.ShipmentDelayed:
		p.expect(b.PreviousExpectedAt)
		p.expect(&b.ExpectedAt)
	case *facts.ShipmentStalled:
		p.expect(b.PreviousExpectedAt)
		p.ExpectedAt, p.Stalled = nil, true
	case *facts.ShipmentDelivered:
		p.Step, p.DeliveredAt = "delivered", &at
		if b.Location != "" {
			p.Location = b.Location
		}
	case *facts.ShipmentLost:
		p.Step = "lost"
	case *facts.ShipmentReturned:
		p.Step = "returned"
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
	p.ExpectedAt, p.Stalled = at, false
}

// live reports whether the parcel is still meant to be with the customer.
func (p *Shipment) live() bool { return p.Step != "cancelled" && p.Step != "returned" }

// The statuses of an order.
const (
	statusPlaced    = "placed"
	statusConfirmed = "confirmed"
	statusShipped   = "shipped"
	statusDelivered = "delivered"
	statusCompleted = "completed"
	statusCancelled = "cancelled"
)

// status derives where the order stands from all its entries.
func (s *State) status() string {
	if s.Order != nil && (s.Order.Step == statusCompleted || s.Order.Step == statusCancelled) {
		return s.Order.Step
	}
	live, delivered, sent := 0, 0, 0
	for _, p := range s.Shipments {
		if p.live() {
			live++
		}
		if p.Step == "delivered" {
			delivered++
		}
		if p.DispatchedAt != nil || p.Step == "delivered" {
			sent++
		}
	}
	switch {
	case live > 0 && delivered == live:
		return statusDelivered
	case sent > 0:
		return statusShipped
	case s.Order != nil && s.Order.Step == statusConfirmed:
		return statusConfirmed
	}
	return statusPlaced
}

// open reports whether something is still to come.
func open(status string) bool {
	return status == statusPlaced || status == statusConfirmed || status == statusShipped
}

// customer is the order's customer: what the order itself says, or else what
// its payments and parcels say.
func (s *State) customer() string {
	if s.Order != nil && s.Order.Customer != "" {
		return s.Order.Customer
	}
	for _, id := range slices.Sorted(maps.Keys(s.Payments)) {
		return s.Payments[id].Customer
	}
	for _, id := range slices.Sorted(maps.Keys(s.Shipments)) {
		return s.Shipments[id].Customer
	}
	return ""
}

func (s *State) lastAt() time.Time {
	var last time.Time
	see := func(h Head) {
		if h.LastAt.After(last) {
			last = h.LastAt
		}
	}
	if s.Order != nil {
		see(s.Order.Head)
	}
	for _, p := range s.Payments {
		see(p.Head)
	}
	for _, p := range s.Shipments {
		see(p.Head)
	}
	return last
}

// OrderRow is a row of the table orders.
type OrderRow struct {
	OrderID     string     `db:"order_id,key"`
	CustomerID  string     `db:"customer_id"`
	Open        bool       `db:"open"`
	PlacedAt    *time.Time `db:"placed_at"`
	LastEventAt time.Time  `db:"last_event_at"`
	ContactAt   *time.Time `db:"contact_at"`
	// Document is a Document as JSON: all that one answer needs.
	Document string `db:"document"`
}

func orderRows(id string, s *State, put func(OrderRow)) {
	if s.Order == nil && len(s.Payments) == 0 && len(s.Shipments) == 0 {
		return
	}
	doc := documentOf(id, s)
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err) // parks the order: a document is plain data and always encodes
	}
	r := OrderRow{
		OrderID: id, CustomerID: doc.CustomerID, Open: open(doc.Status), LastEventAt: doc.LastEventAt, Document: string(text),
	}
	if s.Order != nil && !s.Order.PlacedAt.IsZero() {
		r.PlacedAt = &s.Order.PlacedAt
	}
	if s.Order != nil && (s.Order.Contact != nil || s.Order.Address != nil) {
		r.ContactAt = &s.Order.ContactAt
	}
	put(r)
}

// CustomerSum counts a customer's orders.
type CustomerSum struct {
	CustomerID string `db:"customer_id,key"`
	Orders     int64  `db:"orders,sum"`
	Open       int64  `db:"open,sum"`
}

func customerSums(_ string, s *State, add func(CustomerSum)) {
	if s.Order == nil {
		return
	}
	sum := CustomerSum{CustomerID: s.customer(), Orders: 1}
	if open(s.status()) {
		sum.Open = 1
	}
	add(sum)
}

// SpendSum adds up what a customer paid and kept.
type SpendSum struct {
	CustomerID string `db:"customer_id,key"`
	Currency   string `db:"currency,key"`
	Net        int64  `db:"net,sum"`
}

func spendSums(_ string, s *State, add func(SpendSum)) {
	for _, p := range s.Payments {
		if p.Captured != 0 || p.Refunded != 0 {
			add(SpendSum{CustomerID: s.customer(), Currency: p.Currency, Net: p.Captured - p.Refunded})
		}
	}
}
