package payment

import "testing"

// Part of a payment was collected and given back again before the rest was
// released: the rest can be released all the same, and nothing twice.
func TestWhatIsHeldIsReleasedAfterARefund(t *testing.T) {
	p := &Payment{ID: "p", Phase: Authorized, Fulfilment: External, Amount: Money{Amount: 12_340, Currency: "EUR"}, Captures: 1, Captured: 9_790, Refunded: 9_790, Open: 2_550}
	events, err := p.Void(Void{}, Attempt{})
	if err != nil || len(events) != 1 || events[0].(WasVoided).Amount != 2_550 {
		t.Fatalf("%v, %v", events, err)
	}
	p.Open = 0
	if _, err := p.Void(Void{}, Attempt{}); err == nil {
		t.Error("released although nothing is held")
	}
}
