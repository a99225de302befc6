package olistexpect

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func sample(t *testing.T) *Expectation {
	t.Helper()
	dir, ok := Dir()
	if !ok {
		t.Skipf("SKIPPED: no Olist sample in %q; set TIDEMARK_OLIST_DIR to run on real orders", dir)
	}
	e, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

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
	e := sample(t)
	want := map[string]int64{"PLACED": 3, "CONFIRMED": 466, "SHIPPED": 837, "DELIVERED": 3880, "CANCELLED": 906}
	if os.Getenv("TIDEMARK_OLIST_DIR") == "" && !cmp.Equal(want, e.States) {
		t.Errorf("states %v, want %v", e.States, want)
	}
	for id, o := range e.Orders {
		if len(o.Facts) < 2 {
			t.Errorf("order %s has %d facts", id, len(o.Facts))
		}
	}
}

// TestRunningFleet checks a fleet into which the sample was imported by hand.
func TestRunningFleet(t *testing.T) {
	timeline, operations := os.Getenv("TIDEMARK_TEST_TIMELINE"), os.Getenv("TIDEMARK_TEST_OPERATIONS")
	if timeline == "" || operations == "" {
		t.Skip("TIDEMARK_TEST_TIMELINE and TIDEMARK_TEST_OPERATIONS name no fleet with the sample in it")
	}
	e := sample(t)
	var conns [2]*grpc.ClientConn
	for i, address := range []string{timeline, operations} {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns[i] = conn
	}
	differences, err := Check(t.Context(), conns[0], conns[1], e, "olist")
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range differences {
		if i == 20 {
			t.Errorf("… and %d more differences", len(differences)-20)
			break
		}
		t.Error(d)
	}
}
