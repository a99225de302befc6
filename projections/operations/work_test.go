package operations_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// work is a work item, times in hours after dawn.
type work struct {
	kind                int64
	subject             string
	shows, deadline     float64
	severity, late      int64
	warehouse, currency string
	amount              int64
}

func workOf(t *testing.T, given ...event.Fact) []work {
	t.Helper()
	m := fold.NewMemory(operations.View())
	if err := m.Apply(given...); err != nil {
		t.Fatal(err)
	}
	if n, reason := m.Parked(); n > 0 {
		t.Fatalf("%d facts parked: %s", n, reason)
	}
	var items []work
	for _, r := range m.Rows("work_items") {
		hours := func(column string) float64 { return r[column].(time.Time).Sub(history.Dawn).Hours() }
		w := work{kind: r["kind"].(int64), subject: r["subject_id"].(string), shows: hours("shows_at"), deadline: hours("deadline"),
			severity: r["severity"].(int64), late: r["late_severity"].(int64), warehouse: r["warehouse"].(string)}
		if r["amount"] != nil {
			w.amount, w.currency = r["amount"].(int64), r["currency"].(string)
		}
		if r["reason"] == "" || r["customer_id"] != "c" {
			t.Errorf("item without a reason or its customer: %v", r)
		}
		items = append(items, w)
	}
	return items
}

// The kinds, as in operations.v1.WorkKind.
const (
	stuck    = 1
	promise  = 2
	declined = 3
	held     = 4
	delayed  = 5
	lost     = 6
	kept     = 7
	person   = 8
)

