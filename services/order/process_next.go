package order

import (
	"maps"
	"slices"

	"github.com/tidemark-dev/tidemark/platform/process"
)

// planner works out what ought to hold in one state under one policy.
type planner struct {
	*fulfilment
	policy
	process.Plan
}

// next says what ought to have been commanded by now.
func next(s *fulfilment, rules policy) process.Plan {
	p := &planner{fulfilment: s, policy: rules}
	if !s.Order.Managed {
		p.Ended = s.Order.State == completed || s.Order.State == cancelled
		return p.Plan
	}
	p.decideFates()
	p.releaseOldPlans()
	switch s.Order.State {
	case placed, confirmed:
		if !s.Order.Held { // what left the house is owed, held or not
			p.forward()
		}
		p.collect()
		p.giveBack()
		p.recallSpares()
		p.complete()
	case cancelled:
		p.undo()
	case completed:
		p.collect()
		p.giveBack()
		p.releaseRest()
	}
	p.setTimers()
	p.Attention, p.Concern = p.attention()
	p.Ended = p.ended()
	return p.Plan
}

func (p *planner) add(c process.Command) { p.Commands = append(p.Commands, c) }

// forward authorises the plan in sequence, confirms, and plans parcels.
func (p *planner) forward() {
	for entry := range p.Order.Plan {
		switch p.entry(entry) {
		case waiting:
			return
		case failed:
			if !p.dispatched() {
				p.add(p.cancel("PAYMENT_DECLINED"))
				return
			}
		}
	}
	if p.Order.State == placed {
		p.add(p.confirm())
		return
	}
	p.planParcels()
	p.movePromise()
}

type progress int

const (
	ready progress = iota
	waiting
	failed
)

// standing is how it stands with one planned payment.
type standing struct {
	progress progress
	id       string // the payment that is dealt with
	round    int
	left     int64 // to be asked for
	known    bool  // it was asked for
	lapsing  bool  // it is to be given back before it lapses
}

// standing looks at the payments that were asked for one entry of the plan, one
// after the other.
func (p *planner) standing(entry int) standing {
	at := standing{left: p.Order.Plan[entry].Amount.Amount}
	for at.round = range max(1, p.authorizeRounds) {
		at.id = p.paymentID(p.Order.PlanNumber, entry, at.round)
		var part paymentPart
		part, at.known = p.Payments[at.id]
		at.progress = waiting
		switch part.State {
		case requested:
			if p.Fired["answer/"+at.id] {
				at.progress = failed
			}
			return at
		case authorized:
			if at.lapsing = p.Fired["expiry/"+at.id] && part.open() > 0; !at.lapsing {
				at.progress = ready
			}
			return at
		case voided:
			if at.left -= part.Captured; at.left <= 0 {
				at.progress = ready
				return at
			}
		case declined:
			if !part.Again {
				at.progress = failed
				return at
			}
		case never:
			at.progress = failed
			return at
		default: // not asked for, or no fact has told of it
			return at
		}
	}
	at.progress = failed
	return at
}

// entry sees to one planned payment: it is asked for, and asked for anew while
// that is worth it.
func (p *planner) entry(entry int) progress {
	at := p.standing(entry)
	switch part := p.Payments[at.id]; {
	case at.progress != waiting:
	case at.lapsing && !p.collecting(at.id):
		p.add(p.void(at.id))
	case !at.known:
		p.payment(at.id, func(part *paymentPart) {
			part.State, part.Asked, part.Plan = asked, at.left, p.Order.PlanNumber
			part.Step, part.Currency = authorizeStep(p.Order.PlanNumber, entry, at.round), p.Order.Plan[entry].Amount.Currency
		})
		p.add(p.authorize(at.id, p.Order.Plan[entry], p.Payments[at.id]))
	case part.State == asked:
		p.add(p.authorize(at.id, p.Order.Plan[entry], part))
	}
	return at.progress
}

// planParcels plans a parcel per warehouse for what no parcel covers.
func (p *planner) planParcels() {
	left := p.uncovered()
	for _, warehouse := range p.warehouses() {
		lines := map[string]int32{}
		for _, line := range p.linesOf(warehouse) {
			if left[line.LineID] > 0 {
				lines[line.LineID] = left[line.LineID]
			}
		}
		if len(lines) == 0 {
			continue
		}
		number := 1
		for _, part := range p.Shipments {
			if part.Warehouse == warehouse {
				number = max(number, part.Number+1)
			}
		}
		id := p.shipmentID(warehouse, number)
		step := planStep(warehouse, number)
		p.shipment(id, func(part *shipmentPart) {
			part.State, part.Warehouse, part.Lines, part.Number, part.Step = asked, warehouse, lines, number, step
		})
	}
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		if part := p.Shipments[id]; part.State == asked {
			p.add(p.plan(id, part))
		}
	}
}

