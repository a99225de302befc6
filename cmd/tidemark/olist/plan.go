package olist

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

const (
	actor    = "import"
	external = commercev1.Fulfilment_FULFILMENT_EXTERNAL
)

// requestSpace is the name space of the request ids of imports.
var requestSpace = uuid.MustParse("5f0f3a52-0a4b-5a43-9f0e-0c1157000001")

// Step is one command of an order's plan.
type Step struct {
	// Name of the step, unique within the order, for example "capture p1".
	Name string
	// Request is the whole command; equal inputs make equal requests, so that
	// sending it again has no effect.
	Request proto.Message
}

// planner makes the steps of one order.
type planner struct {
	order   *Order
	channel string
	steps   []Step
}

// Plan maps an order to commands in causal order: place, pay, confirm, ship,
// deliver, cancel. Business times are the file's own, even where they run
// backwards; where the end state needs a date that the file lacks, the row's
// last date stands in and is marked as an estimate.
func Plan(o *Order, channel string) []Step {
	p := &planner{order: o, channel: channel}
	p.place()
	for _, payment := range o.Payments {
		p.pay(payment)
	}
	if o.beyondPlaced() || o.cancelled() && !o.Approved.IsZero() {
		at, estimated := o.approval()
		p.add("confirm", &orderv1.ConfirmOrderRequest{
			RequestId: p.id("confirm"), Actor: actor, OccurredAt: stamp(at), TimeEstimated: estimated, OrderId: o.ID,
		})
	}
	for n, parcel := range o.Parcels() {
		p.ship(n+1, parcel)
	}
	if o.cancelled() {
		p.add("cancel", &orderv1.CancelOrderRequest{
			RequestId: p.id("cancel"), Actor: actor, OccurredAt: stamp(o.Last()), TimeEstimated: true,
			OrderId: o.ID, Reason: o.CancelReason,
		})
	}
	return p.steps
}

// beyondPlaced reports whether the end state implies that the order was accepted.
func (o *Order) beyondPlaced() bool {
	return o.End == timelinev1.OrderStatus_ORDER_STATUS_CONFIRMED || o.shipped()
}

func (o *Order) shipped() bool {
	return o.End == timelinev1.OrderStatus_ORDER_STATUS_SHIPPED || o.End == timelinev1.OrderStatus_ORDER_STATUS_DELIVERED
}

func (o *Order) cancelled() bool {
	return o.End == timelinev1.OrderStatus_ORDER_STATUS_CANCELLED
}

// approval returns when payment and order were accepted.
func (o *Order) approval() (at time.Time, estimated bool) {
	if o.Approved.IsZero() {
		return o.Last(), true
	}
	return o.Approved, false
}

// Parcel is what one seller sent for an order.
type Parcel struct {
	Seller string // "" when the order has no items left
	Items  []Item
	// Delivered says whether it arrived.
	Delivered bool
}

// Parcels returns one parcel per seller, by seller, if the file says that the
// order was handed to a carrier. A date that contradicts the end state (a
// delivery of an order that is only shipped) is not taken: the end state is the
// dataset's last word.
func (o *Order) Parcels() []Parcel {
	sent := o.shipped() || o.cancelled() && !(o.Carried.IsZero() && o.Delivered.IsZero())
	if !sent {
		return nil
	}
	delivered := o.End == timelinev1.OrderStatus_ORDER_STATUS_DELIVERED || o.cancelled() && !o.Delivered.IsZero()
	if len(o.Items) == 0 {
		return []Parcel{{Delivered: delivered}}
	}
	var parcels []Parcel
	for _, item := range o.Items {
		i, found := slices.BinarySearchFunc(parcels, item.Seller, func(p Parcel, seller string) int {
			return cmp.Compare(p.Seller, seller)
		})
		if !found {
			parcels = slices.Insert(parcels, i, Parcel{Seller: item.Seller, Delivered: delivered})
		}
		parcels[i].Items = append(parcels[i].Items, item)
	}
	return parcels
}

// contradictions names the dates of the order that its end state rules out and
// that are therefore not taken.
func (o *Order) contradictions() []string {
	var dates []string
	if !o.Carried.IsZero() && !o.shipped() && !o.cancelled() {
		dates = append(dates, "order_delivered_carrier_date")
	}
	if !o.Delivered.IsZero() && o.End != timelinev1.OrderStatus_ORDER_STATUS_DELIVERED && !o.cancelled() {
		dates = append(dates, "order_delivered_customer_date")
	}
	return dates
}

// PaymentID returns the id of a payment of an order.
func PaymentID(orderID string, sequence int) string { return fmt.Sprintf("%s-p%d", orderID, sequence) }

// ShipmentID returns the id of the n-th parcel of an order, from 1.
func ShipmentID(orderID string, n int) string { return fmt.Sprintf("%s-s%d", orderID, n) }

