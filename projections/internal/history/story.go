package history

import (
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Story is one order with two payments and a delayed parcel.
type Story struct {
	Order, Card, Voucher, Parcel Aggregate
}

// NewStory tells it of an order of the customer "ana".
func NewStory(id string) *Story {
	s := &Story{
		Order:   Aggregate{Order: id, Type: "order", ID: id},
		Card:    Aggregate{Order: id, Type: "payment", ID: id + "-card"},
		Voucher: Aggregate{Order: id, Type: "payment", ID: id + "-voucher"},
		Parcel:  Aggregate{Order: id, Type: "shipment", ID: id + "-parcel"},
	}
	brl := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "BRL"} }
	hour := func(n int) time.Time { return Dawn.Add(time.Duration(n) * time.Hour) }
	promised, expected, name, line := hour(100), hour(90), "Ana", "Rua 1"
	s.Order.Add(hour(0), &facts.OrderPlaced{OrderID: id, CustomerID: "ana", Actor: "customer", Fulfilment: facts.FulfilmentManaged, Channel: "web",
		Lines: []facts.OrderLine{{LineID: "1", SKU: "a", Quantity: 1, UnitPrice: brl(1500)}}, ShippingFee: brl(0), Total: brl(1500),
		Contact: &facts.Contact{Name: &name}, Address: &facts.Address{Line1: &line, Country: "BR"}, PromisedAt: &promised})
	s.Card.Add(hour(1), &facts.PaymentRequested{OrderID: id, CustomerID: "ana", Actor: "fulfilment", PaymentID: id + "-card", Fulfilment: facts.FulfilmentManaged,
		Method: facts.PaymentMethodCard, Amount: brl(1000), Installments: 1, Provider: "simulator"})
	s.Card.Add(hour(2), &facts.PaymentAuthorized{OrderID: id, CustomerID: "ana", Actor: "provider", PaymentID: id + "-card", Method: facts.PaymentMethodCard,
		Amount: brl(1000), ProviderReference: "r"})
	s.Voucher.Add(hour(1), &facts.PaymentRequested{OrderID: id, CustomerID: "ana", Actor: "fulfilment", PaymentID: id + "-voucher", Fulfilment: facts.FulfilmentManaged,
		Method: facts.PaymentMethodVoucher, Amount: brl(500), Installments: 1, Provider: "simulator"})
	s.Order.Add(hour(3), &facts.OrderConfirmed{OrderID: id, CustomerID: "ana", Actor: "fulfilment"})
	s.Parcel.Add(hour(3), &facts.ShipmentPlanned{OrderID: id, CustomerID: "ana", Actor: "fulfilment", ShipmentID: id + "-parcel", Fulfilment: facts.FulfilmentManaged, Warehouse: "w1"})
	s.Parcel.Add(hour(5), &facts.ShipmentDispatched{OrderID: id, CustomerID: "ana", Actor: "carrier", ShipmentID: id + "-parcel", Warehouse: "w1", Carrier: "Correios",
		TrackingNumber: "BR1", ExpectedAt: &expected})
	s.Card.Add(hour(5), &facts.PaymentCaptured{OrderID: id, CustomerID: "ana", Actor: "fulfilment", PaymentID: id + "-card", Method: facts.PaymentMethodCard,
		Amount: brl(1000), TotalCaptured: brl(1000)})
	s.Parcel.Add(hour(6), &facts.ShipmentDelayed{OrderID: id, CustomerID: "ana", Actor: "carrier", ShipmentID: id + "-parcel", ExpectedAt: hour(140), Reason: "flood"})
	return s
}

// All are its facts, aggregate by aggregate.
func (s *Story) All() []event.Fact {
	var all []event.Fact
	for _, a := range []Aggregate{s.Order, s.Card, s.Voucher, s.Parcel} {
		all = append(all, a.Facts...)
	}
	return all
}

// Last are the newest facts of all aggregates: what a caller waits for.
func (s *Story) Last() []event.Fact {
	var last []event.Fact
	for _, a := range []Aggregate{s.Order, s.Card, s.Voucher, s.Parcel} {
		last = append(last, a.Facts[len(a.Facts)-1])
	}
	return last
}
