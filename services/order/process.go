package order

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// fulfilmentName is part of every request id of the process; it never changes.
const fulfilmentName = "fulfilment"

// defaultWarehouse ships the lines of a MANAGED order that name none.
const defaultWarehouse = "main"

// fulfilment is what the process knows of one order. It has one entry per
// payment and per shipment, filled from facts alone; what it decided itself is
// in Taken and Refunds.
//
//	PLACED ── every planned payment held ──▶ confirm ──▶ CONFIRMED
//	   │ a payment declined                                 │ plan one shipment per warehouse
//	   ▼                                                    │ dispatched ──▶ collect what it is worth
//	CANCELLED ──▶ release, give back, cancel shipments      ▼ all delivered, all collected ──▶ complete
type fulfilment struct {
	Order     orderPart               `json:"order"`
	Payments  map[string]paymentPart  `json:"payments,omitempty"`
	Shipments map[string]shipmentPart `json:"shipments,omitempty"`
	// Taken is what the process decided to collect for a shipment, per payment.
	Taken map[string]map[string]int64 `json:"taken,omitempty"`
	// Refunds is what it decided to give back, per payment.
	Refunds map[string]int64 `json:"refunds,omitempty"`
	// Trouble is what a person should know of.
	Trouble string `json:"trouble,omitempty"`
}

type orderPart struct {
	ID, CustomerID, State string
	Managed, Held         bool
	PlanNumber            int // rises with every new payment plan
	Holds                 int // rises with every hold
	Plan                  []facts.PlannedPayment
	Lines                 []facts.OrderLine
	Total, Fee            facts.Money
	PromisedAt            *time.Time
}

type paymentPart struct {
	State                             string
	Asked, Captured, Refunded, Voided int64
	Currency                          string
}

type shipmentPart struct{ State, Warehouse string }

// States the process tells apart.
const (
	placed, confirmed, completed, cancelled = "PLACED", "CONFIRMED", "COMPLETED", "CANCELLED"
	requested, authorized, declined, voided = "REQUESTED", "AUTHORIZED", "DECLINED", "VOIDED"
	planned, gone, delivered                = "PLANNED", "GONE", "DELIVERED"
)

// fulfilmentProcess is the process that makes a MANAGED order move by itself.
// An EXTERNAL order is only watched.
func fulfilmentProcess() process.Definition[fulfilment] {
	return process.Definition[fulfilment]{
		Name:    fulfilmentName,
		Version: 1,
		On:      (*fulfilment).on,
		Settled: (*fulfilment).settled,
		Next: func(s *fulfilment) process.Plan {
			return process.Plan{Commands: s.next(), Attention: s.Trouble, Ended: s.ended()}
		},
	}
}

func (s *fulfilment) on(f event.Fact) {
	s.Order.ID = f.Key
	switch e := f.Body.(type) {
	case *facts.OrderPlaced:
		s.Order = orderPart{
			ID: f.Key, CustomerID: e.CustomerID, State: placed, Managed: e.Fulfilment == facts.FulfilmentManaged,
			PlanNumber: 1, Total: e.Total,
		}
		if s.Order.Managed {
			s.Order.Plan, s.Order.Lines, s.Order.Fee, s.Order.PromisedAt = e.PaymentPlan, e.Lines, e.ShippingFee, e.PromisedAt
		}
	case *facts.OrderAmended:
		s.Order.Total = e.Total
		if e.Lines != nil {
			s.Order.Lines = e.Lines
		}
		if e.ShippingFee != nil {
			s.Order.Fee = *e.ShippingFee
		}
		if e.PromisedAt != nil {
			s.Order.PromisedAt = e.PromisedAt
		}
		if e.PaymentPlan != nil {
			s.Order.Plan = e.PaymentPlan
			s.Order.PlanNumber++
		}
	case *facts.OrderHeld:
		s.Order.Held = true
		s.Order.Holds++ // what a hold refused is asked again, as another step
	case *facts.OrderReleased:
		s.Order.Held = false
	case *facts.OrderConfirmed:
		s.Order.State = confirmed
		if e.PromisedAt != nil {
			s.Order.PromisedAt = e.PromisedAt
		}
	case *facts.OrderCancelled:
		s.Order.State = cancelled
	case *facts.OrderCompleted:
		s.Order.State = completed

	case *facts.PaymentRequested:
		s.payment(e.PaymentID, func(p *paymentPart) {
			p.State, p.Asked, p.Currency = requested, e.Amount.Amount, e.Amount.Currency
		})
	case *facts.PaymentAuthorized:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State = authorized })
	case *facts.PaymentDeclined:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State = declined })
	case *facts.PaymentCaptured:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Captured = e.TotalCaptured.Amount })
	case *facts.PaymentVoided:
		s.payment(e.PaymentID, func(p *paymentPart) { p.State, p.Voided = voided, p.Voided+e.Amount.Amount })
	case *facts.PaymentRefunded:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Refunded = e.TotalRefunded.Amount })
	case *facts.PaymentCorrected:
		s.payment(e.PaymentID, func(p *paymentPart) { p.Captured = e.CorrectedCaptured.Amount })

	case *facts.ShipmentPlanned:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State, p.Warehouse = planned, e.Warehouse })
	case *facts.ShipmentDispatched:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = gone })
	case *facts.ShipmentDelivered:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = delivered })
	case *facts.ShipmentLost:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = gone })
	case *facts.ShipmentReturned:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = gone })
	case *facts.ShipmentCancelled:
		s.shipment(e.ShipmentID, func(p *shipmentPart) { p.State = cancelled })
	}
}