func (p *planner) place() {
	o := p.order
	request := &orderv1.PlaceOrderRequest{
		RequestId: p.id("place"), Actor: actor, OccurredAt: stamp(o.Purchased),
		OrderId: o.ID, CustomerId: o.Customer.ID, Fulfilment: external, Channel: p.channel,
		Address: &commercev1.Address{
			PostalCode: o.Customer.PostalCode, City: o.Customer.City, Region: o.Customer.State, Country: "BR",
		},
		PromisedAt: stamp(o.Promised),
	}
	var freight int64
	for _, item := range o.Items {
		freight += item.Freight
		request.Lines = append(request.Lines, &orderv1.OrderLine{
			LineId: strconv.Itoa(item.Number), Sku: item.Product, Quantity: 1, UnitPrice: reais(item.Price), Warehouse: item.Seller,
		})
	}
	request.ShippingFee = reais(freight)
	p.add("place", request)
}

func (p *planner) pay(payment Payment) {
	o, id := p.order, PaymentID(p.order.ID, payment.Sequence)
	suffix := fmt.Sprintf(" p%d", payment.Sequence)
	request := &paymentv1.AuthorizePaymentRequest{
		RequestId: p.id("authorize" + suffix), Actor: actor, OccurredAt: stamp(o.Purchased),
		PaymentId: id, OrderId: o.ID, CustomerId: o.Customer.ID, Fulfilment: external,
		Method: payment.Method, Amount: reais(payment.Amount), Installments: payment.Installments,
		ExternalOutcome: paymentv1.ExternalOutcome_EXTERNAL_OUTCOME_PENDING,
	}
	if !o.paid() {
		p.add("authorize"+suffix, request)
		return
	}
	at, estimated := o.approval()
	request.ExternalOutcome = paymentv1.ExternalOutcome_EXTERNAL_OUTCOME_AUTHORIZED
	request.ExternalDecidedAt = stamp(at)
	request.TimeEstimated = estimated
	p.add("authorize"+suffix, request)
	if payment.Amount == 0 {
		return // nothing to collect
	}
	p.add("capture"+suffix, &paymentv1.CapturePaymentRequest{
		RequestId: p.id("capture" + suffix), Actor: actor, OccurredAt: stamp(at), TimeEstimated: estimated,
		PaymentId: id, Amount: reais(payment.Amount),
	})
}

// paid reports whether the order's money was collected.
func (o *Order) paid() bool { return !o.Approved.IsZero() || o.beyondPlaced() }

func (p *planner) ship(n int, parcel Parcel) {
	o, id := p.order, ShipmentID(p.order.ID, n)
	suffix := fmt.Sprintf(" s%d", n)
	dispatched, dispatchEstimated := o.dateOrLast(o.Carried)
	// The file has no date of planning: the parcel was planned when the order
	// was accepted, but not after the carrier had it.
	planned, _ := o.approval()
	if dispatched.Before(planned) {
		planned = dispatched
	}
	plan := &shipmentv1.PlanShipmentRequest{
		RequestId: p.id("plan" + suffix), Actor: actor, OccurredAt: stamp(planned), TimeEstimated: true,
		ShipmentId: id, OrderId: o.ID, CustomerId: o.Customer.ID, Fulfilment: external,
		Warehouse: parcel.Seller, PromisedAt: stamp(o.Promised),
	}
	for _, item := range parcel.Items {
		plan.Lines = append(plan.Lines, &shipmentv1.ShipmentLine{LineId: strconv.Itoa(item.Number), Sku: item.Product, Quantity: 1})
	}
	p.add("plan"+suffix, plan)
	p.add("dispatch"+suffix, &shipmentv1.DispatchShipmentRequest{
		RequestId: p.id("dispatch" + suffix), Actor: actor, OccurredAt: stamp(dispatched), TimeEstimated: dispatchEstimated, ShipmentId: id,
	})
	if parcel.Delivered {
		at, estimated := o.dateOrLast(o.Delivered)
		p.add("deliver"+suffix, &shipmentv1.DeliverShipmentRequest{
			RequestId: p.id("deliver" + suffix), Actor: actor, OccurredAt: stamp(at), TimeEstimated: estimated, ShipmentId: id,
		})
	}
}

func (o *Order) dateOrLast(date time.Time) (at time.Time, estimated bool) {
	if date.IsZero() {
		return o.Last(), true
	}
	return date, false
}

func (p *planner) add(name string, request proto.Message) {
	p.steps = append(p.steps, Step{Name: name, Request: request})
}

// id is the request id of a step: the same for ever.
func (p *planner) id(step string) string {
	return uuid.NewSHA1(requestSpace, []byte(p.channel+"\x00"+p.order.ID+"\x00"+step)).String()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func reais(cents int64) *commercev1.Money {
	return &commercev1.Money{Amount: cents, Currency: Currency}
}
