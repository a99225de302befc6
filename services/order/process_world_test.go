package order

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// world stands for the three services, the provider, the carrier and the
// network: it takes each request id once, decides by the rules of the state
// machines, and states facts that reach the process later, in any order between
// aggregates. What is drawn is drawn from t.
type world struct {
	t        *rapid.T
	order    orderPart
	payments map[string]*paymentPart
	parcels  map[string]*shipmentPart
	effects  map[string]int          // by request id
	blocked  map[string]bool         // request ids that were resolved as refused
	queues   map[string][]event.Fact // facts on their way, per aggregate
	versions map[string]int64
	decline  func() bool
	refuse   func() bool // a capture
	now      time.Time
	promises []time.Time // as they were made, in turn
	// stranger is true once somebody did what the money rules cannot foresee.
	stranger bool
}

// state commits a fact of an aggregate.
func (w *world) state(typ, id string, body event.Body) {
	key := typ + "/" + id
	w.versions[key]++
	w.queues[key] = append(w.queues[key], event.Fact{
		Envelope: event.Envelope{
			ID: fmt.Sprint(key, w.versions[key]), Key: w.order.ID, Epoch: "e", Version: w.versions[key],
			Aggregate: event.Aggregate{Type: typ, ID: id}, OccurredAt: w.now,
		},
		Body: body,
	})
}

func eurF(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "EUR"} }

func requestID(request proto.Message) string {
	return request.(interface{ GetRequestId() string }).GetRequestId()
}

// take executes a request as its owner would, and reports whether it refused.
func (w *world) take(request proto.Message) (refused bool) {
	if (participants{}).call(request) == nil {
		w.t.Fatalf("the process issues a %T, which the service does not send", request)
	}
	id := requestID(request)
	if w.blocked[id] {
		return true
	}
	if w.effects[id] > 0 {
		return false
	}
	defer func() {
		if !refused {
			w.effects[id]++
		}
	}()
	open := w.order.State == placed || w.order.State == confirmed
	switch r := request.(type) {
	case *orderv1.ConfirmOrderRequest:
		if w.order.State != placed || w.order.Held || int(r.GetAmendmentsSeen()) != w.order.Amendments {
			return true
		}
		var held int64
		for _, p := range w.payments {
			held += p.open()
			w.stranger = w.stranger || p.State == voided // given back while the confirmation was on its way
		}
		if held < w.order.Total.Amount && !w.stranger {
			w.t.Errorf("confirmed with %d held of %d", held, w.order.Total.Amount)
		}
		w.order.State = confirmed
		confirmation := &facts.OrderConfirmed{Actor: r.GetActor()}
		if r.GetPromisedAt() != nil {
			at := r.GetPromisedAt().AsTime()
			w.promise(at)
			confirmation.PromisedAt = &at
		}
		w.state("order", w.order.ID, confirmation)
	case *orderv1.CancelOrderRequest:
		if !open {
			return true
		}
		w.cancel()
	case *orderv1.CompleteOrderRequest:
		if w.order.State != confirmed || w.order.Held {
			return true
		}
		w.order.State = completed
		w.state("order", w.order.ID, &facts.OrderCompleted{})
	case *orderv1.AmendOrderRequest:
		if !open {
			return true
		}
		w.order.Amendments++
		at := r.GetPromisedAt().AsTime()
		w.promise(at)
		w.state("order", w.order.ID, &facts.OrderAmended{Total: w.order.Total, PromisedAt: &at, Actor: r.GetActor()})
	case *shipmentv1.PlanShipmentRequest:
		p := &shipmentPart{State: planned, Warehouse: r.GetWarehouse(), Lines: map[string]int32{}}
		var lines []facts.ShipmentLine
		for _, l := range r.GetLines() {
			p.Lines[l.GetLineId()] += l.GetQuantity()
			lines = append(lines, facts.ShipmentLine{LineID: l.GetLineId(), SKU: l.GetSku(), Quantity: l.GetQuantity()})
		}
		w.parcels[r.GetShipmentId()] = p
		w.state("shipment", r.GetShipmentId(), &facts.ShipmentPlanned{ShipmentID: r.GetShipmentId(), Warehouse: r.GetWarehouse(), Lines: lines})
	case *shipmentv1.CancelShipmentRequest:
		if w.parcels[r.GetShipmentId()].State != planned {
			return true
		}
		w.move(r.GetShipmentId(), cancelled)
	default:
		return w.takeMoney(request)
	}
	return false
}

