// Package history draws plausible histories of orders for the property tests
// of views: every fact there is, its optional fields now given and now absent,
// several payments and parcels of one order, business times that run backwards.
package history

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Dawn is the business time around which everything happens.
var Dawn = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// Epoch is the epoch of every fact.
const Epoch = "20260301T000000.000Z-0000000000000001"

// Aggregate makes the facts of one aggregate, in version order.
type Aggregate struct {
	Order string
	Type  string
	ID    string
	Facts []event.Fact
}

// Add states the next fact. Its event id is unique and the same in every run.
func (a *Aggregate) Add(at time.Time, body facts.Fact) event.Fact {
	v := int64(len(a.Facts)) + 1
	f := event.Fact{Body: body, Envelope: event.Envelope{
		ID: fmt.Sprintf("%s-%s-%d", a.Type, a.ID, v), Source: a.Type, Type: body.FactName(), SchemaVersion: body.AvroSchemaVersion(),
		Aggregate: event.Aggregate{Type: a.Type, ID: a.ID}, Version: v, Epoch: Epoch, Key: a.Order,
		OccurredAt: at.UTC().Truncate(time.Microsecond), RecordedAt: Dawn.Add(time.Duration(v) * time.Second),
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}}
	a.Facts = append(a.Facts, f)
	return f
}

// Draw draws the histories of up to three orders, one slice per aggregate.
func Draw(t *rapid.T) [][]event.Fact {
	var all [][]event.Fact
	for o := range rapid.IntRange(1, 3).Draw(t, "orders") {
		d := drawer{t, fmt.Sprintf("o%d", o), rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "customer")}
		if rapid.IntRange(0, 9).Draw(t, "order known") > 0 {
			all = append(all, d.order())
		}
		for p := range rapid.IntRange(0, 3).Draw(t, "payments") {
			all = append(all, d.payment(fmt.Sprintf("%s-p%d", d.id, p)))
		}
		for s := range rapid.IntRange(0, 3).Draw(t, "shipments") {
			all = append(all, d.shipment(fmt.Sprintf("%s-s%d", d.id, s)))
		}
	}
	return all
}

type drawer struct {
	t        *rapid.T
	id       string
	customer string
}

func (d drawer) chance() bool { return rapid.Bool().Draw(d.t, "chance") }

func (d drawer) pick(of ...string) string { return rapid.SampledFrom(of).Draw(d.t, "pick") }

func (d drawer) at() time.Time {
	return Dawn.Add(time.Duration(rapid.IntRange(-300, 300).Draw(d.t, "hours")) * time.Hour)
}

func (d drawer) maybeAt() *time.Time {
	if !d.chance() {
		return nil
	}
	at := d.at()
	return &at
}

func (d drawer) money() facts.Money {
	return facts.Money{Amount: rapid.Int64Range(0, 10_000).Draw(d.t, "amount"), Currency: d.pick("BRL", "EUR", "JPY")}
}

func (d drawer) maybeText() *string {
	if !d.chance() {
		return nil
	}
	s := d.pick("x", "ümläut", "")
	return &s
}

func (d drawer) address() *facts.Address {
	if !d.chance() {
		return nil
	}
	return &facts.Address{Recipient: d.maybeText(), City: d.maybeText(), Country: d.pick("", "BR")}
}

