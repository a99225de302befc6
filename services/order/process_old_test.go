package order

import (
	"encoding/json"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// completedBefore is the state of an order as version 1 of the process kept it.
const completedBefore = `{
	"order": {"ID": "o", "CustomerID": "c", "State": "COMPLETED", "Managed": true, "Held": false, "PlanNumber": 1, "Holds": 0,
		"Plan": [{"Method": "CARD", "Amount": {"Amount": 3000, "Currency": "EUR"}, "Reference": ""}],
		"Lines": [{"LineID": "1", "SKU": "mug", "Title": null, "Quantity": 2, "UnitPrice": {"Amount": 1250, "Currency": "EUR"}, "Warehouse": "north"}],
		"Total": {"Amount": 3000, "Currency": "EUR"}, "Fee": {"Amount": 500, "Currency": "EUR"}, "PromisedAt": null},
	"payments": {"p": {"State": "AUTHORIZED", "Asked": 3000, "Captured": 3000, "Refunded": 0, "Voided": 0, "Currency": "EUR"}},
	"shipments": {"s": {"State": "DELIVERED", "Warehouse": "north"}},
	"taken": {"s": {"p": 3000}}}`

// An order that was completed before the deploy hears of one more scan: nothing
// follows from it, least of all a refund. Nor for one that is still on its way.
func TestAnOrderOfVersionOneIsLeftInPeace(t *testing.T) {
	for _, state := range []string{completed, confirmed} {
		s := &fulfilment{}
		if err := json.Unmarshal([]byte(completedBefore), s); err != nil {
			t.Fatal(err)
		}
		s.Order.State = state
		s.Payments[s.paymentID(1, 0, 0)] = s.Payments["p"]
		delete(s.Payments, "p")
		s.Taken["s"] = map[string]int64{s.paymentID(1, 0, 0): 3000}
		def := fulfilmentProcess(1)
		def.On(s, event.Fact{Envelope: event.Envelope{Key: "o"}, Body: &facts.ShipmentScanned{ShipmentID: "s"}})
		plan := def.Next(s)
		var fresh []string
		for _, c := range plan.Commands {
			if c.Step != captureStep("s", s.paymentID(1, 0, 0)) { // issued long ago
				fresh = append(fresh, c.Step)
			}
		}
		switch {
		case state == completed && (len(fresh) > 0 || !plan.Ended):
			t.Errorf("completed: steps %v, ended %v", fresh, plan.Ended)
		case state == confirmed && (len(fresh) != 1 || fresh[0] != "complete/0"):
			t.Errorf("confirmed: steps %v, want complete/0", fresh)
		}
		if plan.Attention != "" || len(plan.Timers)+len(plan.Withdrawn) > 0 {
			t.Errorf("%s: %+v", state, plan)
		}
	}
}
