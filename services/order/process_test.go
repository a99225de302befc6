package order

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// world stands for the three services: it takes each request id once, decides
// by the rules of the state machines, and states facts that reach the process
// later, in any order between aggregates.
type world struct {
	t        *rapid.T
	order    orderPart
	payments map[string]*paymentPart
	ships    map[string]string
	taken    map[string]bool         // request ids
	queues   map[string][]event.Fact // facts on their way, per aggregate
	versions map[string]int64
	decline  func() bool
}

func (w *world) state(typ, id string, body event.Body) {
	key := typ + "/" + id
	w.versions[key]++
	w.queues[key] = append(w.queues[key], event.Fact{
		Envelope: event.Envelope{
			ID: fmt.Sprint(key, w.versions[key]), Key: w.order.ID, Epoch: "e", Version: w.versions[key],
			Aggregate: event.Aggregate{Type: typ, ID: id},
		},
		Body: body,
	})
}

func (w *world) eur(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "EUR"} }

// take executes a request as its owner would, and reports whether it refused.
func (w *world) take(request proto.Message) (refused bool) {
	id := request.(interface{ GetRequestId() string }).GetRequestId()
	if w.taken[id] {
		return false
	}
	defer func() { w.taken[id] = !refused }()
	switch r := request.(type) {
	case *orderv1.ConfirmOrderRequest:
		if w.order.State != placed || w.order.Held {
			return true
		}
		var held int64
		for _, p := range w.payments {
			if p.State == authorized {
				held += p.Asked
			}
		}
		// A confirmation on its way when the plan changes is settled afterwards.
		if w.order.PlanNumber == 0 && held < w.order.Total.Amount {
			w.t.Errorf("confirmed with %d held of %d", held, w.order.Total.Amount)
		}
		w.order.State = confirmed
		w.state("order", w.order.ID, &facts.OrderConfirmed{})
	case *orderv1.CancelOrderRequest:
		if w.order.State != placed && w.order.State != confirmed {
			return true
		}
		w.order.State = cancelled
		w.state("order", w.order.ID, &facts.OrderCancelled{})
	case *orderv1.CompleteOrderRequest:
		if w.order.State != confirmed || w.order.Held {
			return true
		}
		w.order.State = completed
		w.state("order", w.order.ID, &facts.OrderCompleted{})
	case *paymentv1.AuthorizePaymentRequest:
		p := &paymentPart{State: requested, Asked: r.GetAmount().GetAmount(), Currency: "EUR"}
		w.payments[r.GetPaymentId()] = p
		w.state("payment", r.GetPaymentId(), &facts.PaymentRequested{PaymentID: r.GetPaymentId(), Amount: w.eur(p.Asked)})
		if w.decline() {
			p.State = declined
			w.state("payment", r.GetPaymentId(), &facts.PaymentDeclined{PaymentID: r.GetPaymentId(), Amount: w.eur(p.Asked)})
			return false
		}
		p.State = authorized
		w.state("payment", r.GetPaymentId(), &facts.PaymentAuthorized{PaymentID: r.GetPaymentId(), Amount: w.eur(p.Asked)})
	case *paymentv1.CapturePaymentRequest:
		p := w.payments[r.GetPaymentId()]
		if p == nil || p.State != authorized || p.Captured+r.GetAmount().GetAmount() > p.Asked {
			return true
		}
		p.Captured += r.GetAmount().GetAmount()
		w.state("payment", r.GetPaymentId(), &facts.PaymentCaptured{PaymentID: r.GetPaymentId(), TotalCaptured: w.eur(p.Captured)})
	case *paymentv1.VoidPaymentRequest:
		p := w.payments[r.GetPaymentId()]
		if p == nil || p.State != authorized {
			return true
		}
		p.State, p.Voided = voided, p.Asked-p.Captured
		w.state("payment", r.GetPaymentId(), &facts.PaymentVoided{PaymentID: r.GetPaymentId(), Amount: w.eur(p.Voided)})
	case *paymentv1.RefundPaymentRequest:
		p := w.payments[r.GetPaymentId()]
		if p == nil || p.Refunded+r.GetAmount().GetAmount() > p.Captured {
			return true
		}
		p.Refunded += r.GetAmount().GetAmount()
		w.state("payment", r.GetPaymentId(), &facts.PaymentRefunded{PaymentID: r.GetPaymentId(), TotalRefunded: w.eur(p.Refunded)})
	case *shipmentv1.PlanShipmentRequest:
		w.ships[r.GetShipmentId()] = planned
		w.state("shipment", r.GetShipmentId(), &facts.ShipmentPlanned{ShipmentID: r.GetShipmentId(), Warehouse: r.GetWarehouse()})
	case *shipmentv1.CancelShipmentRequest:
		if w.ships[r.GetShipmentId()] != planned {
			return true
		}
		w.ships[r.GetShipmentId()] = cancelled
		w.state("shipment", r.GetShipmentId(), &facts.ShipmentCancelled{ShipmentID: r.GetShipmentId()})
	default:
		w.t.Fatalf("unexpected %T", request)
	}
	return false
}

// carrier moves one parcel on, if any can be moved.
func (w *world) carrier() bool {
	for _, id := range slices.Sorted(maps.Keys(w.ships)) {
		switch w.ships[id] {
		case planned:
			w.ships[id] = gone
			w.state("shipment", id, &facts.ShipmentDispatched{ShipmentID: id})
			return true
		case gone:
			w.ships[id] = delivered
			w.state("shipment", id, &facts.ShipmentDelivered{ShipmentID: id})
			return true
		}
	}
	return false
}

