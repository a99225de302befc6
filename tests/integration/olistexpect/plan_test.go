package olistexpect

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/olist"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// The importer's commands, over the whole sample and without a fleet, amount to
// the facts that were worked out from the files by other code.
func TestImporterPlansWhatTheFilesSay(t *testing.T) {
	dir := Sample(t)
	e, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	source, err := olist.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(source.Refused) != 0 || len(source.NotTaken) != 0 || len(source.Orders) != len(e.Orders) {
		t.Errorf("%d rows refused, %d dates not taken, %d orders of %d", len(source.Refused), len(source.NotTaken), len(source.Orders), len(e.Orders))
	}
	differing := 0
	for _, o := range source.Orders {
		var got []Fact
		amounts := map[string]int64{}
		for _, step := range olist.Plan(o, "olist") {
			got = append(got, facts(t, step, amounts)...)
		}
		slices.SortFunc(got, compareFacts)
		if diff := cmp.Diff(e.Orders[o.ID].Facts, got); diff != "" {
			t.Errorf("order %s (-expected +planned):\n%s", o.ID, diff)
			if differing++; differing == 10 {
				t.Fatal("… and perhaps more")
			}
		}
	}
}

// facts says which facts a command leads to.
func facts(t *testing.T, step olist.Step, amounts map[string]int64) []Fact {
	t.Helper()
	common := step.Request.(interface {
		GetOccurredAt() *timestamppb.Timestamp
		GetTimeEstimated() bool
	})
	fact := func(name, aggregate string, cents int64) Fact {
		return Fact{At: instant(common.GetOccurredAt().AsTime()), Name: name, Aggregate: aggregate, Cents: cents, Estimated: common.GetTimeEstimated()}
	}
	switch r := step.Request.(type) {
	case *orderv1.PlaceOrderRequest:
		total := r.GetShippingFee().GetAmount()
		for _, l := range r.GetLines() {
			total += int64(l.GetQuantity()) * l.GetUnitPrice().GetAmount()
		}
		return []Fact{fact("OrderPlaced", r.GetOrderId(), total)}
	case *orderv1.ConfirmOrderRequest:
		return []Fact{fact("OrderConfirmed", r.GetOrderId(), 0)}
	case *orderv1.CancelOrderRequest:
		return []Fact{fact("OrderCancelled", r.GetOrderId(), 0)}
	case *paymentv1.AuthorizePaymentRequest:
		requested := fact("PaymentRequested", r.GetPaymentId(), r.GetAmount().GetAmount())
		if r.GetExternalOutcome() == paymentv1.ExternalOutcome_EXTERNAL_OUTCOME_PENDING {
			return []Fact{requested}
		}
		authorized := requested
		authorized.Name, authorized.At = "PaymentAuthorized", instant(r.GetExternalDecidedAt().AsTime())
		amounts[r.GetPaymentId()] = r.GetAmount().GetAmount()
		return []Fact{requested, authorized}
	case *paymentv1.CapturePaymentRequest:
		if amounts[r.GetPaymentId()] != r.GetAmount().GetAmount() {
			t.Errorf("payment %s: %d captured of %d", r.GetPaymentId(), r.GetAmount().GetAmount(), amounts[r.GetPaymentId()])
		}
		return []Fact{fact("PaymentCaptured", r.GetPaymentId(), r.GetAmount().GetAmount())}
	case *shipmentv1.PlanShipmentRequest:
		return []Fact{fact("ShipmentPlanned", r.GetShipmentId(), 0)}
	case *shipmentv1.DispatchShipmentRequest:
		return []Fact{fact("ShipmentDispatched", r.GetShipmentId(), 0)}
	case *shipmentv1.DeliverShipmentRequest:
		return []Fact{fact("ShipmentDelivered", r.GetShipmentId(), 0)}
	}
	t.Fatalf("step %q sends a %T", step.Name, step.Request)
	return nil
}
