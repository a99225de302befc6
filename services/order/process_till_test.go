package order

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// till stands for the payment and the shipment service of one order: each
// request id takes effect once, and what it does is stated as facts.
type till struct {
	*testing.T
	codec *avro.Codec

	mu                       sync.Mutex
	known                    map[string]bool // request ids, and whether they took effect
	effects                  []string
	held, captured, refunded int64
	parcels                  map[string]string // states
	versions                 map[string]int64
	stated                   []consumer.Record
}

func newTill(codec *avro.Codec, t *testing.T) *till {
	return &till{T: t, codec: codec, known: map[string]bool{}, parcels: map[string]string{}, versions: map[string]int64{}}
}

// record is a fact as a relay sends it.
func record(t testing.TB, codec *avro.Codec, topic string, e event.Envelope, bare []byte) consumer.Record {
	t.Helper()
	id, ok := codec.ID(e.Type, e.SchemaVersion)
	if !ok {
		t.Fatalf("no id of %s/%d", e.Type, e.SchemaVersion)
	}
	return consumer.Record{Topic: topic, Key: []byte(e.Key), Value: avro.Frame(id, bare), Headers: e.Headers()}
}

func (w *till) state(source, topic, order, id string, body event.Body) {
	name, schema, bare, err := w.codec.Encode(body)
	if err != nil {
		w.Error(name, err)
		return
	}
	aggregate := event.Aggregate{Type: source, ID: id}
	w.versions[id]++
	now := time.Now().UTC()
	w.stated = append(w.stated, record(w, w.codec, topic, event.Envelope{
		ID: fmt.Sprintf("%s-%d", id, w.versions[id]), Source: source, Type: name, SchemaVersion: schema, Key: order,
		Aggregate: aggregate, Version: w.versions[id], Epoch: "e1", OccurredAt: now, RecordedAt: now,
	}, bare))
}

func (w *till) pay(order, id string, body event.Body) {
	w.state("payment", kafka.TopicPayment, order, id, body)
}
func (w *till) ship(order, id string, body event.Body) {
	w.state("shipment", kafka.TopicShipment, order, id, body)
}

// take executes a request, once.
func (w *till) take(order string, request proto.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch effective, known := w.known[requestID(request)]; {
	case effective:
		return nil
	case known:
		return status.Error(codes.FailedPrecondition, "it was resolved as refused")
	}
	shipment := ""
	switch r := request.(type) {
	case *paymentv1.AuthorizePaymentRequest:
		id, amount := r.GetPaymentId(), r.GetAmount().GetAmount()
		w.held += amount
		w.effects = append(w.effects, "AuthorizePayment")
		w.pay(order, id, &facts.PaymentRequested{OrderID: order, CustomerID: "c-1", Actor: "t", PaymentID: id, Fulfilment: facts.FulfilmentManaged,
			Method: facts.PaymentMethodCard, Amount: eurF(amount), Installments: 1, Provider: "p"})
		w.pay(order, id, &facts.PaymentAuthorized{OrderID: order, CustomerID: "c-1", Actor: "t", PaymentID: id, Method: facts.PaymentMethodCard, Amount: eurF(amount)})
	case *paymentv1.CapturePaymentRequest:
		amount := r.GetAmount().GetAmount()
		if amount > w.held {
			return status.Error(codes.FailedPrecondition, "more than is held")
		}
		w.held, w.captured, shipment = w.held-amount, w.captured+amount, r.GetShipmentId()
		w.effects = append(w.effects, "CapturePayment")
		w.pay(order, r.GetPaymentId(), &facts.PaymentCaptured{OrderID: order, CustomerID: "c-1", Actor: "t", PaymentID: r.GetPaymentId(), Method: facts.PaymentMethodCard,
			Amount: eurF(amount), TotalCaptured: eurF(w.captured), ShipmentID: &shipment})
	case *paymentv1.RefundPaymentRequest:
		w.refunded += r.GetAmount().GetAmount()
		w.effects = append(w.effects, "RefundPayment")
		w.pay(order, r.GetPaymentId(), &facts.PaymentRefunded{OrderID: order, CustomerID: "c-1", Actor: "t", PaymentID: r.GetPaymentId(), Method: facts.PaymentMethodCard,
			Amount: eurF(r.GetAmount().GetAmount()), TotalRefunded: eurF(w.refunded)})
	case *shipmentv1.PlanShipmentRequest:
		id := r.GetShipmentId()
		var lines []facts.ShipmentLine
		for _, l := range r.GetLines() {
			lines = append(lines, facts.ShipmentLine{LineID: l.GetLineId(), SKU: l.GetSku(), Quantity: l.GetQuantity()})
		}
		w.parcels[id] = planned
		w.effects = append(w.effects, "PlanShipment")
		w.ship(order, id, &facts.ShipmentPlanned{OrderID: order, CustomerID: "c-1", Actor: "t", ShipmentID: id, Fulfilment: facts.FulfilmentManaged,
			Warehouse: r.GetWarehouse(), Lines: lines})
	default:
		return status.Errorf(codes.FailedPrecondition, "nobody expected a %T", request)
	}
	w.known[requestID(request)] = true
	return nil
}

// resolve makes the outcome of a request definite.
func (w *till) resolve(requestID string) (effective bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	effective, asked := w.known[requestID]
	if !asked {
		w.known[requestID] = false // and is refused from now on
	}
	return effective
}

// moveParcels dispatches what is planned, and delivers what was paid for if it
// is to arrive. It reports whether money was collected.
func (w *till) moveParcels(order string, arrive bool) (collected bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, state := range w.parcels {
		switch {
		case state == planned:
			w.parcels[id] = gone
			w.ship(order, id, &facts.ShipmentDispatched{OrderID: order, CustomerID: "c-1", Actor: "t", ShipmentID: id})
		case state == gone && arrive && w.captured > 0:
			w.parcels[id] = delivered
			w.ship(order, id, &facts.ShipmentDelivered{OrderID: order, CustomerID: "c-1", Actor: "t", ShipmentID: id})
		}
	}
	return w.captured > 0
}

// said returns what was stated since the n-th fact.
func (w *till) said(n int) []consumer.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stated[n:]
}

// collect brings what was committed into the log, as relays do: the order's
// facts from its journal, the others' from the till.
func (l *life) collect() {
	l.Helper()
	log := func(r consumer.Record) {
		r.Partition = l.number
		for _, other := range l.records {
			if other.Topic == r.Topic {
				r.Offset = other.Offset + 1
			}
		}
		l.records = append(l.records, r)
	}
	rows, err := l.pool.Query(l.Context(), `SELECT sequence, event_id::text, name, schema_version, aggregate_id, version, epoch, occurred_at, recorded_at, payload
		FROM journal WHERE key = $1 AND sequence > $2 ORDER BY sequence`, l.id, l.taken)
	if err != nil {
		l.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		e := event.Envelope{Source: source, Key: l.id}
		var bare []byte
		if err := rows.Scan(&l.taken, &e.ID, &e.Type, &e.SchemaVersion, &e.Aggregate.ID, &e.Version, &e.Epoch, &e.OccurredAt, &e.RecordedAt, &bare); err != nil {
			l.Fatal(err)
		}
		e.Aggregate.Type = aggregateType
		log(record(l, l.codec, kafka.TopicOrder, e, bare))
	}
	if err := rows.Err(); err != nil {
		l.Fatal(err)
	}
	said := l.till.said(l.fromTill)
	l.fromTill += len(said)
	for _, r := range said {
		log(r)
	}
}
