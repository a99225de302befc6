package order

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidemark-dev/tidemark/platform/process"
)

// trouble is one thing that a person ought to look at.
type trouble struct {
	process.Concern
	text string
}

// Reasons why a person is needed, as facts.OrderNeedsAttention says them.
const (
	stepRefused   = "STEP_REFUSED"
	heldTooLong   = "HELD_TOO_LONG"
	notDispatched = "NOT_DISPATCHED"
	notDelivered  = "NOT_DELIVERED"
	recall        = "RECALL"
	notPlanned    = "NOT_PLANNED"
	goodsMissing  = "GOODS_MISSING"
	arrivedLate   = "ARRIVED_AFTER_REFUND"
	moneyShort    = "MONEY_SHORT"
	paymentLost   = "PAYMENT_LOST"
)

// remedies say what a person can do, by the reason why one is needed.
var remedies = map[string]string{
	stepRefused:     "tidemark process retry sends the step again, tidemark process force settles it by your word",
	heldTooLong:     "tidemark order release goes on with it, tidemark order cancel undoes it",
	notDispatched:   "it goes on once the warehouse dispatches the parcel, or somebody cancels the order",
	notDelivered:    "tidemark shipment deliver, lose or return says what became of the parcel",
	recall:          "the money is given back; the parcel must come back: tidemark shipment return says so",
	notPlanned:      "tidemark process retry asks for the parcel again, tidemark order cancel undoes the order",
	goodsMissing:    "tidemark shipment plan sends the same lines in another parcel, tidemark order cancel undoes the order",
	arrivedLate:     "the customer has goods that were paid back: ask for them, or leave it at that",
	moneyShort:      "collect the rest outside, or leave it at that",
	paymentLost:     "collect what is missing outside: nothing more is asked for",
	process.InDoubt: "compare the order with what its services say: tidemark process show",
}

// attention is what a person ought to look at: steps that were refused and are
// still wanted, deadlines that passed, and what no rule settles. The first of
// them is what others are told.
func (p *planner) attention() (string, process.Concern) {
	var all []trouble
	say := func(reason, step, format string, args ...any) {
		all = append(all, trouble{process.Concern{Reason: reason, Step: step}, fmt.Sprintf(format, args...)})
	}
	for _, c := range p.Commands {
		if reason, ok := p.Refused[c.Step]; ok {
			say(stepRefused, c.Step, "step %s was refused: %s", c.Step, reason)
		}
	}
	if p.Order.Held && p.Fired[fmt.Sprint("held/", p.Order.Holds)] {
		say(heldTooLong, "", "held for longer than %s", p.heldFor)
	}
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		part := p.Shipments[id]
		switch {
		case part.State == planned && p.Fired["dispatch/"+id]:
			say(notDispatched, "", "parcel %s from %s was not dispatched within %s", id, part.Warehouse, p.dispatchWithin)
		case part.State == gone && p.Order.State == cancelled:
			say(recall, "", "parcel %s is on its way although the order is cancelled: recall it at the carrier", id)
		case part.State == gone && p.Fired["deliver/"+id]:
			say(notDelivered, "", "parcel %s did not arrive within %s", id, p.deliverWithin)
		case part.State == never && p.Order.State == confirmed:
			say(notPlanned, part.Step, "parcel from %s could not be planned: %s", part.Warehouse, p.Refused[part.Step])
		case part.State == cancelled && p.Order.State == confirmed && !p.spare(part):
			say(goodsMissing, "", "parcel %s from %s was cancelled: its goods are not on their way", id, part.Warehouse)
		case part.State == delivered && part.Fate == refunded:
			say(arrivedLate, "", "parcel %s arrived after it was refunded", id)
		}
	}
	p.moneyTrouble(say)
	if len(all) == 0 {
		return "", process.Concern{}
	}
	slices.SortStableFunc(all, func(a, b trouble) int { return cmp.Compare(a.text, b.text) })
	var texts []string
	for _, t := range slices.Compact(all) {
		texts = append(texts, t.text)
	}
	return strings.Join(texts, "; "), all[0].Concern
}
