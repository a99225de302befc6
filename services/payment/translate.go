package payment

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/currency"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// request is what every command's message has.
type request interface {
	proto.Message
	GetRequestId() string
	GetActor() string
	GetOccurredAt() *timestamppb.Timestamp
	GetTimeEstimated() bool
}

func metaIn(r request, now time.Time) Meta {
	m := Meta{Actor: r.GetActor(), OccurredAt: now, TimeEstimated: r.GetTimeEstimated()}
	if m.Actor == "" {
		m.Actor = "customer"
	}
	if at := timeIn(r.GetOccurredAt()); at != nil {
		m.OccurredAt = *at
	}
	return m
}

func authorizeIn(r *paymentpb.AuthorizePaymentRequest) (Authorize, error) {
	a := Authorize{
		OrderID: r.GetOrderId(), CustomerID: r.GetCustomerId(), Fulfilment: Fulfilment(enumIn(r.GetFulfilment(), "FULFILMENT_")),
		Method: enumIn(r.GetMethod(), "PAYMENT_METHOD_"), Installments: r.GetInstallments(), Reference: r.GetReference(),
		DecidedAt: timeIn(r.GetExternalDecidedAt()), Retryable: r.GetExternalRetryable(),
	}
	if r.GetExternalOutcome() != paymentpb.ExternalOutcome_EXTERNAL_OUTCOME_UNSPECIFIED {
		a.Outcome = enumIn(r.GetExternalOutcome(), "EXTERNAL_OUTCOME_")
	}
	var err error
	a.Amount, err = moneyIn("amount", r.GetAmount())
	return a, err
}

// moneyIn refuses what looks like a currency and is none.
func moneyIn(field string, m *commercepb.Money) (Money, error) {
	if _, err := currency.ParseISO(m.GetCurrency()); err != nil {
		return Money{}, fault.Invalid(field+".currency", "%q is no ISO 4217 currency", m.GetCurrency())
	}
	return Money{Amount: m.GetAmount(), Currency: m.GetCurrency()}, nil
}

// timeIn cuts to microseconds, which is what facts and the database keep.
func timeIn(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime().Truncate(time.Microsecond)
	return &at
}

func timeOut(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// enumIn returns the name of a protobuf enum value without its prefix, which is
// the word that the domain and the facts use.
func enumIn(e fmt.Stringer, prefix string) string { return strings.TrimPrefix(e.String(), prefix) }

func paymentOut(p *Payment, h journal.Head) *paymentpb.Payment {
	money := func(amount int64) *commercepb.Money {
		return &commercepb.Money{Amount: amount, Currency: p.Amount.Currency}
	}
	return &paymentpb.Payment{
		PaymentId: p.ID, OrderId: p.OrderID, CustomerId: p.CustomerID,
		State:      paymentpb.PaymentState(paymentpb.PaymentState_value["PAYMENT_STATE_"+string(p.State())]),
		Fulfilment: commercepb.Fulfilment(commercepb.Fulfilment_value["FULFILMENT_"+string(p.Fulfilment)]),
		Method:     commercepb.PaymentMethod(commercepb.PaymentMethod_value["PAYMENT_METHOD_"+p.Method]),
		Amount:     money(p.Amount.Amount), Installments: p.Installments,
		Captured: money(p.Captured), Refunded: money(p.Refunded), Voided: money(p.Voided),
		ProviderReference: p.ProviderReference, ExpiresAt: timeOut(p.ExpiresAt), DeclineCode: p.DeclineCode,
		DeclineRetryable: p.Retryable,
		Version:          h.Version, UpdatedAt: timestamppb.New(h.RecordedAt),
	}
}

func tokenOut(p *Payment, h journal.Head) *freshnesspb.Token {
	return &freshnesspb.Token{AggregateType: aggregateType, AggregateId: p.ID, Version: h.Version, Epoch: h.Epoch, EventId: h.EventID}
}
