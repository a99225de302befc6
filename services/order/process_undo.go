package order

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tidemark-dev/tidemark/platform/process"
)

// undo leaves nothing of a cancelled order alive. What may still take effect is
// withdrawn and made definite first; a payment is compensated once nothing of it
// is in doubt.
func (p *planner) undo() {
	p.withdrawCaptures()
	for _, id := range slices.Sorted(maps.Keys(p.Payments)) {
		switch part := p.Payments[id]; {
		case part.State == asked:
			p.Withdrawn = append(p.Withdrawn, part.Step)
		case p.collecting(id):
		case part.State == requested || part.open() > 0:
			p.add(p.void(id))
		}
	}
	p.giveBack()
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		switch part := p.Shipments[id]; part.State {
		case asked:
			p.Withdrawn = append(p.Withdrawn, part.Step)
		case planned:
			p.add(p.cancelShipment(id))
		}
	}
}

func (p *planner) withdrawCaptures() {
	for _, shipment := range slices.Sorted(maps.Keys(p.Taken)) {
		for _, payment := range slices.Sorted(maps.Keys(p.Taken[shipment])) {
			if step := captureStep(shipment, payment); !p.Got[shipment+"/"+payment] && !p.Forced[step] {
				p.Withdrawn = append(p.Withdrawn, step)
			}
		}
	}
}

// releaseOldPlans releases payments of plans that an amendment replaced.
func (p *planner) releaseOldPlans() {
	if p.Order.State == cancelled {
		return // undo releases all
	}
	for number := 1; number < p.Order.PlanNumber; number++ {
		for entry := 0; ; entry++ {
			if _, ok := p.Payments[p.paymentID(number, entry, 0)]; !ok {
				break
			}
			for round := range max(1, p.authorizeRounds) {
				id := p.paymentID(number, entry, round)
				switch part := p.Payments[id]; {
				case part.State == asked:
					p.Withdrawn = append(p.Withdrawn, part.Step)
				case part.State == requested || part.open() > 0:
					p.add(p.void(id))
				}
			}
		}
	}
}

// setTimers sets the deadlines of the policy. A timer is taken back when its
// condition does not hold any more.
func (p *planner) setTimers() {
	if p.Order.State != placed && p.Order.State != confirmed {
		return
	}
	set := func(t process.Timer) {
		if t.After > 0 || !t.At.IsZero() {
			p.Timers = append(p.Timers, t)
		}
	}
	if p.Order.Held {
		set(process.Timer{Name: fmt.Sprint("held/", p.Order.Holds), After: p.heldFor})
	}
	for _, id := range slices.Sorted(maps.Keys(p.Payments)) {
		part := p.Payments[id]
		if part.State == requested {
			set(process.Timer{Name: "answer/" + id, After: p.answer(part.Method)})
		}
		if part.open() > 0 && part.ExpiresAt != nil && p.reauthorizeBefore > 0 {
			set(process.Timer{Name: "expiry/" + id, At: part.ExpiresAt.Add(-p.reauthorizeBefore)})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Shipments)) {
		switch p.Shipments[id].State {
		case planned:
			set(process.Timer{Name: "dispatch/" + id, After: p.dispatchWithin})
		case gone:
			set(process.Timer{Name: "deliver/" + id, After: p.deliverWithin})
		}
	}
}

// movePromise moves the promise of a confirmed order by what we are the cause of.
func (p *planner) movePromise() {
	at := p.promise()
	if at != nil && p.Order.PromisedAt != nil && at.After(*p.Order.PromisedAt) {
		p.add(p.amendPromise(*at))
	}
}
