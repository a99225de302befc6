// Package olist brings the public "Brazilian E-Commerce Public Dataset by
// Olist" into a fleet: it reads the CSV files strictly, maps each order to
// commands (docs/adr/0003-olist-mapping.md), sends them through the public APIs
// so that a second run changes nothing, and compares the read models with the
// files afterwards.
package olist

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/money"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// The files that are read, by the names of the dataset.
const (
	OrdersFile    = "olist_orders_dataset.csv"
	CustomersFile = "olist_customers_dataset.csv"
	ItemsFile     = "olist_order_items_dataset.csv"
	PaymentsFile  = "olist_order_payments_dataset.csv"
)

const (
	// Currency of the dataset.
	Currency = "BRL"
	// maxAmount is the largest plausible amount of one row, in cents.
	maxAmount = 1_000_000_000
	maxItems  = 200 // of one order, the bound of the order contract
	maxID     = 56  // leaves room for the suffixes of payment and shipment ids
	csvTime   = "2006-01-02 15:04:05"
)

var idForm = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// Order is one order of the dataset with all that refers to it.
type Order struct {
	ID       string
	Customer Customer
	// End is where the order stood when the dataset was taken.
	End          timelinev1.OrderStatus
	CancelReason orderv1.CancelReason
	Purchased    time.Time
	// The other dates are zero where the file has none.
	Approved, Carried, Delivered, Promised time.Time
	Items                                  []Item
	Payments                               []Payment
}

