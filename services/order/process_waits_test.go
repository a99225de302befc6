package order

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Somebody cancelled the only parcel of a confirmed order. Whoever asks is told
// that goods are missing and what can be done; another parcel with the same
// lines, planned by hand, is what settles it.
func TestGoodsThatAreMissingAreExplained(t *testing.T) {
	def, s := fulfilmentProcess(2), &fulfilment{}
	version := map[string]int64{}
	tell := func(typ, id string, body event.Body) {
		version[id]++
		def.On(s, event.Fact{Envelope: event.Envelope{Key: "o", Version: version[id], Aggregate: event.Aggregate{Type: typ, ID: id}}, Body: body})
	}
	lines := []facts.OrderLine{{LineID: "1", SKU: "mug", Quantity: 2, UnitPrice: eurF(1000), Warehouse: "north"}}
	tell("order", "o", &facts.OrderPlaced{CustomerID: "c", Fulfilment: facts.FulfilmentManaged, Lines: lines, Total: eurF(2000), ShippingFee: eurF(0)})
	tell("order", "o", &facts.OrderConfirmed{})
	def.Next(s)
	ids := slices.Collect(maps.Keys(s.Shipments))
	if len(ids) != 1 {
		t.Fatalf("%d parcels are asked for", len(ids))
	}
	parcel := []facts.ShipmentLine{{LineID: "1", SKU: "mug", Quantity: 2}}
	tell("shipment", ids[0], &facts.ShipmentPlanned{ShipmentID: ids[0], Warehouse: "north", Lines: parcel})
	tell("shipment", ids[0], &facts.ShipmentCancelled{ShipmentID: ids[0]})
	plan := def.Next(s)
	if plan.Concern.Reason != goodsMissing {
		t.Fatalf("concern %+v, attention %q", plan.Concern, plan.Attention)
	}
	told := waitsOut(process.Detail{Summary: process.Summary{Attention: plan.Attention}, Concern: plan.Concern, Waits: def.Waits(s)})
	if len(told) != 2 || told[0].GetKind() != orderpb.WaitKind_WAIT_KIND_PERSON || !strings.Contains(told[0].GetNext(), "tidemark shipment plan") ||
		!strings.Contains(told[1].GetFor(), "the goods of parcel "+ids[0]+" from north") {
		t.Errorf("told %v", told)
	}

	tell("shipment", "by hand", &facts.ShipmentPlanned{ShipmentID: "by hand", Warehouse: "north", Lines: parcel})
	if plan := def.Next(s); plan.Attention != "" || strings.Contains(waits(s)[0].For, "goods") {
		t.Errorf("with another parcel: attention %q, waits %v", plan.Attention, waits(s))
	}
}

// Every reason why a person is needed comes with what that person can do.
func TestEveryConcernHasARemedy(t *testing.T) {
	for _, reason := range []string{
		stepRefused, heldTooLong, notDispatched, notDelivered, recall, notPlanned, goodsMissing, arrivedLate, moneyShort, paymentLost, process.InDoubt,
	} {
		if remedies[reason] == "" {
			t.Errorf("%s has none", reason)
		}
	}
}
