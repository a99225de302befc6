package history

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Bare is a history of one order in which every fact there is happens once and
// nothing that may be absent is given: no text, no date, no line, no amount.
func Bare(id string) []event.Fact {
	var all []event.Fact
	for typ, names := range map[string][]string{
		"order":    {"OrderPlaced", "OrderAmended", "OrderHeld", "OrderReleased", "OrderConfirmed", "OrderNeedsAttention", "OrderAttentionSettled", "OrderCancelled", "OrderCompleted"},
		"payment":  {"PaymentRequested", "PaymentAuthorized", "PaymentDeclined", "PaymentVoided", "PaymentCaptured", "PaymentRefunded", "PaymentCorrected"},
		"shipment": {"ShipmentPlanned", "ShipmentDispatched", "ShipmentScanned", "ShipmentDelayed", "ShipmentStalled", "ShipmentDelivered", "ShipmentLost", "ShipmentReturned", "ShipmentCancelled"},
	} {
		a := &Aggregate{Order: id, Type: typ, ID: id + "-" + typ}
		for _, name := range names {
			a.Add(Dawn, facts.New(name))
		}
		all = append(all, a.Facts...)
	}
	return all
}