// Last returns the latest thing that the order's row says happened.
func (o *Order) Last() time.Time {
	last := o.Purchased
	for _, t := range []time.Time{o.Approved, o.Carried, o.Delivered} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// Customer is the person behind an order.
type Customer struct{ ID, PostalCode, City, State string }

// Item is one piece of an order.
type Item struct {
	Number          int
	Product, Seller string
	Price, Freight  int64 // cents
}

// Payment is one payment of an order.
type Payment struct {
	Sequence     int
	Type         string // the dataset's word
	Method       commercev1.PaymentMethod
	Installments int32
	Amount       int64 // cents
}

// methods maps the dataset's payment types.
var methods = map[string]commercev1.PaymentMethod{
	"credit_card": commercev1.PaymentMethod_PAYMENT_METHOD_CARD,
	"debit_card":  commercev1.PaymentMethod_PAYMENT_METHOD_DEBIT_CARD,
	"voucher":     commercev1.PaymentMethod_PAYMENT_METHOD_VOUCHER,
	"boleto":      commercev1.PaymentMethod_PAYMENT_METHOD_BANK_SLIP,
}

// Source is the dataset in memory.
type Source struct {
	Dir string
	// Orders by purchase time, then id.
	Orders []*Order
	// Refused rows in the order of the files.
	Refused []Refusal
	// NotTaken are dates of accepted rows that contradict the end state.
	NotTaken []Refusal
	// Rows counts the data rows of each file.
	Rows map[string]int
}

// Load reads the dataset. Rows that do not parse or refer to nothing are
// refused by name; an error means that a file as a whole cannot be used.
func Load(dir string) (*Source, error) {
	l := &loader{
		source: &Source{Dir: dir, Rows: map[string]int{}}, customers: map[string]Customer{},
		orders: map[string]*Order{}, refusedOrders: map[string]bool{},
	}
	for _, f := range []struct {
		name    string
		columns []string
		take    func(row) error
	}{
		{CustomersFile, []string{"customer_id", "customer_unique_id", "customer_zip_code_prefix", "customer_city", "customer_state"}, l.customer},
		{OrdersFile, []string{
			"order_id", "customer_id", "order_status", "order_purchase_timestamp", "order_approved_at",
			"order_delivered_carrier_date", "order_delivered_customer_date", "order_estimated_delivery_date",
		}, l.order},
		{ItemsFile, []string{"order_id", "order_item_id", "product_id", "seller_id", "price", "freight_value"}, l.item},
		{PaymentsFile, []string{"order_id", "payment_sequential", "payment_type", "payment_installments", "payment_value"}, l.payment},
	} {
		rows, err := eachRow(filepath.Join(dir, f.name), f.name, f.columns, f.take, func(r Refusal) {
			l.source.Refused = append(l.source.Refused, r)
		})
		if err != nil {
			return nil, err
		}
		l.source.Rows[f.name] = rows
	}
	for _, o := range l.source.Orders {
		slices.SortFunc(o.Items, func(a, b Item) int { return cmp.Compare(a.Number, b.Number) })
		slices.SortFunc(o.Payments, func(a, b Payment) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	slices.SortFunc(l.source.Orders, func(a, b *Order) int {
		return cmp.Or(a.Purchased.Compare(b.Purchased), cmp.Compare(a.ID, b.ID))
	})
	return l.source, nil
}

type loader struct {
	source        *Source
	customers     map[string]Customer // by the id that is one per order
	orders        map[string]*Order
	refusedOrders map[string]bool
}

func (l *loader) customer(r row) error {
	id := r.get("customer_id")
	c := Customer{ID: r.get("customer_unique_id"), PostalCode: r.get("customer_zip_code_prefix"), City: r.get("customer_city"), State: r.get("customer_state")}
	if err := checkIDs(id, "customer_id", c.ID, "customer_unique_id"); err != nil {
		return err
	}
	for _, f := range []struct {
		column, text string
		max          int
	}{
		{"customer_zip_code_prefix", c.PostalCode, 20}, {"customer_city", c.City, 100}, {"customer_state", c.State, 100},
	} {
		if utf8.RuneCountInString(f.text) > f.max {
			return refuse("field too long", "%s has more than %d characters", f.column, f.max)
		}
		for _, r := range f.text {
			if unicode.IsControl(r) {
				return refuse("malformed row", "%s holds the control character %U", f.column, r)
			}
		}
	}
	if _, twice := l.customers[id]; twice {
		return refuse("duplicate", "customer_id %s was named before", id)
	}
	l.customers[id] = c
	return nil
}

func (l *loader) order(r row) (err error) {
	o := &Order{ID: r.get("order_id")}
	if err := checkIDs(o.ID, "order_id"); err != nil {
		return err
	}
	if l.orders[o.ID] != nil {
		return refuse("duplicate", "order_id %s was named before", o.ID)
	}
	defer func() {
		if err != nil {
			l.refusedOrders[o.ID] = true
		}
	}()
	var known bool
	if o.Customer, known = l.customers[r.get("customer_id")]; !known {
		return refuse("refers to nothing", "customer_id %q is in no accepted row of %s", clip(r.get("customer_id")), CustomersFile)
	}
	if o.End, o.CancelReason, known = endState(r.get("order_status")); !known {
		return refuse("unknown status", "%q", clip(r.get("order_status")))
	}
	for _, d := range []struct {
		column   string
		to       *time.Time
		required bool
	}{
		{"order_purchase_timestamp", &o.Purchased, true},
		{"order_approved_at", &o.Approved, false},
		{"order_delivered_carrier_date", &o.Carried, false},
		{"order_delivered_customer_date", &o.Delivered, false},
		{"order_estimated_delivery_date", &o.Promised, false},
	} {
		if *d.to, err = parseTime(d.column, r.get(d.column), d.required); err != nil {
			return err
		}
	}
	for _, date := range o.contradictions() {
		l.source.NotTaken = append(l.source.NotTaken, Refusal{
			File: OrdersFile, Line: r.line, Reason: "date contradicts end state", Detail: date + " of order " + o.ID,
		})
	}
	l.orders[o.ID] = o
	l.source.Orders = append(l.source.Orders, o)
	return nil
}

// endState maps the dataset's status word, which goes no further than here.
func endState(word string) (timelinev1.OrderStatus, orderv1.CancelReason, bool) {
	const notCancelled = orderv1.CancelReason_CANCEL_REASON_UNSPECIFIED
	switch word {
	case "created":
		return timelinev1.OrderStatus_ORDER_STATUS_PLACED, notCancelled, true
	case "approved", "processing", "invoiced":
		return timelinev1.OrderStatus_ORDER_STATUS_CONFIRMED, notCancelled, true
	case "shipped":
		return timelinev1.OrderStatus_ORDER_STATUS_SHIPPED, notCancelled, true
	case "delivered":
		return timelinev1.OrderStatus_ORDER_STATUS_DELIVERED, notCancelled, true
	case "canceled":
		return timelinev1.OrderStatus_ORDER_STATUS_CANCELLED, orderv1.CancelReason_CANCEL_REASON_CUSTOMER, true
	case "unavailable":
		return timelinev1.OrderStatus_ORDER_STATUS_CANCELLED, orderv1.CancelReason_CANCEL_REASON_UNAVAILABLE, true
	}
	return 0, 0, false
}

// parent finds the order that a row belongs to.
func (l *loader) parent(id string) (*Order, error) {
	if o := l.orders[id]; o != nil {
		return o, nil
	}
	if l.refusedOrders[id] {
		return nil, refuse("order refused", "order_id %s was refused itself", id)
	}
	return nil, refuse("refers to nothing", "order_id %q is not in %s", clip(id), OrdersFile)
}

func (l *loader) item(r row) error {
	o, err := l.parent(r.get("order_id"))
	if err != nil {
		return err
	}
	i := Item{Product: r.get("product_id"), Seller: r.get("seller_id")}
	if i.Number, err = parseCount("order_item_id", r.get("order_item_id"), 1, maxItems); err != nil {
		return err
	}
	if slices.ContainsFunc(o.Items, func(other Item) bool { return other.Number == i.Number }) {
		return refuse("duplicate", "item %d of order %s was named before", i.Number, o.ID)
	}
	if err := checkIDs(i.Product, "product_id", i.Seller, "seller_id"); err != nil {
		return err
	}
	if i.Price, err = parseCents("price", r.get("price")); err != nil {
		return err
	}
	if i.Freight, err = parseCents("freight_value", r.get("freight_value")); err != nil {
		return err
	}
	o.Items = append(o.Items, i)
	return nil
}

func (l *loader) payment(r row) error {
	o, err := l.parent(r.get("order_id"))
	if err != nil {
		return err
	}
	p := Payment{Type: r.get("payment_type")}
	if p.Sequence, err = parseCount("payment_sequential", r.get("payment_sequential"), 1, 9999); err != nil {
		return err
	}
	if slices.ContainsFunc(o.Payments, func(other Payment) bool { return other.Sequence == p.Sequence }) {
		return refuse("duplicate", "payment %d of order %s was named before", p.Sequence, o.ID)
	}
	var known bool
	if p.Method, known = methods[p.Type]; !known {
		return refuse("unknown payment type", "%q", clip(p.Type))
	}
	installments, err := parseCount("payment_installments", r.get("payment_installments"), 0, 120)
	if err != nil {
		return err
	}
	p.Installments = int32(installments)
	if p.Amount, err = parseCents("payment_value", r.get("payment_value")); err != nil {
		return err
	}
	o.Payments = append(o.Payments, p)
	return nil
}

// checkIDs takes pairs of an id and its column.
func checkIDs(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if len(pairs[i]) > maxID || !idForm.MatchString(pairs[i]) {
			return refuse("bad id", "%s %q is not an id of at most %d letters and digits", pairs[i+1], clip(pairs[i]), maxID)
		}
	}
	return nil
}

func parseCents(column, text string) (int64, error) {
	amount, err := money.Parse(text, Currency)
	if err != nil {
		return 0, refuse("bad amount", "%s: %v", column, err)
	}
	if amount > maxAmount {
		return 0, refuse("bad amount", "%s: %s is absurdly large", column, clip(text))
	}
	return amount, nil
}

func parseCount(column, text string, low, high int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, refuse("bad number", "%s %q is not a number from %d to %d", column, clip(text), low, high)
	}
	return n, nil
}

func parseTime(column, text string, required bool) (time.Time, error) {
	if text == "" && !required {
		return time.Time{}, nil
	}
	t, err := time.Parse(csvTime, text)
	if err != nil {
		return time.Time{}, refuse("bad date", "%s %q is not a time like 2018-02-03 20:37:35", column, clip(text))
	}
	if t.Year() < 1990 || t.Year() > 2199 {
		return time.Time{}, refuse("bad date", "%s %s is absurd", column, text)
	}
	return t, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%.57s…", s)
	}
	return s
}