func (s *fulfilment) payment(id string, change func(*paymentPart)) {
	if s.Payments == nil {
		s.Payments = map[string]paymentPart{}
	}
	p := s.Payments[id]
	change(&p)
	s.Payments[id] = p
}

func (s *fulfilment) shipment(id string, change func(*shipmentPart)) {
	if s.Shipments == nil {
		s.Shipments = map[string]shipmentPart{}
	}
	p := s.Shipments[id]
	change(&p)
	s.Shipments[id] = p
}

// settled tells a person only about what no later fact will settle: a refusal
// while the order is being undone, or of a step that can never be right.
func (s *fulfilment) settled(end process.Settlement) {
	if s.Order.State == cancelled || strings.HasPrefix(end.Step, "confirm/") || strings.HasPrefix(end.Step, "complete/") {
		return // overtaken by a cancellation or a hold; their facts say what is left to do
	}
	s.Trouble = fmt.Sprintf("step %s was %s: %s", end.Step, end.Outcome, end.Reason)
}

// ended reports whether the order is in a final state with nothing left to undo.
func (s *fulfilment) ended() bool {
	if s.Order.State != cancelled || !s.Order.Managed {
		return s.Order.State == completed || s.Order.State == cancelled
	}
	for _, p := range s.Payments {
		if p.State == requested || p.State == authorized && p.Asked > p.Captured+p.Voided || p.Captured > p.Refunded {
			return false
		}
	}
	for _, p := range s.Shipments {
		if p.State == planned {
			return false
		}
	}
	return true
}

// next says what ought to have been commanded by now.
func (s *fulfilment) next() []process.Command {
	if !s.Order.Managed {
		return nil
	}
	switch s.Order.State {
	case cancelled:
		return s.undo()
	case placed, confirmed:
		if s.Order.Held {
			return s.collect() // what left the house is owed, held or not
		}
		return s.forward()
	default:
		return nil
	}
}

// forward authorises the plan in sequence, confirms, plans shipments, collects
// for what was dispatched, and completes.
func (s *fulfilment) forward() []process.Command {
	next := s.releaseOldPlans()
	for i, pay := range s.Order.Plan {
		id := s.paymentID(s.Order.PlanNumber, i)
		p, asked := s.Payments[id]
		switch {
		case !asked:
			return append(next, s.authorize(id, i, pay))
		case p.State == requested:
			return next
		case p.State == declined:
			return append(next, s.cancel())
		}
	}
	if s.Order.State == placed {
		return append(next, s.step(fmt.Sprintf("confirm/%d/%d", s.Order.PlanNumber, s.Order.Holds), func(requestID string) proto.Message {
			return &orderv1.ConfirmOrderRequest{RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID}
		}))
	}
	for _, warehouse := range s.warehouses() {
		if _, ok := s.Shipments[s.shipmentID(warehouse)]; !ok {
			next = append(next, s.plan(warehouse))
		}
	}
	next = append(next, s.collect()...)
	if s.finished() {
		next = append(next, s.step(fmt.Sprintf("complete/%d", s.Order.Holds), func(requestID string) proto.Message {
			return &orderv1.CompleteOrderRequest{RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID}
		}))
	}
	return next
}

