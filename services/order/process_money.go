package order

import (
	"maps"
	"slices"
)

// collect decides, once per parcel that left, what it is worth: its goods that
// were not billed before, and the fee with the first one. It takes that from the
// payments of the plan, in their order, as far as they hold it by now.
func (p *planner) collect() {
	if p.Order.State != completed || len(p.Bills) == 0 { // an order that version 1 completed has none
		p.bill()
	}
	for _, shipment := range slices.Sorted(maps.Keys(p.Bills)) {
		due := p.Bills[shipment]
		for payment, part := range p.Taken[shipment] {
			if p.Refused[captureStep(shipment, payment)] != "" && p.Payments[payment].State == voided {
				delete(p.Taken[shipment], payment) // it lapsed first; it is taken from what replaces it
				continue
			}
			due -= part
		}
		if p.Order.State == confirmed {
			p.take(shipment, due)
		}
		for _, payment := range slices.Sorted(maps.Keys(p.Taken[shipment])) {
			p.add(p.capture(shipment, payment, p.Taken[shipment][payment]))
		}
	}
}

// bill notes what parcels that left are worth.
func (p *planner) bill() {
	billed := p.billed()
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		part := p.Shipments[id]
		if _, done := p.Bills[id]; done || part.State != gone && part.State != delivered && part.State != lost && part.State != returned {
			continue
		}
		worth := int64(0)
		if len(p.Bills) == 0 {
			worth = p.Order.Fee.Amount
		}
		for _, line := range p.Order.Lines {
			n := min(p.contents(part)[line.LineID], line.Quantity-billed[line.LineID])
			if n > 0 {
				billed[line.LineID] += n
				worth += int64(n) * line.UnitPrice.Amount
			}
		}
		if p.Taken[id] != nil { // by version 1, which noted no bills
			worth = 0
			for _, part := range p.Taken[id] {
				worth += part
			}
		}
		note(&p.Bills, id, worth)
		if p.Taken[id] == nil {
			note(&p.Taken, id, map[string]int64{})
		}
	}
}

// billed is how much of each line was billed, or more.
func (p *planner) billed() map[string]int32 {
	billed := map[string]int32{}
	for id := range p.Bills {
		for line, n := range p.contents(p.Shipments[id]) {
			billed[line] += n
		}
	}
	return billed
}