func TestWorkItems(t *testing.T) {
	hour := func(n int) time.Time { return history.Dawn.Add(time.Duration(n) * time.Hour) }
	at := func(n int) *time.Time { h := hour(n); return &h }
	brl := func(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "BRL"} }
	type step struct {
		at   int
		body facts.Fact
	}
	aggregate := func(typ, id string, steps ...step) []event.Fact {
		a := history.Aggregate{Order: "o", Type: typ, ID: id}
		for _, s := range steps {
			a.Add(hour(s.at), s.body)
		}
		return a.Facts
	}
	placed := func(fulfilment facts.Fulfilment, promised *time.Time) step {
		return step{0, &facts.OrderPlaced{OrderID: "o", CustomerID: "c", Fulfilment: fulfilment, Total: brl(100), PromisedAt: promised}}
	}
	managed, external := placed(facts.FulfilmentManaged, nil), placed(facts.FulfilmentExternal, nil)
	confirmed, cancelled := step{2, &facts.OrderConfirmed{CustomerID: "c"}}, step{50, &facts.OrderCancelled{CustomerID: "c"}}
	asked := step{0, &facts.PaymentRequested{CustomerID: "c", Amount: brl(100)}}
	approved := step{1, &facts.PaymentAuthorized{CustomerID: "c", Amount: brl(100)}}
	refused := step{1, &facts.PaymentDeclined{CustomerID: "c", ReasonCode: "NO_FUNDS"}}
	captured := step{10, &facts.PaymentCaptured{CustomerID: "c", TotalCaptured: brl(100)}}
	planned := step{3, &facts.ShipmentPlanned{CustomerID: "c", Warehouse: "w1"}}
	sent := step{4, &facts.ShipmentDispatched{CustomerID: "c", Warehouse: "w1"}}
	expected := func(n int) step {
		return step{4, &facts.ShipmentDispatched{CustomerID: "c", Warehouse: "w1", ExpectedAt: at(n)}}
	}
	later := func(n int) step { return step{20, &facts.ShipmentDelayed{CustomerID: "c", ExpectedAt: hour(n)}} }
	stalled := func(before *time.Time) step {
		return step{21, &facts.ShipmentStalled{CustomerID: "c", PreviousExpectedAt: before}}
	}
	arrived, gone := step{30, &facts.ShipmentDelivered{CustomerID: "c"}}, step{40, &facts.ShipmentLost{CustomerID: "c"}}
	both := func(all ...[]event.Fact) []event.Fact {
		var joined []event.Fact
		for _, a := range all {
			joined = append(joined, a...)
		}
		return joined
	}
	order := func(steps ...step) []event.Fact { return aggregate("order", "o", steps...) }
	payment := func(steps ...step) []event.Fact {
		return aggregate("payment", "p", append([]step{asked}, steps...)...)
	}
	parcel := func(steps ...step) []event.Fact {
		return aggregate("shipment", "s", append([]step{planned}, steps...)...)
	}
	tests := []struct {
		name  string
		given []event.Fact
		want  []work
	}{
		{"placed and waiting", order(managed), []work{{kind: stuck, subject: "o", shows: 1, deadline: 5, severity: 1, late: 2}}},
		{"another system's order may take longer", order(external), []work{{kind: stuck, subject: "o", shows: 48, deadline: 52, severity: 1, late: 2}}},
		{"confirmed starts its own allowance", order(managed, confirmed), []work{{kind: stuck, subject: "o", shows: 26, deadline: 30, severity: 1, late: 2}}},
		{"shipped", both(order(managed, confirmed), parcel(sent)), []work{{kind: stuck, subject: "o", shows: 4 + 14*24, deadline: 8 + 14*24, severity: 1, late: 2, warehouse: "w1"}}},
		{"delivered and not completed", both(order(managed, confirmed), parcel(sent, arrived)), []work{{kind: stuck, subject: "o", shows: 54, deadline: 58, severity: 1, late: 2}}},
		{"delivered by another system is done", both(order(external), parcel(sent, arrived)), nil},
		{"completed is done", both(order(managed, confirmed, step{60, &facts.OrderCompleted{CustomerID: "c"}}), parcel(sent, arrived)), nil},
		{"held is not also stuck", order(managed, step{1, &facts.OrderHeld{CustomerID: "c"}}), []work{{kind: held, subject: "o", shows: 1, deadline: 25, severity: 2, late: 3}}},
		{"released is as before", order(managed, step{1, &facts.OrderHeld{}}, step{2, &facts.OrderReleased{}}), []work{{kind: stuck, subject: "o", shows: 1, deadline: 5, severity: 1, late: 2}}},
		{"fulfilment needs a person, since the first reason", order(managed, confirmed, step{3, &facts.OrderNeedsAttention{CustomerID: "c", Reason: "STEP_REFUSED", Step: "plan/north"}},
			step{5, &facts.OrderNeedsAttention{CustomerID: "c", Reason: "MONEY_SHORT"}}), []work{
			{kind: stuck, subject: "o", shows: 26, deadline: 30, severity: 1, late: 2}, {kind: person, subject: "o", shows: 3, deadline: 7, severity: 2, late: 3}}},
		{"somebody settled it", order(managed, confirmed, step{3, &facts.OrderNeedsAttention{Reason: "STEP_REFUSED"}}, step{5, &facts.OrderAttentionSettled{CustomerID: "c"}}), []work{
			{kind: stuck, subject: "o", shows: 26, deadline: 30, severity: 1, late: 2}}},
		{"a completed order may need a person", order(managed, confirmed, step{60, &facts.OrderCompleted{CustomerID: "c"}}, step{61, &facts.OrderNeedsAttention{CustomerID: "c", Reason: "NEW"}}), []work{
			{kind: person, subject: "o", shows: 61, deadline: 65, severity: 2, late: 3}}},
		{"a promise shows a day before", order(placed(facts.FulfilmentManaged, at(100))), []work{
			{kind: stuck, subject: "o", shows: 1, deadline: 5, severity: 1, late: 2}, {kind: promise, subject: "o", shows: 76, deadline: 100, severity: 2, late: 3}}},
		{"a promise kept is none", both(order(placed(facts.FulfilmentExternal, at(100))), parcel(sent, arrived)), nil},
		{"declined", both(order(managed), payment(refused)), []work{
			{kind: stuck, subject: "o", shows: 1, deadline: 5, severity: 1, late: 2}, {kind: declined, subject: "p", shows: 1, deadline: 5, severity: 2, late: 3, amount: 100, currency: "BRL"}}},
		{"declined, then paid another way", both(order(managed), payment(refused), aggregate("payment", "q", asked, approved)), []work{
			{kind: stuck, subject: "o", shows: 1, deadline: 5, severity: 1, late: 2}}},
		{"declined and cancelled", both(order(managed, cancelled), payment(refused)), nil},
		{"lost", both(order(external), parcel(sent, gone)), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: lost, subject: "s", shows: 40, deadline: 48, severity: 3, late: 3, warehouse: "w1"}}},
		{"expected becomes late by the clock", both(order(external), parcel(expected(30))), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: delayed, subject: "s", shows: 78, deadline: 102, severity: 2, late: 3, warehouse: "w1"}}},
		{"announced 48 hours later is not yet work", both(order(external), parcel(expected(30), later(78))), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: delayed, subject: "s", shows: 126, deadline: 150, severity: 2, late: 3, warehouse: "w1"}}},
		{"announced more than 48 hours later is at once", both(order(external), parcel(expected(30), later(79))), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: delayed, subject: "s", shows: 20, deadline: 44, severity: 2, late: 3, warehouse: "w1"}}},
		{"stalled is at once", both(order(external), parcel(expected(30), stalled(nil))), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: delayed, subject: "s", shows: 21, deadline: 45, severity: 2, late: 3, warehouse: "w1"}}},
		{"stalled, then a date close to the first", both(order(external), parcel(expected(30), stalled(at(30)), step{22, &facts.ShipmentDelayed{CustomerID: "c", ExpectedAt: hour(31)}})), []work{
			{kind: stuck, subject: "o", shows: 4 + 30*24, deadline: 8 + 30*24, severity: 1, late: 2, warehouse: "w1"},
			{kind: delayed, subject: "s", shows: 79, deadline: 103, severity: 2, late: 3, warehouse: "w1"}}},
		{"stalled, then delivered", both(order(external), parcel(sent, stalled(nil), arrived)), nil},
		{"cancelled after collecting", both(order(managed, cancelled), payment(approved, captured)), []work{
			{kind: kept, subject: "p", shows: 50, deadline: 74, severity: 3, late: 3, amount: 100, currency: "BRL"}}},
		{"collected after cancelling", both(order(managed, cancelled), payment(approved, step{60, &facts.PaymentCaptured{CustomerID: "c", TotalCaptured: brl(100)}})), []work{
			{kind: kept, subject: "p", shows: 60, deadline: 84, severity: 3, late: 3, amount: 100, currency: "BRL"}}},
		{"part given back", both(order(managed, cancelled), payment(approved, captured, step{60, &facts.PaymentRefunded{CustomerID: "c", TotalRefunded: brl(30)}})), []work{
			{kind: kept, subject: "p", shows: 50, deadline: 74, severity: 3, late: 3, amount: 70, currency: "BRL"}}},
		{"all given back", both(order(managed, cancelled), payment(approved, captured, step{60, &facts.PaymentRefunded{CustomerID: "c", TotalRefunded: brl(100)}})), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, workOf(t, tt.given...), cmp.AllowUnexported(work{})); diff != "" {
				t.Errorf("work items (-want +got):\n%s", diff)
			}
		})
	}
}
