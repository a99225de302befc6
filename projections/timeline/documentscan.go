package timeline

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tidemark-dev/tidemark/platform/jsonscan"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// openDocument decodes a stored document. Every answer about an order does, so
// it goes without reflection wherever the text is one that this version writes.
func openDocument(text string) (*Document, error) {
	if d, ok := scanDocument(text); ok {
		return d, nil
	}
	d := &Document{}
	if err := json.Unmarshal([]byte(text), d); err != nil {
		return nil, fmt.Errorf("read the document of an order: %w", err)
	}
	return d, nil
}

func scanDocument(text string) (*Document, bool) {
	d, s := &Document{}, documentScan{jsonscan.New(text)}
	s.Object(func(name string) {
		switch name {
		case "order_id":
			d.OrderID = s.Text()
		case "customer_id":
			d.CustomerID = s.Text()
		case "status":
			d.Status = s.Text()
		case "headline":
			d.Headline = s.Text()
		case "on_hold":
			d.OnHold = s.Bool()
		case "cancel_reason":
			d.CancelReason = s.Text()
		case "channel":
			d.Channel = s.Text()
		case "total":
			d.Total = s.money()
		case "placed_at":
			d.PlacedAt = s.at()
		case "promised_at":
			d.PromisedAt = s.at()
		case "expected_at":
			d.ExpectedAt = s.at()
		case "delivered_at":
			d.DeliveredAt = s.at()
		case "last_event_at":
			d.LastEventAt = s.Time()
		case "payments":
			s.Array(func() { d.Payments = append(d.Payments, s.payment()) })
		case "shipments":
			s.Array(func() { d.Shipments = append(d.Shipments, s.shipment()) })
		case "contact":
			d.Contact = s.contact()
		case "address":
			d.Address = s.address()
		default:
			s.Fail()
		}
	})
	return d, s.Done()
}

type documentScan struct{ *jsonscan.Scanner }

func (s documentScan) at() *time.Time {
	t := s.Time()
	return &t
}

func (s documentScan) money() *facts.Money {
	m := &facts.Money{}
	s.Object(func(name string) {
		switch name {
		case "Amount":
			m.Amount = s.Int()
		case "Currency":
			m.Currency = s.Text()
		default:
			s.Fail()
		}
	})
	return m
}

func (s documentScan) payment() (p PaymentDocument) {
	s.Object(func(name string) {
		switch name {
		case "id":
			p.ID = s.Text()
		case "method":
			p.Method = s.Text()
		case "state":
			p.State = s.Text()
		case "currency":
			p.Currency = s.Text()
		case "requested":
			p.Requested = s.Int()
		case "authorized":
			p.Authorized = s.Int()
		case "captured":
			p.Captured = s.Int()
		case "refunded":
			p.Refunded = s.Int()
		default:
			s.Fail()
		}
	})
	return p
}

func (s documentScan) shipment() (p ShipmentDocument) {
	s.Object(func(name string) {
		switch name {
		case "id":
			p.ID = s.Text()
		case "state":
			p.State = s.Text()
		case "warehouse":
			p.Warehouse = s.Text()
		case "carrier":
			p.Carrier = s.Text()
		case "tracking":
			p.Tracking = s.Text()
		case "location":
			p.Location = s.Text()
		case "promised_at":
			p.PromisedAt = s.at()
		case "expected_at":
			p.ExpectedAt = s.at()
		case "dispatched_at":
			p.DispatchedAt = s.at()
		case "delivered_at":
			p.DeliveredAt = s.at()
		case "delayed":
			p.Delayed = s.Bool()
		case "stalled":
			p.Stalled = s.Bool()
		default:
			s.Fail()
		}
	})
	return p
}

func (s documentScan) contact() *facts.Contact {
	c := &facts.Contact{}
	s.Object(func(name string) {
		switch name {
		case "Name":
			c.Name = s.OptionalText()
		case "Email":
			c.Email = s.OptionalText()
		case "Phone":
			c.Phone = s.OptionalText()
		default:
			s.Fail()
		}
	})
	return c
}

func (s documentScan) address() *facts.Address {
	a := &facts.Address{}
	s.Object(func(name string) {
		switch name {
		case "Recipient":
			a.Recipient = s.OptionalText()
		case "Line1":
			a.Line1 = s.OptionalText()
		case "Line2":
			a.Line2 = s.OptionalText()
		case "PostalCode":
			a.PostalCode = s.OptionalText()
		case "City":
			a.City = s.OptionalText()
		case "Region":
			a.Region = s.OptionalText()
		case "Country":
			a.Country = s.Text()
		default:
			s.Fail()
		}
	})
	return a
}