// takeMoney is what the payment service does.
func (w *world) takeMoney(request proto.Message) (refused bool) {
	id := request.(interface{ GetPaymentId() string }).GetPaymentId()
	p := w.payments[id]
	switch r := request.(type) {
	case *paymentv1.AuthorizePaymentRequest:
		w.payments[id] = &paymentPart{State: requested, Asked: r.GetAmount().GetAmount(), Currency: "EUR"}
		w.state("payment", id, &facts.PaymentRequested{PaymentID: id, Amount: eurF(r.GetAmount().GetAmount()), Method: facts.PaymentMethodCard})
	case *paymentv1.CapturePaymentRequest:
		if p == nil || r.GetAmount().GetAmount() > p.open() || w.refuse() {
			return true
		}
		p.Captured += r.GetAmount().GetAmount()
		shipment := r.GetShipmentId()
		w.state("payment", id, &facts.PaymentCaptured{PaymentID: id, TotalCaptured: eurF(p.Captured), ShipmentID: &shipment})
	case *paymentv1.VoidPaymentRequest:
		if p == nil || p.State != requested && p.open() == 0 {
			return true
		}
		released := p.Asked - p.Captured
		p.State, p.Voided = voided, released // a late approval is released at the provider
		w.state("payment", id, &facts.PaymentVoided{PaymentID: id, Amount: eurF(released)})
	case *paymentv1.RefundPaymentRequest:
		if p == nil || p.Refunded+r.GetAmount().GetAmount() > p.Captured {
			return true
		}
		p.Refunded += r.GetAmount().GetAmount()
		w.state("payment", id, &facts.PaymentRefunded{PaymentID: id, TotalRefunded: eurF(p.Refunded)})
	default:
		w.t.Fatalf("unexpected %T", request)
	}
	return false
}

func (w *world) cancel() {
	w.order.State, w.order.Held = cancelled, false
	w.state("order", w.order.ID, &facts.OrderCancelled{})
}

// provider answers one authorisation that waits, if any does.
func (w *world) provider() bool {
	for _, id := range slices.Sorted(maps.Keys(w.payments)) {
		p := w.payments[id]
		if p.State != requested {
			continue
		}
		if w.decline() {
			p.State = declined
			w.state("payment", id, &facts.PaymentDeclined{PaymentID: id, Amount: eurF(p.Asked), Retryable: rapid.Bool().Draw(w.t, "soft")})
			return true
		}
		p.State = authorized
		lapses := time.Unix(1_800_000_000, 0)
		w.state("payment", id, &facts.PaymentAuthorized{PaymentID: id, Amount: eurF(p.Asked), ExpiresAt: &lapses})
		return true
	}
	return false
}

// promise takes a promise that the process moved: never to an earlier date than
// the one it moved before, unless somebody else made another meanwhile.
func (w *world) promise(at time.Time) {
	if n := len(w.promises); n > 0 && !at.After(w.promises[n-1]) {
		w.t.Errorf("the promise moved to %s after %s", at, w.promises)
	}
	w.promises = append(w.promises, at)
	w.order.PromisedAt = &at
}

// person settles what the process asks a person about: captures that were
// refused are written off. It reports whether there was one.
func (w *world) person(k *kernel) bool {
	for _, step := range slices.Sorted(maps.Keys(k.state.Refused)) {
		if strings.HasPrefix(step, "capture/") && strings.Contains(k.last.Attention, step) {
			k.note("forced %s", step)
			k.def.Settled(k.state, process.Settlement{Step: step, Outcome: process.Forced, Reason: "written off"})
			k.advance()
			return true
		}
	}
	return false
}

// move brings a parcel into another state.
func (w *world) move(id, to string) {
	p := w.parcels[id]
	p.State = to
	p.Arrived = p.Arrived || to == delivered
	switch to {
	case gone:
		w.state("shipment", id, &facts.ShipmentDispatched{ShipmentID: id})
	case delivered:
		w.state("shipment", id, &facts.ShipmentDelivered{ShipmentID: id})
	case lost:
		w.state("shipment", id, &facts.ShipmentLost{ShipmentID: id})
	case returned:
		w.state("shipment", id, &facts.ShipmentReturned{ShipmentID: id})
	case cancelled:
		w.state("shipment", id, &facts.ShipmentCancelled{ShipmentID: id})
	}
}

// carrier moves one parcel on, if any can be moved.
func (w *world) carrier(mishaps bool) bool {
	for _, id := range slices.Sorted(maps.Keys(w.parcels)) {
		switch w.parcels[id].State {
		case planned:
			w.move(id, gone)
			return true
		case gone:
			to := delivered
			if mishaps {
				to = rapid.SampledFrom([]string{delivered, delivered, lost, returned}).Draw(w.t, "fate")
			}
			w.move(id, to)
			return true
		case lost:
			if mishaps && rapid.IntRange(0, 3).Draw(w.t, "found") == 0 {
				w.move(id, delivered)
				return true
			}
		case delivered:
			if mishaps && rapid.IntRange(0, 3).Draw(w.t, "sent back") == 0 {
				w.move(id, returned)
				return true
			}
		}
	}
	return false
}

