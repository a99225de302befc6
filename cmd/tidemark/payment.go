package main

import (
	"strings"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

type paymentCmd struct {
	Authorize paymentAuthorizeCmd `cmd:"" help:"Ask the provider to hold money for an order."`
	Capture   paymentCaptureCmd   `cmd:"" help:"Collect held money, all or a part."`
	Void      paymentVoidCmd      `cmd:"" help:"Release what was not collected."`
	Refund    paymentRefundCmd    `cmd:"" help:"Give collected money back, all or a part."`
	Correct   paymentCorrectCmd   `cmd:"" help:"Correct what was collected, with the date it applies to."`
	Get       paymentGetCmd       `cmd:"" help:"Show a payment as its owner sees it now."`
	List      paymentListCmd      `cmd:"" help:"List payments, newest first."`
}

// paymentMethod reads a method of payment.
func paymentMethod(text string) (commercev1.PaymentMethod, error) {
	name := "PAYMENT_METHOD_" + strings.ToUpper(strings.ReplaceAll(text, "-", "_"))
	value := commercev1.PaymentMethod(commercev1.PaymentMethod_value[name])
	if value == commercev1.PaymentMethod_PAYMENT_METHOD_UNSPECIFIED {
		return 0, usage("payment method %q: want card, debit-card, voucher, bank-slip or bank-transfer", text)
	}
	return value, nil
}

// showPayment shows the payment after a command, for write.
func showPayment[R interface{ GetPayment() *paymentv1.Payment }](response R) (lines []string, orderID string) {
	p := response.GetPayment()
	return paymentPairs(p), p.GetOrderId()
}

func paymentPairs(p *paymentv1.Payment) []string {
	declined := clean(p.GetDeclineCode())
	if p.GetDeclineRetryable() {
		declined += ", may be tried again"
	}
	return []string{
		"payment", p.GetPaymentId(), "order", p.GetOrderId(), "state", word(p.GetState(), "PAYMENT_STATE_"),
		"method", word(p.GetMethod(), "PAYMENT_METHOD_"), "amount", moneyText(p.GetAmount()),
		"captured", moneyText(p.GetCaptured()), "refunded", moneyText(p.GetRefunded()), "released", moneyText(p.GetVoided()),
		"declined", declined,
	}
}

type paymentAuthorizeCmd struct {
	Order  string `arg:"" help:"Id of the order."`
	Amount string `arg:"" help:"Amount, as in 25.00."`
	writeFlags
	ID           string `help:"Id of the payment. Default: made by the service." placeholder:"PAYMENT"`
	Customer     string `help:"Id of the customer. Default: the order's."`
	Currency     string `help:"ISO 4217 code." default:"EUR"`
	Method       string `help:"card, debit-card, voucher, bank-slip or bank-transfer." default:"card"`
	Installments int32  `help:"Instalments agreed with the provider."`
	Reference    string `help:"The provider's token for the method; never a card number."`
	External     string `help:"For a payment that another system made: what it reports: pending, authorized or declined." enum:",pending,authorized,declined" default:""`
	Retryable    bool   `help:"With --external=declined: the same method may be tried again."`
}

func (c *paymentAuthorizeCmd) Run(a *app) error {
	method, err := paymentMethod(c.Method)
	if err != nil {
		return err
	}
	amount, err := parseMoney(c.Amount, c.Currency)
	if err != nil {
		return err
	}
	if c.Customer == "" {
		if c.Customer, err = a.customerOf(c.Order); err != nil {
			return err
		}
	}
	request := &paymentv1.AuthorizePaymentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		PaymentId: c.ID, OrderId: c.Order, CustomerId: c.Customer, Fulfilment: fulfilment("managed"),
		Method: method, Amount: amount, Installments: c.Installments, Reference: c.Reference,
	}
	if c.External != "" {
		request.Fulfilment = fulfilment("external")
		request.ExternalOutcome = enums[paymentv1.ExternalOutcome](
			paymentv1.ExternalOutcome_value, "EXTERNAL_OUTCOME_", []string{c.External})[0]
	}
	if request.ExternalRetryable = c.Retryable; c.Retryable && c.External != "declined" {
		return usage("--retryable goes with --external=declined")
	}
	return write(a, &c.writeFlags, a.Payments.AuthorizePayment, request, showPayment)
}

