package order

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// TestFulfilmentEndsWell runs the process against the world with every choice
// drawn: which fact arrives next, which command is executed next, replies that
// are lost, requests that arrive late, timers that fire, crashes, payments
// declined, parcels lost, found and sent back, the customer changing or
// cancelling, holds, corrections. Whatever happens, the order ends or a person
// is told, money is conserved, and nothing of a cancelled order is left alive.
func TestFulfilmentEndsWell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			t: t, payments: map[string]*paymentPart{}, parcels: map[string]*shipmentPart{}, effects: map[string]int{},
			blocked: map[string]bool{}, queues: map[string][]event.Fact{}, versions: map[string]int64{},
			order: orderPart{ID: "o", State: placed, Fee: eurF(500)},
		}
		mayDecline := rapid.IntRange(0, 2).Draw(t, "may decline") == 0
		mayRefuse := rapid.IntRange(0, 2).Draw(t, "may refuse captures") == 0
		w.refuse = func() bool { return mayRefuse && rapid.Bool().Draw(t, "refuse") }
		w.now = time.Unix(1_700_000_000, 0).UTC()
		if rapid.Bool().Draw(t, "promised") {
			at := w.now.Add(96 * hour)
			w.order.PromisedAt = &at
		}
		w.decline = func() bool { return mayDecline && rapid.Bool().Draw(t, "decline") }
		lines, total := drawLines(t)
		total += 500
		w.order.Total, w.order.Lines = eurF(total), lines
		w.state("order", "o", &facts.OrderPlaced{
			CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Lines: lines, Total: eurF(total), ShippingFee: eurF(500),
			PaymentPlan: drawPlan(t, total), PromisedAt: w.order.PromisedAt,
		})
		k := &kernel{t: t, def: fulfilmentProcess(2), state: &fulfilment{}, issued: map[string]bool{}, known: map[string]bool{}}
		live(t, w, k, total)
		w.check(k, total)
		if t.Failed() {
			t.Log(k.story())
		}
	})
}

// live lets things happen until nothing can.
func live(t *rapid.T, w *world, k *kernel, total int64) {
	pick := func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) }
	surprises := rapid.IntRange(0, 4).Draw(t, "surprises")
	mishaps := rapid.Bool().Draw(t, "mishaps")
	jumps := max(0, rapid.IntRange(-3, 4).Draw(t, "jumps of the clock"))
	for steps := 0; ; steps++ {
		if steps > 3000 {
			t.Fatalf("no end: %+v\n%s", k.state, k.story())
		}
		var queues []string
		for _, key := range slices.Sorted(maps.Keys(w.queues)) {
			if len(w.queues[key]) > 0 {
				queues = append(queues, key)
			}
		}
		if len(queues)+len(k.sent)+len(k.wire) == 0 {
			w.quiet()
			switch {
			case w.provider():
			case w.order.Held:
				w.order.Held = false
				w.state("order", "o", &facts.OrderReleased{})
			case w.carrier(mishaps && steps < 500):
			case w.person(k):
			default:
				return
			}
			continue
		}
		switch choice := pick(10, "do"); {
		case choice <= 2 && len(queues) > 0:
			key := queues[pick(len(queues), "fact")]
			f := w.queues[key][0]
			w.queues[key] = w.queues[key][1:]
			k.note("fact %s of %s", f.Body.FactName(), key)
			k.def.On(k.state, f)
			k.advance()
		case choice <= 5 && len(k.sent) > 0:
			k.dispatch(t, w, pick(len(k.sent), "command"))
		case choice == 6 && len(k.wire) > 0:
			i := pick(len(k.wire), "late request")
			late := k.wire[i]
			k.wire = slices.Delete(k.wire, i, i+1)
			k.note("late %T, refused %v", late, w.take(late))
		case choice == 7 && len(k.timers) > 0 && jumps > 0:
			jumps--
			i := pick(len(k.timers), "timer")
			name := k.timers[i]
			k.timers = slices.Delete(k.timers, i, i+1)
			k.note("timer %s", name)
			k.def.Fired(k.state, name)
			k.advance()
		case choice == 8:
			k.crash(t)
			w.provider()
		case surprises > 0:
			surprises--
			w.surprise(total)
		}
	}
}

// dispatch sends one command: the reply arrives, or is lost, or the request
// itself is late. A withdrawn one is made definite.
func (k *kernel) dispatch(t *rapid.T, w *world, i int) {
	c := k.sent[i]
	settle := func(outcome process.Outcome) {
		k.def.Settled(k.state, process.Settlement{Step: c.Step, Outcome: outcome, Reason: "so"})
		k.advance()
	}
	if c.withdrawn {
		k.sent = slices.Delete(k.sent, i, i+1)
		if id := requestID(c.Request); w.effects[id] == 0 {
			w.blocked[id] = true
			k.note("withdrawn %s", c.Step)
			settle(process.Withdrawn)
		}
		return
	}
	switch rapid.IntRange(0, 4).Draw(t, "network") {
	case 0: // the request is late
		k.wire = append(k.wire, c.Request)
	case 1: // the reply is lost
		k.note("send %s, reply lost, refused %v", c.Step, w.take(c.Request))
	default:
		k.sent = slices.Delete(k.sent, i, i+1)
		refused := w.take(c.Request)
		k.note("send %s, refused %v", c.Step, refused)
		if refused {
			settle(process.Refused)
		}
	}
}