// uncovered is how much of each line no parcel carries, brought, or will bring,
// and nobody was given the money back for.
func (p *planner) uncovered() map[string]int32 {
	left := map[string]int32{}
	for _, line := range p.Order.Lines {
		left[line.LineID] += line.Quantity
	}
	for _, part := range p.Shipments {
		if part.covers() {
			for id, n := range p.contents(part) {
				left[id] -= n
			}
		}
	}
	return left
}

// covers reports whether a parcel's goods need no other parcel.
func (part shipmentPart) covers() bool {
	return part.State != never && (part.Fate != reship || part.State == delivered)
}

// contents are the lines of a parcel. Version 1 did not note them.
func (p *planner) contents(part shipmentPart) map[string]int32 {
	if part.Lines != nil {
		return part.Lines
	}
	lines := map[string]int32{}
	for _, line := range p.linesOf(part.Warehouse) {
		lines[line.LineID] = line.Quantity
	}
	return lines
}

// decideFates decides, once, about every parcel that was lost or came back.
func (p *planner) decideFates() {
	if !p.refundLosses || p.Order.State == cancelled {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		part := p.Shipments[id]
		cameBack := part.State == returned && part.Arrived // also one that was sent again, found, and sent back
		if part.State != lost && part.State != returned || part.Fate == refunded || part.Fate == reship && !cameBack {
			continue
		}
		fate := refunded
		if !part.Arrived && p.Order.State == confirmed && p.resent(part.Warehouse) < p.reships {
			fate = reship
		}
		p.shipment(id, func(part *shipmentPart) { part.Fate = fate })
	}
}

// resent counts the parcels of a warehouse whose goods were sent again.
func (p *planner) resent(warehouse string) (n int) {
	for _, part := range p.Shipments {
		if part.Warehouse == warehouse && part.Fate == reship {
			n++
		}
	}
	return n
}

// recallSpares cancels a parcel whose goods are not missing any more: what was
// lost has been found.
func (p *planner) recallSpares() {
	left := p.uncovered()
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		part := p.Shipments[id]
		if part.State != planned || part.Number < 2 {
			continue
		}
		spare := len(part.Lines) > 0
		for line, n := range part.Lines {
			spare = spare && left[line]+n <= 0
		}
		if spare {
			p.add(p.cancelShipment(id))
		}
	}
}

// complete ends the order once everything is settled; if nothing arrived at
// all, by cancelling it.
func (p *planner) complete() {
	if p.Order.State != confirmed || p.Order.Held || !p.settledGoods() || !p.settledMoney() {
		return
	}
	arrived := len(p.Order.Lines) == 0
	for _, part := range p.Shipments {
		arrived = arrived || part.State == delivered && part.Fate != refunded || part.Arrived
	}
	if arrived {
		p.add(p.completeOrder())
		return
	}
	p.add(p.cancel("UNAVAILABLE"))
}

// settledGoods reports whether every line arrived or is not owed any more.
func (p *planner) settledGoods() bool {
	for _, n := range p.uncovered() {
		if n > 0 {
			return false
		}
	}
	for _, part := range p.Shipments {
		switch part.State {
		case asked, planned, gone:
			return false
		case lost, returned, cancelled:
			if part.Fate == "" && !(part.State == cancelled && p.spare(part)) {
				return false
			}
		}
	}
	return true
}

// spare reports whether a cancelled parcel was one too many.
func (p *planner) spare(part shipmentPart) bool {
	left := p.uncovered()
	for line, n := range p.contents(part) {
		if left[line]+n > 0 {
			return false
		}
	}
	return true
}

// dispatched reports whether any parcel left the house.
func (s *fulfilment) dispatched() bool {
	for _, part := range s.Shipments {
		switch part.State {
		case gone, delivered, lost, returned:
			return true
		}
	}
	return false
}

// ended reports whether the order is in a final state with nothing left to do.
func (p *planner) ended() bool {
	if p.Order.State != completed && p.Order.State != cancelled || !p.settledMoney() {
		return false
	}
	for _, part := range p.Payments {
		if part.State == asked || part.State == requested || part.open() > 0 {
			return false
		}
	}
	for _, part := range p.Shipments {
		if p.Order.State == cancelled && (part.State == asked || part.State == planned) {
			return false
		}
	}
	return true
}