// TestFulfilmentEndsWell runs the process against the world with every choice
// drawn: which fact arrives next, which command is executed next, commands
// executed twice, payments declined, the customer changing or cancelling, holds.
// Whatever happens, the order ends, money is conserved, and nothing of a
// cancelled order is left alive.
func TestFulfilmentEndsWell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			t: t, payments: map[string]*paymentPart{}, ships: map[string]string{}, taken: map[string]bool{},
			queues: map[string][]event.Fact{}, versions: map[string]int64{},
			order: orderPart{ID: "o", State: placed},
		}
		mayDecline := rapid.Bool().Draw(t, "may decline")
		w.decline = func() bool { return mayDecline && rapid.Bool().Draw(t, "decline") }
		lines, total := drawLines(t)
		w.order.Total = w.eur(total + 500)
		w.state("order", "o", &facts.OrderPlaced{
			CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Lines: lines, Total: w.eur(total + 500), ShippingFee: w.eur(500),
			PaymentPlan: drawPlan(t, total+500),
		})

		def, s := fulfilmentProcess(), &fulfilment{}
		issued := map[string]bool{}
		var commands []proto.Message
		ended := false
		advance := func() {
			plan := def.Next(s)
			ended = plan.Ended
			for _, c := range plan.Commands {
				if !issued[c.Step] {
					issued[c.Step] = true
					commands = append(commands, c.Request)
				}
			}
		}
		pick := func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) }
		surprises := rapid.IntRange(0, 3).Draw(t, "surprises")
		for steps := 0; ; steps++ {
			if steps > 2000 {
				t.Fatalf("no end: %+v", s)
			}
			var waiting []string
			for _, key := range slices.Sorted(maps.Keys(w.queues)) {
				if len(w.queues[key]) > 0 {
					waiting = append(waiting, key)
				}
			}
			if len(waiting) == 0 && len(commands) == 0 {
				if w.order.Held {
					w.order.Held = false
					w.state("order", "o", &facts.OrderReleased{})
					continue
				}
				if w.order.State == confirmed && w.carrier() {
					continue
				}
				break
			}
			switch choice := pick(5, "do"); {
			case choice <= 1 && len(waiting) > 0:
				key := waiting[pick(len(waiting), "fact")]
				def.On(s, w.queues[key][0])
				w.queues[key] = w.queues[key][1:]
				advance()
			case choice <= 3 && len(commands) > 0:
				i := pick(len(commands), "command")
				c := commands[i]
				if rapid.Bool().Draw(t, "reply arrives") {
					commands = slices.Delete(commands, i, i+1)
				}
				if w.take(c) {
					def.Settled(s, process.Settlement{Outcome: process.Refused})
					advance()
				}
			case surprises > 0:
				surprises--
				w.surprise(total)
			}
		}
		w.check(s, ended, total+500)
	})
}

// surprise lets a person or the carrier act.
func (w *world) surprise(total int64) {
	open := w.order.State == placed || w.order.State == confirmed
	switch rapid.IntRange(0, 3).Draw(w.t, "surprise") {
	case 0:
		if open {
			w.order.State = cancelled
			w.state("order", "o", &facts.OrderCancelled{})
		}
	case 1:
		if open && !w.order.Held {
			w.order.Held = true
			w.state("order", "o", &facts.OrderHeld{})
		}
	case 2:
		if w.order.State == placed {
			w.order.PlanNumber++
			w.state("order", "o", &facts.OrderAmended{Total: w.eur(total + 500), PaymentPlan: drawPlan(w.t, total+500)})
		}
	case 3:
		w.carrier()
	}
}

func (w *world) check(s *fulfilment, ended bool, total int64) {
	var captured, refunded int64
	for id, p := range w.payments {
		captured, refunded = captured+p.Captured, refunded+p.Refunded
		if p.State == authorized && p.Captured < p.Asked && w.order.State != confirmed {
			w.t.Errorf("payment %s is still held: %+v", id, p)
		}
	}
	switch w.order.State {
	case completed:
		if captured != total || refunded != 0 {
			w.t.Errorf("completed for %d, collected %d, gave back %d", total, captured, refunded)
		}
	case cancelled:
		if captured != refunded {
			w.t.Errorf("cancelled, collected %d, gave back %d", captured, refunded)
		}
		for id, state := range w.ships {
			if state == planned {
				w.t.Errorf("cancelled, but shipment %s is still planned", id)
			}
		}
	default:
		w.t.Errorf("the order stays %s: %+v", w.order.State, s)
	}
	if !ended {
		w.t.Errorf("the process does not know that it ended: %+v", s)
	}
}

func drawLines(t *rapid.T) (lines []facts.OrderLine, total int64) {
	for i := range rapid.IntRange(1, 4).Draw(t, "lines") {
		line := facts.OrderLine{
			LineID: fmt.Sprint(i), SKU: "sku", Quantity: rapid.Int32Range(1, 3).Draw(t, "quantity"),
			UnitPrice: facts.Money{Amount: rapid.Int64Range(0, 5000).Draw(t, "price"), Currency: "EUR"},
			Warehouse: rapid.SampledFrom([]string{"", "north", "south"}).Draw(t, "warehouse"),
		}
		total += int64(line.Quantity) * line.UnitPrice.Amount
		lines = append(lines, line)
	}
	return lines, total
}

func drawPlan(t *rapid.T, total int64) []facts.PlannedPayment {
	voucher := rapid.Int64Range(0, total-1).Draw(t, "voucher")
	plan := []facts.PlannedPayment{{Method: facts.PaymentMethodCard, Amount: facts.Money{Amount: total - voucher, Currency: "EUR"}}}
	if voucher > 0 {
		plan = append([]facts.PlannedPayment{{Method: facts.PaymentMethodVoucher, Amount: facts.Money{Amount: voucher, Currency: "EUR"}}}, plan...)
	}
	return plan
}