type paymentCaptureCmd struct {
	Payment string `arg:"" help:"Id of the payment."`
	Amount  string `arg:"" help:"Amount, as in 25.00."`
	writeFlags
	Currency string `help:"ISO 4217 code." default:"EUR"`
	Shipment string `help:"Id of the shipment it is collected for."`
}

func (c *paymentCaptureCmd) Run(a *app) error {
	amount, err := parseMoney(c.Amount, c.Currency)
	if err != nil {
		return err
	}
	return write(a, &c.writeFlags, a.Payments.CapturePayment, &paymentv1.CapturePaymentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		PaymentId: c.Payment, Amount: amount, ShipmentId: c.Shipment,
	}, showPayment)
}

type paymentVoidCmd struct {
	Payment string `arg:"" help:"Id of the payment."`
	writeFlags
	Reason string `help:"Why."`
}

func (c *paymentVoidCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Payments.VoidPayment, &paymentv1.VoidPaymentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		PaymentId: c.Payment, Reason: c.Reason,
	}, showPayment)
}

type paymentRefundCmd struct {
	Payment string `arg:"" help:"Id of the payment."`
	Amount  string `arg:"" help:"Amount, as in 25.00."`
	writeFlags
	Currency string `help:"ISO 4217 code." default:"EUR"`
	Reason   string `help:"Why."`
}

func (c *paymentRefundCmd) Run(a *app) error {
	amount, err := parseMoney(c.Amount, c.Currency)
	if err != nil {
		return err
	}
	return write(a, &c.writeFlags, a.Payments.RefundPayment, &paymentv1.RefundPaymentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		PaymentId: c.Payment, Amount: amount, Reason: c.Reason,
	}, showPayment)
}

type paymentCorrectCmd struct {
	Payment string `arg:"" help:"Id of the payment."`
	Amount  string `arg:"" help:"What was really collected in total, as in 25.00."`
	writeFlags
	Currency  string `help:"ISO 4217 code." default:"EUR"`
	Effective moment `help:"The date the correction applies to." required:"" placeholder:"TIME"`
	Reason    string `help:"Why." required:""`
}

func (c *paymentCorrectCmd) Run(a *app) error {
	amount, err := parseMoney(c.Amount, c.Currency)
	if err != nil {
		return err
	}
	return write(a, &c.writeFlags, a.Payments.CorrectPayment, &paymentv1.CorrectPaymentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		PaymentId: c.Payment, CorrectedCaptured: amount, EffectiveAt: c.Effective.proto(), Reason: c.Reason,
	}, showPayment)
}

type paymentGetCmd struct {
	Payment string `arg:"" help:"Id of the payment."`
}

func (c *paymentGetCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Payments.GetPayment(ctx, &paymentv1.GetPaymentRequest{PaymentId: c.Payment})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	return pairs(a.out, append(paymentPairs(response.GetPayment()), "expires", timeText(response.GetPayment().GetExpiresAt()))...)
}

type paymentListCmd struct {
	pageFlags
	Order string   `help:"Only payments of this order."`
	State []string `help:"Only these states." enum:"requested,authorized,declined,partially-captured,captured,voided,refunded"`
}

func (c *paymentListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Payments.ListPayments(ctx, &paymentv1.ListPaymentsRequest{
		OrderId: c.Order, PageSize: c.Limit, PageToken: c.Page,
		States: enums[paymentv1.PaymentState](paymentv1.PaymentState_value, "PAYMENT_STATE_", c.State),
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"PAYMENT", "ORDER", "STATE", "METHOD", "AMOUNT", "CAPTURED", "REFUNDED"}}
	for _, p := range response.GetPayments() {
		rows = append(rows, []string{
			p.GetPaymentId(), p.GetOrderId(), word(p.GetState(), "PAYMENT_STATE_"), word(p.GetMethod(), "PAYMENT_METHOD_"),
			moneyText(p.GetAmount()), moneyText(p.GetCaptured()), moneyText(p.GetRefunded()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return nil
}
