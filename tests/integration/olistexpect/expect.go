// Package olistexpect says what a fleet must show after an import of the Olist
// files, worked out from the files alone. It shares no code with the importer,
// and is written the other way round: from the rows to the facts that the
// timeline must show, with no thought of commands.
package olistexpect

import (
	"encoding/csv"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Fact is one entry that the timeline of an order must show.
type Fact struct {
	At        string // 2018-02-03 20:37:35, UTC
	Name      string
	Aggregate string
	Cents     int64 // money the fact is about, 0 for none
	Estimated bool
}

// Order is what must be known of one order.
type Order struct {
	Customer string
	Status   string // of timeline.v1.OrderStatus, without the prefix
	Reason   string // of cancellation
	Facts    []Fact // by time
	// Requested and Captured are cents by payment method.
	Requested, Captured map[string]int64
}

// Expectation is what must be known of all orders.
type Expectation struct {
	Orders              map[string]*Order
	States              map[string]int64
	Requested, Captured map[string]int64
	Payments            map[string]int64
}

var methodOf = map[string]string{"credit_card": "CARD", "debit_card": "DEBIT_CARD", "voucher": "VOUCHER", "boleto": "BANK_SLIP"}

var endOf = map[string]struct{ status, reason string }{
	"created": {"PLACED", ""}, "approved": {"CONFIRMED", ""}, "processing": {"CONFIRMED", ""}, "invoiced": {"CONFIRMED", ""},
	"shipped": {"SHIPPED", ""}, "delivered": {"DELIVERED", ""},
	"canceled": {"CANCELLED", "CUSTOMER"}, "unavailable": {"CANCELLED", "UNAVAILABLE"},
}

// Read works out the expectation. The files must be sound: it is for the
// sample, of which every row is.
func Read(dir string) (*Expectation, error) {
	customers, err := records(dir, "olist_customers_dataset.csv")
	if err != nil {
		return nil, err
	}
	person := map[string]string{}
	for _, c := range customers {
		person[c["customer_id"]] = c["customer_unique_id"]
	}
	items, err := records(dir, "olist_order_items_dataset.csv")
	if err != nil {
		return nil, err
	}
	sellers, fees := map[string][]string{}, map[string]int64{}
	for _, i := range items {
		id := i["order_id"]
		if !slices.Contains(sellers[id], i["seller_id"]) {
			sellers[id] = append(sellers[id], i["seller_id"])
		}
		for _, column := range []string{"price", "freight_value"} {
			cents, err := centsOf(i[column])
			if err != nil {
				return nil, err
			}
			fees[id] += cents
		}
	}
	payments, err := records(dir, "olist_order_payments_dataset.csv")
	if err != nil {
		return nil, err
	}
	paid := map[string][]map[string]string{}
	for _, p := range payments {
		paid[p["order_id"]] = append(paid[p["order_id"]], p)
	}
	orders, err := records(dir, "olist_orders_dataset.csv")
	if err != nil {
		return nil, err
	}
	e := &Expectation{
		Orders: map[string]*Order{}, States: map[string]int64{},
		Requested: map[string]int64{}, Captured: map[string]int64{}, Payments: map[string]int64{},
	}
	for _, row := range orders {
		id := row["order_id"]
		o, err := expect(row, person[row["customer_id"]], len(sellers[id]), fees[id], paid[id])
		if err != nil {
			return nil, fmt.Errorf("order %s: %w", id, err)
		}
		e.Orders[id] = o
		e.States[o.Status]++
		for method, cents := range o.Requested {
			e.Requested[method] += cents
		}
		for method, cents := range o.Captured {
			e.Captured[method] += cents
		}
		for _, p := range paid[id] {
			e.Payments[methodOf[p["payment_type"]]]++
		}
	}
	return e, nil
}

// expect works out one order. Dates compare as text: year first, fixed width.
func expect(row map[string]string, customer string, sellers int, total int64, payments []map[string]string) (*Order, error) {
	end, ok := endOf[row["order_status"]]
	if !ok || customer == "" {
		return nil, fmt.Errorf("status %q, customer %q", row["order_status"], customer)
	}
	o := &Order{Customer: customer, Status: end.status, Reason: end.reason, Requested: map[string]int64{}, Captured: map[string]int64{}}
	id := row["order_id"]
	purchase, approved := row["order_purchase_timestamp"], row["order_approved_at"]
	carrier, delivered := row["order_delivered_carrier_date"], row["order_delivered_customer_date"]
	last := max(purchase, approved, carrier, delivered)
	known := func(date string) (string, bool) {
		if date == "" {
			return last, true
		}
		return date, false
	}
	add := func(name, aggregate, at string, cents int64, estimated bool) {
		o.Facts = append(o.Facts, Fact{At: at, Name: name, Aggregate: aggregate, Cents: cents, Estimated: estimated})
	}
	cancelled := end.status == "CANCELLED"
	onTheWay := end.status == "SHIPPED" || end.status == "DELIVERED"
	accepted := onTheWay || end.status == "CONFIRMED" || cancelled && approved != ""

	add("OrderPlaced", id, purchase, total, false)
	if accepted {
		at, estimated := known(approved)
		add("OrderConfirmed", id, at, 0, estimated)
	}
	if cancelled {
		add("OrderCancelled", id, last, 0, true)
	}
	for _, p := range payments {
		cents, err := centsOf(p["payment_value"])
		if err != nil {
			return nil, err
		}
		method, ok := methodOf[p["payment_type"]]
		if !ok {
			return nil, fmt.Errorf("payment type %q", p["payment_type"])
		}
		payment := id + "-p" + p["payment_sequential"]
		o.Requested[method] += cents
		if !accepted && approved == "" {
			add("PaymentRequested", payment, purchase, cents, false)
			continue
		}
		at, estimated := known(approved)
		add("PaymentRequested", payment, purchase, cents, estimated)
		add("PaymentAuthorized", payment, at, cents, estimated)
		if cents > 0 {
			o.Captured[method] += cents
			add("PaymentCaptured", payment, at, cents, estimated)
		}
	}
	if onTheWay || cancelled && carrier+delivered != "" {
		for n := range max(1, sellers) {
			shipment := fmt.Sprintf("%s-s%d", id, n+1)
			handed, handedEstimated := known(carrier)
			confirmed, _ := known(approved)
			add("ShipmentPlanned", shipment, min(confirmed, handed), 0, true)
			add("ShipmentDispatched", shipment, handed, 0, handedEstimated)
			if end.status == "DELIVERED" || cancelled && delivered != "" {
				at, estimated := known(delivered)
				add("ShipmentDelivered", shipment, at, 0, estimated)
			}
		}
	}
	slices.SortFunc(o.Facts, compareFacts)
	return o, nil
}

func compareFacts(a, b Fact) int {
	return strings.Compare(a.At+" "+a.Aggregate+" "+a.Name, b.At+" "+b.Aggregate+" "+b.Name)
}

func centsOf(text string) (int64, error) {
	value, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, fmt.Errorf("amount %q", text)
	}
	value.Mul(value, big.NewRat(100, 1))
	if !value.IsInt() || !value.Num().IsInt64() {
		return 0, fmt.Errorf("amount %q is no number of cents", text)
	}
	return value.Num().Int64(), nil
}

func records(dir, name string) ([]map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	reader := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(raw), "\ufeff")))
	head, err := reader.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var list []map[string]string
	for {
		fields, err := reader.Read()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		record := make(map[string]string, len(head))
		for i, column := range head {
			record[column] = fields[i]
		}
		list = append(list, record)
	}
}

func instant(t time.Time) string { return t.UTC().Format(time.DateTime) }
