package timeline

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Document is an order as one answer shows it. It is stored as JSON, so that
// "where is my order?" reads one row.
type Document struct {
	OrderID      string             `json:"order_id"`
	CustomerID   string             `json:"customer_id"`
	Status       string             `json:"status"`
	Headline     string             `json:"headline"`
	OnHold       bool               `json:"on_hold,omitempty"`
	CancelReason string             `json:"cancel_reason,omitempty"`
	Channel      string             `json:"channel,omitempty"`
	Total        *facts.Money       `json:"total,omitempty"`
	PlacedAt     *time.Time         `json:"placed_at,omitempty"`
	PromisedAt   *time.Time         `json:"promised_at,omitempty"`
	ExpectedAt   *time.Time         `json:"expected_at,omitempty"`
	DeliveredAt  *time.Time         `json:"delivered_at,omitempty"`
	LastEventAt  time.Time          `json:"last_event_at"`
	Payments     []PaymentDocument  `json:"payments,omitempty"`
	Shipments    []ShipmentDocument `json:"shipments,omitempty"`
	Contact      *facts.Contact     `json:"contact,omitempty"`
	Address      *facts.Address     `json:"address,omitempty"`
}

// PaymentDocument is one payment; amounts are minor units.
type PaymentDocument struct {
	ID         string `json:"id"`
	Method     string `json:"method"`
	State      string `json:"state"`
	Currency   string `json:"currency"`
	Requested  int64  `json:"requested"`
	Authorized int64  `json:"authorized"`
	Captured   int64  `json:"captured"`
	Refunded   int64  `json:"refunded"`
}

// ShipmentDocument is one parcel.
type ShipmentDocument struct {
	ID           string     `json:"id"`
	State        string     `json:"state"`
	Warehouse    string     `json:"warehouse,omitempty"`
	Carrier      string     `json:"carrier,omitempty"`
	Tracking     string     `json:"tracking,omitempty"`
	Location     string     `json:"location,omitempty"`
	PromisedAt   *time.Time `json:"promised_at,omitempty"`
	ExpectedAt   *time.Time `json:"expected_at,omitempty"`
	DispatchedAt *time.Time `json:"dispatched_at,omitempty"`
	DeliveredAt  *time.Time `json:"delivered_at,omitempty"`
	Delayed      bool       `json:"delayed,omitempty"`
	Stalled      bool       `json:"stalled,omitempty"` // delayed, and nobody knows until when
}

