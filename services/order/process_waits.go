package order

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tidemark-dev/tidemark/platform/process"
)

// waits says, for people, what an order waits for and what happens then.
func waits(s *fulfilment) []process.Wait {
	if !s.Order.Managed {
		return []process.Wait{{For: "whoever fulfils the order: it is EXTERNAL, and only watched", Next: "what they report is recorded"}}
	}
	open := s.Order.State == placed || s.Order.State == confirmed
	if s.Order.Held && open {
		return []process.Wait{{
			For: "somebody to release the order: it is held", Next: "it goes on where it stood",
			Timer: fmt.Sprint("held/", s.Order.Holds),
		}}
	}
	var all []process.Wait
	wait := func(next, timer, format string, args ...any) {
		all = append(all, process.Wait{For: fmt.Sprintf(format, args...), Next: next, Timer: timer})
	}
	for _, id := range slices.Sorted(maps.Keys(s.Payments)) {
		part := s.Payments[id]
		switch {
		case part.State == requested && s.Order.State == placed:
			wait("the next payment is asked for, or the order is confirmed", "answer/"+id,
				"the provider to answer about %d %s by %s (payment %s)", part.Asked, part.Currency, part.Method, id)
		case part.State == requested:
			wait("it is released if it is approved", "answer/"+id, "the provider to answer about payment %s", id)
		case part.open() > 0 && !open:
			wait("nothing of the order is left alive", "", "%d %s of payment %s to be released", part.open(), part.Currency, id)
		}
		if s.Refunds[id] > part.Refunded+part.ByHand {
			wait("the money is settled", "", "%d %s of payment %s to be given back", s.Refunds[id]-part.Refunded-part.ByHand, part.Currency, id)
		}
	}
	p := &planner{fulfilment: s}
	for _, id := range slices.Sorted(maps.Keys(s.Shipments)) {
		part := s.Shipments[id]
		switch {
		case part.State == cancelled && s.Order.State == confirmed && !p.spare(part):
			wait("the order is completed once they arrived, or cancelled", "", "the goods of parcel %s from %s: it was cancelled, and no other brings them",
				id, part.Warehouse)
		case part.State == planned && open:
			wait("what it is worth is collected", "dispatch/"+id, "the warehouse %s to dispatch parcel %s", part.Warehouse, id)
		case part.State == planned:
			wait("nothing of the order is left alive", "", "parcel %s to be cancelled at the warehouse %s", id, part.Warehouse)
		case part.State == gone && open:
			wait("the order is completed once everything arrived", "deliver/"+id, "the carrier to deliver parcel %s from %s", id, part.Warehouse)
		}
	}
	for _, shipment := range slices.Sorted(maps.Keys(s.Taken)) {
		for _, payment := range slices.Sorted(maps.Keys(s.Taken[shipment])) {
			if !s.Got[shipment+"/"+payment] && !s.Forced[captureStep(shipment, payment)] && open {
				wait("the order is completed once everything arrived", "", "%d to be collected from payment %s for parcel %s",
					s.Taken[shipment][payment], payment, shipment)
			}
		}
	}
	if len(all) == 0 && open {
		next := "it is confirmed"
		if s.Order.State == confirmed {
			next = "parcels are planned, or it is completed"
		}
		wait(next, "", "the services to take its next step")
	}
	return all
}
