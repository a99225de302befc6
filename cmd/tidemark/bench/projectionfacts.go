package bench

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const (
	copyPartitions = 4
	copyEpoch      = "20260301T000000.000Z-0000000000000001"
	copyCustomers  = 5000
)

var copyDawn = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// journey is all that happens to one order that goes well: eleven facts of
// three aggregates, as the services state them.
func journey(n int) []event.Fact {
	order, customer := journeyOrder(n), fmt.Sprintf("customer-%05d", n%copyCustomers)
	payment, parcel := order+"-payment", order+"-parcel"
	eur := func(cents int64) facts.Money { return facts.Money{Amount: cents, Currency: "EUR"} }
	text := func(s string) *string { return &s }
	at := copyDawn.Add(time.Duration(n) * time.Second)
	promised := at.Add(96 * time.Hour)
	versions := map[string]int64{}
	var all []event.Fact
	add := func(typ, id string, body facts.Fact) {
		versions[typ]++
		at = at.Add(17 * time.Minute)
		all = append(all, event.Fact{Body: body, Envelope: event.Envelope{
			ID: uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%s %d", id, versions[typ])).String(), Source: typ, Type: body.FactName(),
			SchemaVersion: body.AvroSchemaVersion(), Aggregate: event.Aggregate{Type: typ, ID: id}, Version: versions[typ], Epoch: copyEpoch, Key: order,
			OccurredAt: at, RecordedAt: at.Add(time.Millisecond), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}})
	}
	add("order", order, &facts.OrderPlaced{OrderID: order, CustomerID: customer, Actor: "customer", Fulfilment: facts.FulfilmentManaged, Channel: "web",
		ShippingFee: eur(490), Total: eur(4540), PromisedAt: &promised, Lines: []facts.OrderLine{
			{LineID: "1", SKU: "teapot", Title: text("Teapot, 1 l"), Quantity: 1, UnitPrice: eur(2490), Warehouse: "north"},
			{LineID: "2", SKU: "cup", Title: text("Cup"), Quantity: 4, UnitPrice: eur(390), Warehouse: "north"}},
		Contact: &facts.Contact{Name: text("A. Customer"), Email: text("a@example.org")},
		Address: &facts.Address{Recipient: text("A. Customer"), Line1: text("1 Long Street"), City: text("Springfield"), Country: "DE"}})
	add("payment", payment, &facts.PaymentRequested{OrderID: order, CustomerID: customer, Actor: "fulfilment", PaymentID: payment,
		Fulfilment: facts.FulfilmentManaged, Method: facts.PaymentMethodCard, Amount: eur(4540), Installments: 1, Provider: "simulator"})
	add("payment", payment, &facts.PaymentAuthorized{OrderID: order, CustomerID: customer, Actor: "provider", PaymentID: payment,
		Method: facts.PaymentMethodCard, Amount: eur(4540), ProviderReference: "r-" + payment})
	add("order", order, &facts.OrderConfirmed{OrderID: order, CustomerID: customer, Actor: "fulfilment"})
	add("shipment", parcel, &facts.ShipmentPlanned{OrderID: order, CustomerID: customer, Actor: "fulfilment", ShipmentID: parcel,
		Fulfilment: facts.FulfilmentManaged, Warehouse: "north", PromisedAt: &promised})
	add("shipment", parcel, &facts.ShipmentDispatched{OrderID: order, CustomerID: customer, Actor: "carrier", ShipmentID: parcel,
		Warehouse: "north", Carrier: "DHL", TrackingNumber: "T" + order, ExpectedAt: &promised})
	add("payment", payment, &facts.PaymentCaptured{OrderID: order, CustomerID: customer, Actor: "fulfilment", PaymentID: payment,
		Method: facts.PaymentMethodCard, Amount: eur(4540), TotalCaptured: eur(4540)})
	for _, place := range []string{"Leipzig", "Berlin"} {
		add("shipment", parcel, &facts.ShipmentScanned{OrderID: order, CustomerID: customer, Actor: "carrier", ShipmentID: parcel,
			Location: place, Facility: place, Country: "DE", Description: "sorted"})
	}
	add("shipment", parcel, &facts.ShipmentDelivered{OrderID: order, CustomerID: customer, Actor: "carrier", ShipmentID: parcel, Location: "Berlin"})
	add("order", order, &facts.OrderCompleted{OrderID: order, CustomerID: customer, Actor: "fulfilment"})
	return all
}

func journeyOrder(n int) string { return fmt.Sprintf("order-%08d", n) }

// journeyFacts is how many facts a journey has.
const journeyFacts = 11

// overlapping is at least n facts of journeys that overlap: of every partition, so
// many orders are under way at once, each of which takes a step in turn.
func overlapping(n, open int) [][]event.Fact {
	perPartition := make([][][]event.Fact, copyPartitions)
	for i := range (n + journeyFacts - 1) / journeyFacts {
		one := journey(i)
		p := event.PartitionOf(one[0].Key, copyPartitions)
		perPartition[p] = append(perPartition[p], one)
	}
	streams := make([][]event.Fact, copyPartitions)
	for p, waiting := range perPartition {
		under := min(open, len(waiting))
		active := waiting[:under:under]
		waiting = waiting[under:]
		for at := 0; len(active) > 0; {
			at %= len(active)
			streams[p] = append(streams[p], active[at][0])
			if active[at] = active[at][1:]; len(active[at]) == 0 {
				if len(waiting) > 0 {
					active[at], waiting = waiting[0], waiting[1:]
				} else {
					active = append(active[:at], active[at+1:]...)
					continue
				}
			}
			at++
		}
	}
	return streams
}

// recordsOf are facts as a consumer hands them over.
func recordsOf(codec *avro.Codec, streams [][]event.Fact) ([][]consumer.Record, error) {
	all := make([][]consumer.Record, len(streams))
	for p, stream := range streams {
		next := map[string]int64{}
		for _, f := range stream {
			name, version, bare, err := codec.Encode(f.Body)
			if err != nil {
				return nil, err
			}
			id, _ := codec.ID(name, version)
			topic := kafka.EventsTopic(f.Source)
			all[p] = append(all[p], consumer.Record{
				Topic: topic, Partition: int32(p), Offset: next[topic], Key: []byte(f.Key), Value: avro.Frame(id, bare), Headers: f.Headers(),
			})
			next[topic]++
		}
	}
	return all, nil
}
