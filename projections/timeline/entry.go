package timeline

import (
	"fmt"
	"strings"
	"time"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// EntryRow is what an entry adds to the identity of its fact.
type EntryRow struct {
	CustomerID    string    `db:"customer_id"`
	Kind          int32     `db:"kind"`
	Fact          string    `db:"fact"`
	Summary       string    `db:"summary"`
	Actor         string    `db:"actor"`
	OccurredAt    time.Time `db:"occurred_at"`
	TimeEstimated bool      `db:"time_estimated"`
	RecordedAt    time.Time `db:"recorded_at"`
	Amount        *int64    `db:"amount"`
	Currency      *string   `db:"currency"`
	TraceID       string    `db:"trace_id"`
}

const (
	kindOrder    = int32(timelinev1.EntryKind_ENTRY_KIND_ORDER)
	kindHold     = int32(timelinev1.EntryKind_ENTRY_KIND_HOLD)
	kindPayment  = int32(timelinev1.EntryKind_ENTRY_KIND_PAYMENT)
	kindRefund   = int32(timelinev1.EntryKind_ENTRY_KIND_REFUND)
	kindShipment = int32(timelinev1.EntryKind_ENTRY_KIND_SHIPMENT)
	kindProblem  = int32(timelinev1.EntryKind_ENTRY_KIND_SHIPMENT_PROBLEM)
)

// entries tells a fact in human words. It needs nothing but the fact.
func entries(f event.Fact, put func(EntryRow)) {
	body, ok := f.Body.(facts.Fact)
	if !ok {
		return
	}
	common := body.Common()
	kind, summary, amount := describe(f)
	if kind == 0 {
		return
	}
	r := EntryRow{
		CustomerID: common.CustomerID, Kind: kind, Fact: f.Type, Summary: summary, Actor: common.Actor,
		OccurredAt: f.OccurredAt, TimeEstimated: common.TimeEstimated, RecordedAt: f.RecordedAt, TraceID: traceID(f.TraceParent),
	}
	if amount != nil {
		r.Amount, r.Currency = &amount.Amount, &amount.Currency
	}
	put(r)
}

// traceID takes the trace id out of a W3C traceparent.
func traceID(parent string) string {
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	return parts[1]
}

// describe returns the kind of an entry, its line, and the money it is about.
func describe(f event.Fact) (kind int32, summary string, amount *facts.Money) {
	switch f.Aggregate.Type {
	case "order":
		return describeOrder(f.Body)
	case "payment":
		return describePayment(f.Body)
	case "shipment":
		kind, summary = describeShipment(f.Body)
	}
	return kind, summary, nil
}

func describeOrder(body event.Body) (int32, string, *facts.Money) {
	switch b := body.(type) {
	case *facts.OrderPlaced:
		what := plural(len(b.Lines), "item")
		if len(b.Lines) == 0 {
			what = "no items listed"
		}
		return kindOrder, fmt.Sprintf("Order placed%s: %s, %s", on(" through ", b.Channel), what, money(b.Total)), &b.Total
	case *facts.OrderAmended:
		var changed []string
		for _, c := range []struct {
			changed bool
			what    string
		}{
			{b.Lines != nil, "items"}, {b.ShippingFee != nil, "shipping fee"}, {b.Address != nil, "address"},
			{b.PromisedAt != nil, "promised date"}, {b.PaymentPlan != nil, "payment plan"},
		} {
			if c.changed {
				changed = append(changed, c.what)
			}
		}
		return kindOrder, "Order changed" + on(": ", strings.Join(changed, ", ")) + ", now " + money(b.Total), &b.Total
	case *facts.OrderHeld:
		return kindHold, "Order put on hold" + on(": ", b.Reason), nil
	case *facts.OrderReleased:
		return kindHold, "Order released from hold", nil
	case *facts.OrderNeedsAttention: // why is ours to know
		return kindOrder, "Somebody looks after the order", nil
	case *facts.OrderAttentionSettled:
		return kindOrder, "The order goes on", nil
	case *facts.OrderConfirmed:
		return kindOrder, "Order confirmed" + by(", promised for ", b.PromisedAt), nil
	case *facts.OrderCancelled:
		return kindOrder, "Order cancelled" + cancelWords[string(b.Reason)], nil
	case *facts.OrderCompleted:
		return kindOrder, "Order completed", nil
	}
	return 0, "", nil
}

func describePayment(body event.Body) (int32, string, *facts.Money) {
	switch b := body.(type) {
	case *facts.PaymentRequested:
		text := "Payment of " + money(b.Amount) + " asked for by " + methodWords[b.Method]
		if b.Installments > 1 {
			text += fmt.Sprintf(" in %d instalments", b.Installments)
		}
		return kindPayment, text, &b.Amount
	case *facts.PaymentAuthorized:
		return kindPayment, "Payment of " + money(b.Amount) + " approved by the provider", &b.Amount
	case *facts.PaymentDeclined:
		text := "Payment of " + money(b.Amount) + " declined" + on(": ", b.ReasonCode)
		if b.Retryable {
			text += "; it may be tried again"
		}
		return kindPayment, text, &b.Amount
	case *facts.PaymentCaptured:
		return kindPayment, money(b.Amount) + " collected by " + methodWords[b.Method], &b.Amount
	case *facts.PaymentVoided:
		return kindPayment, "Reserved " + money(b.Amount) + " let go", &b.Amount
	case *facts.PaymentRefunded:
		return kindRefund, money(b.Amount) + " given back" + on(": ", b.Reason), &b.Amount
	case *facts.PaymentCorrected:
		return kindPayment, fmt.Sprintf("Collected amount corrected from %s to %s as of %s%s", money(b.PreviousCaptured),
			money(b.CorrectedCaptured), b.EffectiveAt.UTC().Format(day), on(": ", b.Reason)), &b.CorrectedCaptured
	}
	return 0, "", nil
}

func describeShipment(body event.Body) (int32, string) {
	switch b := body.(type) {
	case *facts.ShipmentPlanned:
		return kindShipment, "Parcel planned" + on(" from ", b.Warehouse)
	case *facts.ShipmentDispatched:
		return kindShipment, "Parcel handed to " + or(b.Carrier, "the carrier") + on(", tracking number ", b.TrackingNumber) +
			by(", expected ", b.ExpectedAt)
	case *facts.ShipmentScanned:
		return kindShipment, "Parcel seen" + on(" in ", placeOf(b)) + on(": ", b.Description)
	case *facts.ShipmentDelayed:
		return kindProblem, "Parcel delayed, now expected " + b.ExpectedAt.UTC().Format(day) + on(": ", b.Reason)
	case *facts.ShipmentStalled:
		return kindProblem, "Parcel delayed, no new date yet" + on(": ", b.Reason)
	case *facts.ShipmentDelivered:
		text := "Parcel delivered" + on(" in ", b.Location)
		if b.SignedByRole != nil {
			text += on(", taken by ", *b.SignedByRole)
		}
		return kindShipment, text
	case *facts.ShipmentLost:
		return kindProblem, "Parcel lost" + on(": ", b.Reason)
	case *facts.ShipmentReturned:
		return kindProblem, "Parcel sent back" + on(": ", b.Reason)
	case *facts.ShipmentCancelled:
		return kindShipment, "Parcel cancelled" + on(": ", b.Reason)
	}
	return 0, ""
}

// placeOf says where a parcel was seen, as "CD 4, Campinas (BR)".
func placeOf(b *facts.ShipmentScanned) string {
	place := facts.JoinLocation(b.Facility, b.Area, "")
	if b.Country != "" {
		place += " (" + b.Country + ")"
	}
	return place
}

var methodWords = map[facts.PaymentMethod]string{
	facts.PaymentMethodCard: "card", facts.PaymentMethodDebitCard: "debit card", facts.PaymentMethodVoucher: "voucher",
	facts.PaymentMethodBankSlip: "bank slip", facts.PaymentMethodBankTransfer: "bank transfer",
}

// decimals are the currencies whose minor unit is not a hundredth.
var decimals = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0,
	"VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0, "BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}

func money(m facts.Money) string {
	places, ok := decimals[m.Currency]
	if !ok {
		places = 2
	}
	sign, digits := "", fmt.Sprint(m.Amount)
	if m.Amount < 0 {
		sign, digits = "-", digits[1:]
	}
	for len(digits) <= places {
		digits = "0" + digits
	}
	if places > 0 {
		digits = digits[:len(digits)-places] + "." + digits[len(digits)-places:]
	}
	return sign + digits + " " + m.Currency
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// on joins words to what they introduce, or returns nothing without it.
func on(words, what string) string {
	if what == "" {
		return ""
	}
	return words + what
}

func by(words string, at *time.Time) string {
	if at == nil {
		return ""
	}
	return words + at.UTC().Format(day)
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