// surprise lets a person or the carrier act.
func (w *world) surprise(total int64) {
	open := w.order.State == placed || w.order.State == confirmed
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 48).Draw(w.t, "hours pass")) * hour)
	switch rapid.IntRange(0, 6).Draw(w.t, "surprise") {
	case 0:
		if open {
			w.cancel()
		}
	case 1:
		if open && !w.order.Held {
			w.order.Held = true
			w.state("order", w.order.ID, &facts.OrderHeld{})
		}
	case 2:
		if w.order.State == placed {
			w.order.Amendments++
			w.state("order", w.order.ID, &facts.OrderAmended{Total: eurF(total), PaymentPlan: drawPlan(w.t, total)})
		}
	case 3, 4:
		w.carrier(true)
	case 6: // somebody makes another promise
		if open && w.order.PromisedAt != nil {
			w.order.Amendments++
			at := w.order.PromisedAt.Add(time.Duration(rapid.IntRange(-24, 72).Draw(w.t, "promised later")) * hour)
			w.order.PromisedAt, w.promises = &at, nil
			w.state("order", w.order.ID, &facts.OrderAmended{Total: w.order.Total, PromisedAt: &at, Actor: "operator:x"})
		}
	case 5: // the books are put right; what comes after is for people if too little was taken
		for _, id := range slices.Sorted(maps.Keys(w.payments)) {
			if p := w.payments[id]; p.Captured > p.Refunded+100 {
				p.Captured += rapid.SampledFrom([]int64{-100, 100}).Draw(w.t, "correction")
				w.state("payment", id, &facts.PaymentCorrected{PaymentID: id, CorrectedCaptured: eurF(p.Captured)})
				w.stranger = true
				return
			}
		}
	}
}

// kept is what the customer has of the order in the end, in money.
func (w *world) kept() int64 {
	have := map[string]int32{}
	for _, p := range w.parcels {
		if p.State == delivered {
			for line, n := range p.Lines {
				have[line] += n
			}
		}
	}
	var sum int64
	some := false
	for _, line := range w.order.Lines {
		n := min(line.Quantity, have[line.LineID])
		some = some || n > 0
		sum += int64(n) * line.UnitPrice.Amount
	}
	if some {
		sum += w.order.Fee.Amount
	}
	return sum
}

// kernel does in memory what platform/process does in a database.
type kernel struct {
	t       *rapid.T
	def     process.Definition[fulfilment]
	state   *fulfilment
	last    process.Plan
	issued  map[string]bool
	sent    []sentCommand // without a definite outcome
	timers  []string
	known   map[string]bool // timers ever set
	fresh   []string        // steps issued by the last advance
	wire    []proto.Message // copies that are still on their way
	history []string
}

type sentCommand struct {
	process.Command
	withdrawn bool
}

func (k *kernel) advance() {
	k.last, k.fresh = k.def.Next(k.state), nil
	for _, c := range k.last.Commands {
		if !k.issued[c.Step] {
			k.issued[c.Step] = true
			k.fresh = append(k.fresh, c.Step)
			k.sent = append(k.sent, sentCommand{Command: c})
		}
	}
	k.timers = slices.DeleteFunc(k.timers, func(name string) bool {
		return !slices.ContainsFunc(k.last.Timers, func(t process.Timer) bool { return t.Name == name })
	})
	for _, t := range k.last.Timers {
		if !k.known[t.Name] {
			k.known[t.Name] = true
			k.timers = append(k.timers, t.Name)
		}
	}
	for i := range k.sent {
		k.sent[i].withdrawn = k.sent[i].withdrawn || slices.Contains(k.last.Withdrawn, k.sent[i].Step)
	}
	if k.state.Order.State == cancelled {
		k.inDoubt()
	}
	if (k.last.Attention == "") != (k.last.Concern.Reason == "") {
		k.t.Errorf("a person is needed for %q, and others are told %+v", k.last.Attention, k.last.Concern)
	}
	k.note("  state %s, attention %q, ended %v", k.state.Order.State, k.last.Attention, k.last.Ended)
}

// inDoubt checks that what may still take effect on a cancelled order is
// withdrawn, and that nothing of it is compensated before it is definite.
func (k *kernel) inDoubt() {
	for _, c := range k.sent {
		kind, rest, _ := strings.Cut(c.Step, "/")
		_, payment, _ := strings.Cut(rest, "/")
		effect := false // a fact told of it
		switch kind {
		case "capture":
			effect = k.state.Got[rest]
			for _, other := range k.sent {
				if other.Step == "void/"+payment && !effect && slices.Contains(k.fresh, other.Step) {
					k.t.Errorf("%s while %s is in doubt\n%s", other.Step, c.Step, k.story())
				}
			}
		case "authorize":
			for _, p := range k.state.Payments {
				effect = effect || p.Step == c.Step && p.State != asked
			}
		case "plan":
			for _, p := range k.state.Shipments {
				effect = effect || p.Step == c.Step && p.State != asked
			}
		default:
			continue
		}
		if !effect && !c.withdrawn {
			k.t.Errorf("%s may still take effect on a cancelled order\n%s", c.Step, k.story())
		}
	}
}

func (k *kernel) note(format string, args ...any) {
	k.history = append(k.history, fmt.Sprintf(format, args...))
}

// crash loses whatever is not in the database.
func (k *kernel) crash(t *rapid.T) {
	text, err := json.Marshal(k.state)
	if err != nil {
		t.Fatal(err)
	}
	k.state = &fulfilment{}
	if err := json.Unmarshal(text, k.state); err != nil {
		t.Fatal(err)
	}
}

func (k *kernel) story() string { return strings.Join(k.history, "\n") }
