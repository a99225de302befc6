package payment

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

func authorizeIn(r *paymentpb.AuthorizePaymentRequest) (Authorize, error) {
	a := Authorize{
		OrderID: r.GetOrderId(), CustomerID: r.GetCustomerId(), Fulfilment: Fulfilment(owner.EnumIn(r.GetFulfilment(), "FULFILMENT_")),
		Method: owner.EnumIn(r.GetMethod(), "PAYMENT_METHOD_"), Installments: r.GetInstallments(), Reference: r.GetReference(),
		DecidedAt: owner.TimeIn(r.GetExternalDecidedAt()), Retryable: r.GetExternalRetryable(),
	}
	if r.GetExternalOutcome() != paymentpb.ExternalOutcome_EXTERNAL_OUTCOME_UNSPECIFIED {
		a.Outcome = owner.EnumIn(r.GetExternalOutcome(), "EXTERNAL_OUTCOME_")
	}
	var err error
	a.Amount, err = moneyIn("amount", r.GetAmount())
	return a, err
}

// moneyIn refuses what looks like a currency and is none.
func moneyIn(field string, m *commercepb.Money) (Money, error) {
	if err := owner.CheckCurrency(field+".currency", m.GetCurrency()); err != nil {
		return Money{}, err
	}
	return Money{Amount: m.GetAmount(), Currency: m.GetCurrency()}, nil
}

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
		ProviderReference: p.ProviderReference, ExpiresAt: owner.TimeOut(p.ExpiresAt), DeclineCode: p.DeclineCode,
		DeclineRetryable: p.Retryable,
		Version:          h.Version, UpdatedAt: timestamppb.New(h.RecordedAt),
	}
}