func documentOf(id string, s *State) Document {
	d := Document{OrderID: id, CustomerID: s.customer(), Status: s.status(), LastEventAt: s.lastAt()}
	if o := s.Order; o != nil {
		d.OnHold, d.CancelReason, d.Channel, d.PromisedAt = o.Held, o.Cancel, o.Channel, o.PromisedAt
		d.Contact, d.Address = o.Contact, o.Address
		if !o.PlacedAt.IsZero() {
			d.Total, d.PlacedAt = &o.Total, &o.PlacedAt
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Payments)) {
		p := s.Payments[id]
		d.Payments = append(d.Payments, PaymentDocument{
			ID: id, Method: p.Method, State: p.state(), Currency: p.Currency,
			Requested: p.Requested, Authorized: p.Authorized, Captured: p.Captured, Refunded: p.Refunded,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(s.Shipments)) {
		d.addShipment(id, s.Shipments[id])
	}
	if d.stalled() {
		d.ExpectedAt = nil // the last parcel may come at any time
	}
	if d.Status != statusDelivered && d.Status != statusCompleted {
		d.DeliveredAt = nil // some parcel is still to come
	}
	d.Headline = headline(d)
	return d
}

// state is the payment in one word.
func (p *Payment) state() string {
	switch {
	case p.Refunded > 0 && p.Refunded >= p.Captured:
		return "refunded"
	case p.Captured > 0:
		return "captured"
	}
	return p.Step
}

func (d *Document) addShipment(id string, p *Shipment) {
	d.Shipments = append(d.Shipments, ShipmentDocument{
		ID: id, State: p.Step, Warehouse: p.Warehouse, Carrier: p.Carrier, Tracking: p.Tracking, Location: p.Location,
		PromisedAt: p.PromisedAt, ExpectedAt: p.ExpectedAt, DispatchedAt: p.DispatchedAt, DeliveredAt: p.DeliveredAt,
		Delayed: p.Stalled || p.FirstAt != nil && p.ExpectedAt != nil && p.ExpectedAt.After(*p.FirstAt),
		Stalled: p.Stalled,
	})
	if p.live() && p.Step != "delivered" {
		d.ExpectedAt = later(d.ExpectedAt, p.ExpectedAt)
	}
	if p.Step == "delivered" {
		d.DeliveredAt = later(d.DeliveredAt, p.DeliveredAt)
	}
}

// stalled reports whether a parcel that is still to come has no date any more.
func (d *Document) stalled() bool {
	return slices.ContainsFunc(d.Shipments, func(p ShipmentDocument) bool {
		return p.Stalled && (p.State == "planned" || p.State == "dispatched")
	})
}

func later(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.After(*a) {
		return b
	}
	return a
}

const day = "2 January 2006"

// headline is one sentence for the customer. It reads no clock, so it says no
// "today" and no "late".
func headline(d Document) string {
	switch d.Status {
	case statusCancelled:
		return "The order was cancelled" + cancelWords[d.CancelReason] + "." + refundWords(d)
	case statusCompleted:
		return "The order is complete." + deliveredWords(d)
	case statusDelivered:
		return "Everything has arrived." + deliveredWords(d)
	}
	if d.OnHold {
		return "The order is on hold while we look at it."
	}
	if d.Status == statusShipped {
		return shippedWords(d)
	}
	promise := ""
	if d.PromisedAt != nil {
		promise = " It is promised for " + d.PromisedAt.UTC().Format(day) + "."
	}
	if d.Status == statusConfirmed {
		return "The order is confirmed and being prepared." + promise
	}
	if d.PlacedAt == nil {
		return "The order is known only through its payments and parcels so far."
	}
	return "The order was received and waits for confirmation." + promise
}

var cancelWords = map[string]string{
	"CUSTOMER":         " at the customer's wish",
	"UNAVAILABLE":      " because the goods are not available",
	"PAYMENT_DECLINED": " because no payment could be obtained",
	"FRAUD":            " after a check",
	"OPERATOR":         " by customer service",
	"EXPIRED":          " because it waited too long",
}

func refundWords(d Document) string {
	kept := false
	refunded := false
	for _, p := range d.Payments {
		kept = kept || p.Captured > p.Refunded
		refunded = refunded || p.Refunded > 0
	}
	switch {
	case kept:
		return " Money that was collected is still to be given back."
	case refunded:
		return " The money was given back."
	}
	return ""
}

func deliveredWords(d Document) string {
	if d.DeliveredAt == nil {
		return ""
	}
	return " Delivered on " + d.DeliveredAt.UTC().Format(day) + "."
}

func shippedWords(d Document) string {
	live, delivered, lost := 0, 0, 0
	for _, p := range d.Shipments {
		switch p.State {
		case "cancelled", "returned":
		case "delivered":
			live, delivered = live+1, delivered+1
		case "lost":
			live, lost = live+1, lost+1
		default:
			live++
		}
	}
	words := "The order is on its way."
	switch {
	case live == 0:
		words = "The order was sent back."
	case lost > 0:
		words = "A parcel was lost; we are looking into it."
	case delivered > 0:
		words = fmt.Sprintf("%d of %d parcels have arrived.", delivered, live)
	}
	if d.stalled() && lost == 0 {
		return words + " A parcel is delayed, and there is no new date for it yet."
	}
	if d.ExpectedAt != nil && live > 0 && lost == 0 {
		words += " Expected by " + d.ExpectedAt.UTC().Format(day) + "."
	}
	return words
}
