package olist

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// sketch writes a step with what matters: business time, estimate, money, place.
func sketch(s Step) string {
	type common interface {
		GetOccurredAt() *timestamppb.Timestamp
		GetTimeEstimated() bool
	}
	c := s.Request.(common)
	text := s.Name + " " + c.GetOccurredAt().AsTime().Format("02 15:04")
	if c.GetTimeEstimated() {
		text += "~"
	}
	switch r := s.Request.(type) {
	case *orderv1.PlaceOrderRequest:
		text += fmt.Sprintf(" lines=%d fee=%d", len(r.GetLines()), r.GetShippingFee().GetAmount())
	case *orderv1.CancelOrderRequest:
		text += " " + strings.TrimPrefix(r.GetReason().String(), "CANCEL_REASON_")
	case *paymentv1.AuthorizePaymentRequest:
		text += fmt.Sprintf(" %s %d %s", strings.TrimPrefix(r.GetMethod().String(), "PAYMENT_METHOD_"), r.GetAmount().GetAmount(),
			strings.TrimPrefix(r.GetExternalOutcome().String(), "EXTERNAL_OUTCOME_"))
		if r.GetExternalDecidedAt() != nil {
			text += " " + r.GetExternalDecidedAt().AsTime().Format("02 15:04")
		}
	case *paymentv1.CapturePaymentRequest:
		text += fmt.Sprintf(" %d", r.GetAmount().GetAmount())
	case *shipmentv1.PlanShipmentRequest:
		text += fmt.Sprintf(" %q lines=%d", r.GetWarehouse(), len(r.GetLines()))
	}
	return text
}

func TestPlan(t *testing.T) {
	orders := map[string]*Order{}
	for _, o := range load(t).Orders {
		orders[o.ID] = o
	}
	for _, tc := range []struct {
		id   string
		want []string
	}{
		{"many", []string{ // two sellers, three payments
			"place 10 10:00 lines=3 fee=5585",
			"authorize p1 10 10:00 CARD 15000 AUTHORIZED 10 11:00", "capture p1 10 11:00 15000",
			"authorize p2 10 10:00 VOUCHER 1850 AUTHORIZED 10 11:00", "capture p2 10 11:00 1850",
			"authorize p3 10 10:00 VOUCHER 2025 AUTHORIZED 10 11:00", "capture p3 10 11:00 2025",
			"confirm 10 11:00",
			`plan s1 10 11:00~ "sellerA" lines=1`, "dispatch s1 12 09:00", "deliver s1 15 16:30",
			`plan s2 10 11:00~ "sellerB" lines=2`, "dispatch s2 12 09:00", "deliver s2 15 16:30",
		}},
		{"bare", []string{ // no items left, unavailable
			"place 09 10:00 lines=0 fee=0",
			"authorize p1 09 10:00 BANK_SLIP 7777 AUTHORIZED 09 10:05", "capture p1 09 10:05 7777",
			"confirm 09 10:05", "cancel 09 10:05~ UNAVAILABLE",
		}},
		{"early", []string{ // the carrier had it before the payment was approved
			"place 11 10:00 lines=1 fee=29",
			"authorize p1 11 10:00 DEBIT_CARD 1029 AUTHORIZED 13 10:00", "capture p1 13 10:00 1029",
			"confirm 13 10:00", `plan s1 12 08:00~ "sellerB" lines=1`, "dispatch s1 12 08:00",
		}},
		{"backwards", []string{ // delivered before the carrier had it
			"place 12 10:00 lines=1 fee=0",
			"authorize p1 12 10:00 CARD 29 AUTHORIZED 12 10:10", "capture p1 12 10:10 29",
			"confirm 12 10:10", `plan s1 12 10:10~ "sellerB" lines=1`, "dispatch s1 16 08:00", "deliver s1 15 08:00",
		}},
		{"keptboth", []string{ // cancelled and delivered
			"place 13 10:00 lines=1 fee=500",
			"authorize p1 13 10:00 CARD 5500 AUTHORIZED 13 10:10", "capture p1 13 10:10 5500",
			"confirm 13 10:10", `plan s1 13 10:10~ "sellerB" lines=1`, "dispatch s1 14 08:00", "deliver s1 18 08:00",
			"cancel 18 08:00~ CUSTOMER",
		}},
		{"nodates", []string{ // delivered, neither approved nor a delivery date
			"place 14 10:00 lines=1 fee=500",
			"authorize p1 14 10:00~ BANK_SLIP 2500 AUTHORIZED 15 10:00", "capture p1 15 10:00~ 2500",
			"confirm 15 10:00~", `plan s1 15 10:00~ "sellerB" lines=1`, "dispatch s1 15 10:00", "deliver s1 15 10:00~",
		}},
		{"fresh", []string{"place 15 10:00 lines=0 fee=0", "authorize p1 15 10:00 BANK_SLIP 1234 PENDING"}},
		{"zero", []string{ // a voucher over nothing is authorised, not captured
			"place 16 10:00 lines=1 fee=500",
			"authorize p1 16 10:00 CARD 3500 AUTHORIZED 16 10:10", "capture p1 16 10:10 3500",
			"authorize p2 16 10:00 VOUCHER 0 AUTHORIZED 16 10:10",
			"confirm 16 10:10", `plan s1 16 10:10~ "sellerB" lines=1`, "dispatch s1 17 10:00",
		}},
		{"bareshipped", []string{ // shipped without items: one parcel without seller
			"place 17 10:00 lines=0 fee=0",
			"authorize p1 17 10:00 CARD 4444 AUTHORIZED 17 10:10", "capture p1 17 10:10 4444",
			"confirm 17 10:10", `plan s1 17 10:10~ "" lines=0`, "dispatch s1 18 10:00",
		}},
		{"working", []string{ // a carrier date contradicts "processing"
			"place 18 10:00 lines=1 fee=500",
			"authorize p1 18 10:00 CARD 3500 AUTHORIZED 18 10:10", "capture p1 18 10:10 3500", "confirm 18 10:10",
		}},
		{"dropped", []string{ // cancelled, never approved
			"place 21 10:00 lines=0 fee=0", "authorize p1 21 10:00 CARD 9999 PENDING", "cancel 21 10:00~ CUSTOMER",
		}},
	} {
		var got []string
		for _, s := range Plan(orders[tc.id], "olist") {
			got = append(got, sketch(s))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("plan of %s (-want +got):\n%s", tc.id, diff)
		}
	}
}