func (d drawer) order() []event.Fact {
	a := &Aggregate{Order: d.id, Type: "order", ID: d.id}
	placed := &facts.OrderPlaced{
		OrderID: d.id, CustomerID: d.customer, Actor: "customer", Fulfilment: facts.FulfilmentManaged, Channel: d.pick("web", "olist"),
		ShippingFee: d.money(), Total: d.money(), PromisedAt: d.maybeAt(), Address: d.address(),
	}
	if d.chance() {
		placed.Fulfilment = facts.FulfilmentExternal
	}
	if d.chance() {
		placed.Contact = &facts.Contact{Email: d.maybeText()}
	}
	for i := range rapid.IntRange(0, 3).Draw(d.t, "lines") {
		placed.Lines = append(placed.Lines, facts.OrderLine{
			LineID: fmt.Sprint(i), SKU: "sku", Title: d.maybeText(), Quantity: 1, UnitPrice: placed.Total, Warehouse: d.pick("", "w1", "w2"),
		})
	}
	a.Add(d.at(), placed)
	held := false
	for range rapid.IntRange(0, 5).Draw(d.t, "order facts") {
		base := facts.Common{OrderID: d.id, CustomerID: d.customer, Actor: "operator:kim", TimeEstimated: d.chance()}
		switch what := d.pick("amend", "hold", "confirm", "trouble", "settled"); {
		case held:
			held = false
			a.Add(d.at(), &facts.OrderReleased{OrderID: d.id, CustomerID: d.customer, Actor: base.Actor})
		case what == "amend":
			a.Add(d.at(), &facts.OrderAmended{
				OrderID: d.id, CustomerID: d.customer, Actor: base.Actor, Total: d.money(), PromisedAt: d.maybeAt(), Address: d.address(),
				Lines: placed.Lines[:len(placed.Lines)/2],
			})
		case what == "hold":
			held = true
			a.Add(d.at(), &facts.OrderHeld{OrderID: d.id, CustomerID: d.customer, Actor: base.Actor, Reason: d.pick("", "address")})
		case what == "trouble":
			a.Add(d.at(), &facts.OrderNeedsAttention{
				OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", Reason: d.pick("", "STEP_REFUSED"), Step: d.pick("", "capture/1/2"),
			})
		case what == "settled":
			a.Add(d.at(), &facts.OrderAttentionSettled{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment"})
		default:
			a.Add(d.at(), &facts.OrderConfirmed{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", PromisedAt: d.maybeAt()})
		}
	}
	switch d.pick("open", "cancel", "complete") {
	case "cancel":
		a.Add(d.at(), &facts.OrderCancelled{OrderID: d.id, CustomerID: d.customer, Actor: "customer", Reason: facts.CancelReason(d.pick("CUSTOMER", "FRAUD"))})
	case "complete":
		a.Add(d.at(), &facts.OrderCompleted{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", TimeEstimated: true})
	}
	return a.Facts
}

func (d drawer) payment(id string) []event.Fact {
	a := &Aggregate{Order: d.id, Type: "payment", ID: id}
	method := facts.PaymentMethod(d.pick("CARD", "VOUCHER", "BANK_SLIP"))
	asked := d.money()
	in := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: asked.Currency} }
	a.Add(d.at(), &facts.PaymentRequested{
		OrderID: d.id, CustomerID: d.customer, Actor: "customer", PaymentID: id, Fulfilment: facts.FulfilmentManaged, Method: method,
		Amount: asked, Installments: 3, Provider: "simulator",
	})
	switch d.pick("asked", "declined", "voided", "authorized") {
	case "declined":
		a.Add(d.at(), &facts.PaymentDeclined{OrderID: d.id, CustomerID: d.customer, Actor: "provider", PaymentID: id, Method: method, Amount: asked, ReasonCode: "NO_FUNDS", Retryable: d.chance()})
		return a.Facts
	case "voided":
		a.Add(d.at(), &facts.PaymentVoided{OrderID: d.id, CustomerID: d.customer, Actor: "customer", PaymentID: id, Method: method, Amount: asked})
		return a.Facts
	case "asked":
		return a.Facts
	}
	a.Add(d.at(), &facts.PaymentAuthorized{OrderID: d.id, CustomerID: d.customer, Actor: "provider", PaymentID: id, Method: method, Amount: asked, ExpiresAt: d.maybeAt()})
	captured, refunded := int64(0), int64(0)
	for range rapid.IntRange(0, 3).Draw(d.t, "money moves") {
		switch d.pick("capture", "refund", "correct") {
		case "capture":
			captured += asked.Amount / 2
			a.Add(d.at(), &facts.PaymentCaptured{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", PaymentID: id, Method: method,
				Amount: in(asked.Amount / 2), TotalCaptured: in(captured), ShipmentID: d.maybeText()})
		case "refund":
			refunded += (captured - refunded) / 2
			a.Add(d.at(), &facts.PaymentRefunded{OrderID: d.id, CustomerID: d.customer, Actor: "operator:kim", PaymentID: id, Method: method,
				Amount: in(1), TotalRefunded: in(refunded), Reason: d.pick("", "broken")})
		case "correct":
			a.Add(d.at(), &facts.PaymentCorrected{OrderID: d.id, CustomerID: d.customer, Actor: "provider", PaymentID: id, Method: method,
				PreviousCaptured: in(captured), CorrectedCaptured: in(captured + 7), EffectiveAt: d.at()})
			captured += 7
		}
	}
	return a.Facts
}

func (d drawer) shipment(id string) []event.Fact {
	a := &Aggregate{Order: d.id, Type: "shipment", ID: id}
	a.Add(d.at(), &facts.ShipmentPlanned{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", ShipmentID: id,
		Fulfilment: facts.FulfilmentManaged, Warehouse: d.pick("", "w1", "w2"), PromisedAt: d.maybeAt()})
	delayed := func() {
		if d.chance() {
			a.Add(d.at(), &facts.ShipmentDelayed{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id,
				ExpectedAt: d.at(), PreviousExpectedAt: d.maybeAt(), Reason: d.pick("", "snow")})
		}
		if d.chance() {
			a.Add(d.at(), &facts.ShipmentStalled{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id,
				PreviousExpectedAt: d.maybeAt(), Reason: d.pick("", "customs")})
		}
	}
	delayed()
	switch d.pick("planned", "cancelled", "dispatched") {
	case "planned":
		return a.Facts
	case "cancelled":
		a.Add(d.at(), &facts.ShipmentCancelled{OrderID: d.id, CustomerID: d.customer, Actor: "fulfilment", ShipmentID: id})
		return a.Facts
	}
	a.Add(d.at(), &facts.ShipmentDispatched{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id,
		Warehouse: d.pick("", "w2"), Carrier: d.pick("", "DHL"), TrackingNumber: d.pick("", "T1"), ExpectedAt: d.maybeAt()})
	if d.chance() {
		a.Add(d.at(), &facts.ShipmentScanned{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id, Location: d.pick("", "Köln"),
			Facility: d.pick("", "Köln"), Area: d.pick("", "Ehrenfeld"), Country: d.pick("", "DE"), Description: "sorted"})
	}
	delayed()
	end := d.pick("on its way", "delivered", "lost", "found")
	if end == "lost" || end == "found" {
		a.Add(d.at(), &facts.ShipmentLost{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id, Reason: d.pick("", "fire")})
	}
	if end == "delivered" || end == "found" {
		a.Add(d.at(), &facts.ShipmentDelivered{OrderID: d.id, CustomerID: d.customer, Actor: "carrier", ShipmentID: id, Location: d.pick("", "Rio"), SignedByRole: d.maybeText()})
		if d.chance() {
			a.Add(d.at(), &facts.ShipmentReturned{OrderID: d.id, CustomerID: d.customer, Actor: "customer", ShipmentID: id})
		}
	}
	return a.Facts
}
