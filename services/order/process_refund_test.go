package order

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// More is to be given back of a payment while a refund of it is on its way. The
// second asks for what the first leaves, once that is known, and for no more.
func TestASecondRefundWaitsForTheFirst(t *testing.T) {
	s := &fulfilment{
		Order:    orderPart{ID: "o", CustomerID: "c", State: completed, Managed: true, PlanNumber: 1, Total: eurF(10_000)},
		Payments: map[string]paymentPart{"p": {State: authorized, Asked: 10_000, Captured: 10_000, Currency: "EUR"}},
		Bills:    map[string]int64{"s": 10_000},
	}
	def := fulfilmentProcess(2)
	issued := map[string]bool{}
	ask := func(owed int64) (amounts []int64) {
		s.Order.Lines = []facts.OrderLine{{LineID: "1", Quantity: 1, UnitPrice: eurF(owed)}}
		s.Shipments = map[string]shipmentPart{"s": {State: delivered, Arrived: true, Lines: map[string]int32{"1": 1}}}
		for _, c := range def.Next(s).Commands {
			if r, ok := c.Request.(*paymentv1.RefundPaymentRequest); ok && !issued[c.Step] {
				issued[c.Step] = true
				amounts = append(amounts, r.GetAmount().GetAmount())
			}
		}
		return amounts
	}
	refunded := func(total int64) {
		def.On(s, event.Fact{Envelope: event.Envelope{Key: "o"}, Body: &facts.PaymentRefunded{PaymentID: "p", TotalRefunded: eurF(total)}})
	}
	if got := ask(7_000); len(got) != 1 || got[0] != 3_000 {
		t.Fatalf("asked for %v, want 3000", got)
	}
	if got := ask(5_000); len(got) != 0 {
		t.Fatalf("asked for %v while 3000 are on their way", got)
	}
	refunded(3_000)
	if got := ask(5_000); len(got) != 1 || got[0] != 2_000 {
		t.Fatalf("asked for %v, want the 2000 that are left", got)
	}
	refunded(5_000)
	if got := ask(5_000); len(got) != 0 || s.Refunds["p"] != 5_000 {
		t.Errorf("asked for %v, decided %v", got, s.Refunds)
	}
}