// undo releases what is held, gives back what was collected and cancels what
// has not left.
func (s *fulfilment) undo() []process.Command {
	var next []process.Command
	for _, id := range slices.Sorted(maps.Keys(s.Payments)) {
		p := s.Payments[id]
		if p.State == requested || p.State == authorized && p.Asked > p.Captured+p.Voided {
			next = append(next, s.void(id))
		}
		if p.Captured > s.Refunds[id] {
			if s.Refunds == nil {
				s.Refunds = map[string]int64{}
			}
			amount := p.Captured - s.Refunds[id]
			s.Refunds[id] = p.Captured
			next = append(next, s.refund(id, amount, p))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Shipments)) {
		if s.Shipments[id].State == planned {
			next = append(next, s.step("cancel-shipment/"+id, func(requestID string) proto.Message {
				return &shipmentv1.CancelShipmentRequest{
					RequestId: requestID, Actor: fulfilmentName, ShipmentId: id, Reason: "order cancelled",
				}
			}))
		}
	}
	return next
}

// releaseOldPlans voids payments of plans that an amendment replaced.
func (s *fulfilment) releaseOldPlans() []process.Command {
	var next []process.Command
	for number := 1; number < s.Order.PlanNumber; number++ {
		for i := 0; ; i++ {
			id := s.paymentID(number, i)
			p, ok := s.Payments[id]
			if !ok {
				break
			}
			if p.State == requested || p.State == authorized {
				next = append(next, s.void(id))
			}
		}
	}
	return next
}

// collect decides, once per shipment that left, what to take from which
// payment: what the shipment is worth, and the fee with the first one.
func (s *fulfilment) collect() []process.Command {
	for _, warehouse := range s.warehouses() {
		id := s.shipmentID(warehouse)
		if p, ok := s.Shipments[id]; !ok || p.State != gone && p.State != delivered || s.Taken[id] != nil {
			continue
		}
		worth := s.worth(warehouse)
		if len(s.Taken) == 0 {
			worth += s.Order.Fee.Amount
		}
		s.take(id, worth)
	}
	var next []process.Command
	for _, shipment := range slices.Sorted(maps.Keys(s.Taken)) {
		for _, payment := range slices.Sorted(maps.Keys(s.Taken[shipment])) {
			next = append(next, s.capture(shipment, payment, s.Taken[shipment][payment]))
		}
	}
	return next
}

// take spreads an amount over the payments of the plan, in their order.
func (s *fulfilment) take(shipment string, amount int64) {
	if s.Taken == nil {
		s.Taken = map[string]map[string]int64{}
	}
	s.Taken[shipment] = map[string]int64{}
	for i := range s.Order.Plan {
		id := s.paymentID(s.Order.PlanNumber, i)
		if part := min(amount, s.Payments[id].Asked-s.takenFrom(id)); part > 0 {
			s.Taken[shipment][id] = part
			amount -= part
		}
	}
}

// takenFrom sums what was decided to be taken from a payment.
func (s *fulfilment) takenFrom(payment string) int64 {
	var sum int64
	for _, parts := range s.Taken {
		sum += parts[payment]
	}
	return sum
}

// finished reports whether every shipment arrived and every cent is collected.
func (s *fulfilment) finished() bool {
	for _, warehouse := range s.warehouses() {
		if s.Shipments[s.shipmentID(warehouse)].State != delivered {
			return false
		}
	}
	var captured int64
	for i := range s.Order.Plan {
		captured += s.Payments[s.paymentID(s.Order.PlanNumber, i)].Captured
	}
	return captured == s.Order.Total.Amount
}

// worth is what the lines of one warehouse cost.
func (s *fulfilment) worth(warehouse string) int64 {
	var sum int64
	for _, line := range s.linesOf(warehouse) {
		sum += int64(line.Quantity) * line.UnitPrice.Amount
	}
	return sum
}

func (s *fulfilment) linesOf(warehouse string) []facts.OrderLine {
	var lines []facts.OrderLine
	for _, line := range s.Order.Lines {
		if warehouseOf(line) == warehouse {
			lines = append(lines, line)
		}
	}
	return lines
}

func (s *fulfilment) warehouses() []string {
	var names []string
	for _, line := range s.Order.Lines {
		names = append(names, warehouseOf(line))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func warehouseOf(line facts.OrderLine) string {
	if line.Warehouse == "" {
		return defaultWarehouse
	}
	return line.Warehouse
}
