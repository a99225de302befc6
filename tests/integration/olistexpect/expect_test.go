package olistexpect

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpectationOfOneOrder(t *testing.T) {
	row := map[string]string{
		"order_id": "o", "order_status": "canceled", "order_purchase_timestamp": "2018-01-01 10:00:00", "order_approved_at": "2018-01-03 10:00:00",
		"order_delivered_carrier_date": "2018-01-02 10:00:00", "order_delivered_customer_date": "2018-01-05 10:00:00",
	}
	got, err := expect(row, "c", 1, 1234, []map[string]string{{"payment_sequential": "1", "payment_type": "voucher", "payment_value": "0.29"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &Order{
		Customer: "c", Status: "CANCELLED", Reason: "CUSTOMER",
		Requested: map[string]int64{"VOUCHER": 29}, Captured: map[string]int64{"VOUCHER": 29},
		Facts: []Fact{
			{"2018-01-01 10:00:00", "OrderPlaced", "o", 1234, false},
			{"2018-01-01 10:00:00", "PaymentRequested", "o-p1", 29, false},
			{"2018-01-02 10:00:00", "ShipmentDispatched", "o-s1", 0, false},
			{"2018-01-02 10:00:00", "ShipmentPlanned", "o-s1", 0, true},
			{"2018-01-03 10:00:00", "OrderConfirmed", "o", 0, false},
			{"2018-01-03 10:00:00", "PaymentAuthorized", "o-p1", 29, false},
			{"2018-01-03 10:00:00", "PaymentCaptured", "o-p1", 29, false},
			{"2018-01-05 10:00:00", "OrderCancelled", "o", 0, true},
			{"2018-01-05 10:00:00", "ShipmentDelivered", "o-s1", 0, false},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSampleIsWhole(t *testing.T) {
	real, found := besideRepository()
	if found {
		e, err := Read(real)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{"PLACED": 3, "CONFIRMED": 466, "SHIPPED": 837, "DELIVERED": 3880, "CANCELLED": 906}
		if diff := cmp.Diff(want, e.States); diff != "" {
			t.Errorf("real orders by state, - wanted, + read:\n%s", diff)
		}
	}
	dir := t.TempDir()
	if err := makeUp(dir, madeUpOrders, 1); err != nil {
		t.Fatal(err)
	}
	e, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Orders) != madeUpOrders {
		t.Errorf("%d made-up orders, want %d", len(e.Orders), madeUpOrders)
	}
	for _, state := range []string{"PLACED", "CONFIRMED", "SHIPPED", "DELIVERED", "CANCELLED"} {
		if e.States[state] == 0 {
			t.Errorf("no made-up order is %s", state)
		}
	}
	for id, o := range e.Orders {
		if len(o.Facts) < 2 {
			t.Errorf("made-up order %s has %d facts", id, len(o.Facts))
		}
	}
	for method, cents := range e.Requested {
		if captured := e.Captured[method]; captured == 0 || captured >= cents {
			t.Errorf("%s: %d of %d captured; of some orders all, of others nothing", method, captured, cents)
		}
	}
}