func TestPlanIsTheSameForEverAndPerChannel(t *testing.T) {
	ids := map[string]string{}
	for _, o := range load(t).Orders {
		first, again := Plan(o, "olist"), Plan(o, "olist")
		for i, s := range first {
			if !proto.Equal(s.Request, again[i].Request) {
				t.Errorf("%s, %s: two plans differ", o.ID, s.Name)
			}
		}
		for _, s := range append(first, Plan(o, "other")...) {
			id := s.Request.(interface{ GetRequestId() string }).GetRequestId()
			if ids[id] != "" {
				t.Errorf("%s, %s: request id %s was given to %s", o.ID, s.Name, id, ids[id])
			}
			ids[id] = o.ID + " " + s.Name
		}
	}
	// A changed id would make a resumed import do everything twice.
	const golden = "e2e68919-0470-5ac8-bf4a-7a9622ef5a5a"
	if got := Plan(&Order{ID: "golden"}, "olist")[0].Request.(*orderv1.PlaceOrderRequest).GetRequestId(); got != golden {
		t.Errorf("request id of place is %s, want %s", got, golden)
	}
}

func TestNoCommandCarriesTheFilesStatusWord(t *testing.T) {
	for _, o := range load(t).Orders {
		for _, s := range Plan(o, "x") {
			raw, err := protojson.Marshal(s.Request)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"created", "approved", "processing", "invoiced", "shipped", "delivered", "canceled", "unavailable"} {
				text := strings.ReplaceAll(string(raw), "CANCEL_REASON_UNAVAILABLE", "")
				if strings.Contains(strings.ReplaceAll(text, o.ID, ""), word) {
					t.Errorf("%s, %s carries %q: %s", o.ID, s.Name, word, raw)
				}
			}
		}
	}
}

func TestEverythingIsExternalAndSaysWhoActs(t *testing.T) {
	for _, o := range load(t).Orders {
		for _, s := range Plan(o, "x") {
			if got := s.Request.(interface{ GetActor() string }).GetActor(); got != "import" {
				t.Errorf("%s, %s: actor %q", o.ID, s.Name, got)
			}
			if f, ok := s.Request.(interface{ GetFulfilment() commercev1.Fulfilment }); ok && f.GetFulfilment() != external {
				t.Errorf("%s, %s: fulfilment %s", o.ID, s.Name, f.GetFulfilment())
			}
		}
	}
}