// take spreads an amount over the payments of the plan, in their order.
func (p *planner) take(shipment string, amount int64) {
	for entry := range p.Order.Plan {
		for round := range max(1, p.authorizeRounds) {
			id := p.paymentID(p.Order.PlanNumber, entry, round)
			held := p.Payments[id]
			if _, before := p.Taken[shipment][id]; before || held.State != authorized {
				continue
			}
			if part := min(amount, held.Asked-held.Voided-p.takenFrom(id)); part > 0 {
				p.Taken[shipment][id] = part
				amount -= part
			}
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

// collecting reports whether a capture of a payment is on its way.
func (s *fulfilment) collecting(payment string) bool {
	if len(s.Got) == 0 && s.takenFrom(payment) <= s.Payments[payment].Captured {
		return false // version 1 did not note which captures it got
	}
	for shipment, parts := range s.Taken {
		step := captureStep(shipment, payment)
		if _, ok := parts[payment]; ok && !s.Got[shipment+"/"+payment] && s.Refused[step] == "" && !s.Forced[step] {
			return true
		}
	}
	return false
}

// owed is what the customer is to have paid in the end, as far as it is known:
// the goods that left, without those that were lost or came back, and the fee
// unless nothing arrives. A cancelled order owes nothing.
func (p *planner) owed() int64 {
	if p.Order.State == cancelled || len(p.Bills) == 0 {
		return 0
	}
	var sum int64
	some := !p.anyRefunded()
	billed, coming := p.billed(), p.coming()
	for _, line := range p.Order.Lines {
		n := max(0, min(line.Quantity, billed[line.LineID], coming[line.LineID]))
		some = some || n > 0
		sum += int64(n) * line.UnitPrice.Amount
	}
	if some {
		sum += p.Order.Fee.Amount
	}
	return max(0, sum-p.Waived)
}

// coming is how much of each line arrived or will.
func (p *planner) coming() map[string]int32 {
	coming := map[string]int32{}
	for line, n := range p.uncovered() {
		coming[line] += max(0, n)
	}
	for _, part := range p.Shipments {
		if part.covers() && part.Fate != refunded && part.State != cancelled {
			for line, n := range p.contents(part) {
				coming[line] += n
			}
		}
	}
	return coming
}

func (p *planner) anyRefunded() bool {
	for _, part := range p.Shipments {
		if part.Fate == refunded {
			return true
		}
	}
	return false
}

// net is what was collected, and what of it is given back or decided to be.
func (p *planner) net() (collected, back int64) {
	for id, part := range p.Payments {
		collected += part.Captured
		back += max(p.Refunds[id], part.Refunded+part.ByHand)
	}
	return collected, back
}

// giveBack decides to refund what was collected beyond what is owed: for goods
// that were lost or came back, for a cancelled order, after a correction. The
// payment that was used last is refunded first.
func (p *planner) giveBack() {
	collected, back := p.net()
	excess := collected - back - p.owed()
	ids := slices.Sorted(maps.Keys(p.Payments))
	for _, id := range p.lastFirst(ids) {
		part := p.Payments[id]
		if p.collecting(id) {
			continue
		}
		decided := max(p.Refunds[id], part.Refunded+part.ByHand)
		more := min(excess, part.Captured-decided)
		if more <= 0 {
			continue
		}
		excess -= more
		if decided == part.Refunded+part.ByHand { // else the rest follows what is on its way
			note(&p.Refunds, id, decided+more)
		}
	}
	for _, id := range ids {
		part := p.Payments[id]
		if more := p.Refunds[id] - part.Refunded - part.ByHand; more > 0 {
			p.add(p.refund(id, more, p.Refunds[id], part))
		}
	}
}

// lastFirst sorts payments by their place in the plan, last first.
func (p *planner) lastFirst(ids []string) []string {
	place := map[string]int{}
	n := 0
	for number := 1; number <= p.Order.PlanNumber; number++ {
		for entry := range 50 {
			for round := range max(1, p.authorizeRounds) {
				n++
				id := p.paymentID(number, entry, round)
				if _, ok := p.Payments[id]; ok {
					place[id] = n
				}
			}
			if _, ok := p.Payments[p.paymentID(number, entry, 0)]; !ok {
				break
			}
		}
	}
	sorted := slices.Clone(ids)
	slices.SortStableFunc(sorted, func(a, b string) int { return place[b] - place[a] })
	return sorted
}

// settledMoney reports whether everything decided was collected and given back,
// and what is left is what is owed.
func (p *planner) settledMoney() bool {
	for id, part := range p.Payments {
		if p.collecting(id) || p.Refunds[id] > part.Refunded+part.ByHand {
			return false
		}
	}
	collected, back := p.net()
	return collected-back == p.owed()
}

// moneyTrouble says what no rule can put right.
func (p *planner) moneyTrouble(say func(reason, step, format string, args ...any)) {
	if p.Order.State == cancelled {
		return
	}
	for id := range p.Payments {
		if p.collecting(id) {
			return
		}
	}
	collected, back := p.net()
	if short := p.owed() - (collected - back); short > 0 && len(p.Bills) > 0 && !p.asking() {
		say(moneyShort, "", "%d %s less than owed were collected", short, p.Order.Total.Currency)
	}
	if p.Order.State == confirmed && p.dispatched() {
		for entry := range p.Order.Plan {
			if p.standing(entry).progress == failed {
				say(paymentLost, "", "payment %d of the plan cannot be obtained any more", entry+1)
			}
		}
	}
}

// asking reports whether a payment is being asked for anew; of an order that
// ended none is.
func (p *planner) asking() bool {
	if p.Order.State != placed && p.Order.State != confirmed {
		return false
	}
	for entry := range p.Order.Plan {
		if p.standing(entry).progress == waiting {
			return true
		}
	}
	return false
}

// releaseRest releases what a completed order does not need.
func (p *planner) releaseRest() {
	for _, id := range slices.Sorted(maps.Keys(p.Payments)) {
		switch part := p.Payments[id]; {
		case part.State == asked:
			p.Withdrawn = append(p.Withdrawn, part.Step)
		case (part.State == requested || part.open() > 0) && !p.collecting(id):
			p.add(p.void(id))
		}
	}
}