// quiet is called when nothing is on its way: nothing of a cancelled order may
// wait for a warehouse or hold money.
func (w *world) quiet() {
	if w.order.State != cancelled {
		return
	}
	for id, p := range w.parcels {
		if p.State == planned {
			w.t.Errorf("cancelled, but parcel %s is still planned", id)
		}
	}
	for id, p := range w.payments {
		if p.open() > 0 || p.State == requested {
			w.t.Errorf("cancelled, but payment %s is still held: %+v", id, p)
		}
	}
}

// TestAConfirmationSaysWhatItHasSeen: one amendment more than that, and the
// order refuses it.
func TestAConfirmationSaysWhatItHasSeen(t *testing.T) {
	def, s := fulfilmentProcess(2), &fulfilment{}
	for _, body := range []event.Body{
		&facts.OrderPlaced{CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Total: eurF(0)},
		&facts.OrderAmended{Total: eurF(0)}, &facts.OrderAmended{Total: eurF(0)},
	} {
		def.On(s, event.Fact{Envelope: event.Envelope{Key: "o"}, Body: body})
	}
	for _, c := range def.Next(s).Commands {
		if r, ok := c.Request.(*orderv1.ConfirmOrderRequest); ok {
			if r.AmendmentsSeen == nil || r.GetAmendmentsSeen() != 2 || c.Step != "confirm/3/0" {
				t.Errorf("%s: %v", c.Step, r)
			}
			return
		}
	}
	t.Error("no confirmation")
}

// TestThePromiseMovesByWhatWeAreTheCauseOf: holds and what is sent again move it,
// little things do not, and somebody else's promise is where it starts from anew.
func TestThePromiseMovesByWhatWeAreTheCauseOf(t *testing.T) {
	day1 := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	due, later := day1.Add(4*day), day1.Add(9*day)
	line := facts.OrderLine{LineID: "1", Quantity: 1, UnitPrice: eurF(100), Warehouse: "north"}
	def, s := fulfilmentProcess(2), &fulfilment{}
	moved := func() *time.Time {
		for _, c := range def.Next(s).Commands {
			if r, ok := c.Request.(*orderv1.AmendOrderRequest); ok {
				at := r.GetPromisedAt().AsTime()
				return &at
			}
		}
		return nil
	}
	parcel := func(number int) string { return s.shipmentID("north", number) }
	for _, step := range []struct {
		after time.Duration
		body  event.Body
		want  *time.Time
	}{
		{0, &facts.OrderPlaced{CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Lines: []facts.OrderLine{line}, Total: eurF(100), PromisedAt: &due}, nil},
		{0, &facts.OrderConfirmed{}, nil},
		{0, &facts.OrderHeld{}, nil},
		{20 * time.Minute, &facts.OrderReleased{}, nil},
		{hour, &facts.OrderHeld{}, nil},
		{3 * hour, &facts.OrderReleased{}, new(due.Add(2*hour + 20*time.Minute))},
		{4 * hour, &facts.ShipmentLost{ShipmentID: "north 1"}, new(due.Add(3*day + 2*hour + 20*time.Minute))},
		{5 * hour, &facts.OrderAmended{Total: eurF(100), PromisedAt: &later, Actor: "operator:x"}, new(later.Add(3 * day))},
	} {
		switch b := step.body.(type) {
		case *facts.ShipmentLost:
			b.ShipmentID = parcel(1)
		}
		def.On(s, event.Fact{Envelope: event.Envelope{Key: "o", OccurredAt: day1.Add(step.after)}, Body: step.body})
		if got := moved(); (got == nil) != (step.want == nil) || got != nil && !got.Equal(*step.want) {
			t.Errorf("after %T the promise moves to %v, want %v", step.body, got, step.want)
		}
	}
}

func (w *world) check(k *kernel, total int64) {
	var captured, back int64
	for id, p := range w.payments {
		captured, back = captured+p.Captured, back+p.Refunded
		if p.Captured < 0 || p.Refunded > p.Captured || p.Captured > p.Asked+100 {
			w.t.Errorf("payment %s: %+v", id, p)
		}
		if (w.order.State == cancelled || w.order.State == completed) && (p.open() > 0 || p.State == requested) {
			w.t.Errorf("payment %s of a %s order is alive: %+v", id, w.order.State, p)
		}
	}
	for request, n := range w.effects {
		if n != 1 {
			w.t.Errorf("request %s took effect %d times", request, n)
		}
	}
	person := k.last.Attention != ""
	switch w.order.State {
	case completed:
		if want := max(0, w.kept()-k.state.Waived); captured-back != want && !person {
			w.t.Errorf("completed: collected %d, gave back %d, but %d of %d were kept and %d written off", captured, back, w.kept(), total, k.state.Waived)
		}

	case cancelled:
		if captured != back {
			w.t.Errorf("cancelled: collected %d, gave back %d", captured, back)
		}
	default:
		if !person {
			w.t.Errorf("the order stays %s and nobody is told: %+v", w.order.State, k.state)
		}
	}
	if (w.order.State == completed || w.order.State == cancelled) && !k.last.Ended && !person {
		w.t.Errorf("the process does not know that it ended, and nobody is told: %+v", k.state)
	}
}

func drawLines(t *rapid.T) (lines []facts.OrderLine, total int64) {
	for i := range rapid.IntRange(1, 4).Draw(t, "lines") {
		line := facts.OrderLine{
			LineID: fmt.Sprint(i), SKU: "sku", Quantity: rapid.Int32Range(1, 3).Draw(t, "quantity"),
			UnitPrice: facts.Money{Amount: rapid.Int64Range(1, 5000).Draw(t, "price"), Currency: "EUR"},
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
