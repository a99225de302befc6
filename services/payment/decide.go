package payment

import (
	"github.com/tidemark-dev/tidemark/platform/fault"
)

// maxAmount keeps every sum far from the ends of int64.
const maxAmount = int64(1_000_000_000_000)

// Authorize decides about a new payment. A MANAGED one is requested, and the
// provider is about to be asked under key; an EXTERNAL one gets its outcome at
// once.
func (p *Payment) Authorize(c Authorize, attempt Attempt) ([]Event, error) {
	if p.Phase != None {
		return nil, fault.AlreadyExists("payment", p.ID)
	}
	switch {
	case c.Amount.Amount < 0 || c.Amount.Amount == 0 && c.Fulfilment == Managed:
		return nil, fault.Invalid("amount.amount", "must be positive")
	case c.Amount.Amount > maxAmount:
		return nil, fault.Invalid("amount.amount", "is above %d minor units", maxAmount)
	}
	events := []Event{WasRequested{c}}
	if c.Fulfilment == Managed {
		if c.Outcome != "" {
			return nil, fault.Invalid("external_outcome", "is for EXTERNAL payments only")
		}
		if c.Retryable {
			return nil, fault.Invalid("external_retryable", "is for EXTERNAL payments only")
		}
		attempt.Meta, attempt.Kind, attempt.Amount = c.Meta, KindAuthorize, c.Amount.Amount
		return append(events, AttemptStarted{attempt}), nil
	}
	decided := c.Meta
	if c.DecidedAt != nil {
		decided.OccurredAt = *c.DecidedAt
	}
	if c.Retryable && c.Outcome != "DECLINED" {
		return nil, fault.Invalid("external_retryable", "is for the outcome DECLINED only")
	}
	switch c.Outcome {
	case "PENDING":
	case "AUTHORIZED":
		events = append(events, WasAuthorized{Meta: decided})
	case "DECLINED":
		events = append(events, WasDeclined{Meta: decided, Code: "EXTERNAL", Retryable: c.Retryable})
	default:
		return nil, fault.Invalid("external_outcome", "is required for EXTERNAL payments")
	}
	return events, nil
}

// Capture decides about collecting. For a MANAGED payment the provider is asked
// first and Answered brings the outcome; an EXTERNAL one was collected elsewhere.
func (p *Payment) Capture(c Capture, attempt Attempt) ([]Event, error) {
	if err := p.in("CapturePayment", Authorized, PartiallyCaptured); err != nil {
		return nil, err
	}
	if err := p.idle("CapturePayment"); err != nil {
		return nil, err
	}
	if err := p.amount("amount", c.Amount); err != nil {
		return nil, err
	}
	if c.Amount.Amount > p.Open {
		return nil, fault.RuleViolated(string(p.State()), "CapturePayment", "only %d of %d minor units are left to collect", p.Open, p.Amount.Amount)
	}
	if p.Fulfilment == Managed {
		attempt.Meta, attempt.Kind, attempt.Amount, attempt.ShipmentID = c.Meta, KindCapture, c.Amount.Amount, c.ShipmentID
		return []Event{AttemptStarted{attempt}}, nil
	}
	return []Event{WasCaptured{Capture: c, Total: p.Captured + c.Amount.Amount}}, nil
}

// Void decides about releasing what is open. A void of a payment that the
// provider has not answered yet takes effect at once; Answered releases a late
// approval at the provider.
func (p *Payment) Void(c Void, attempt Attempt) ([]Event, error) {
	// What is still held is released also after all that was collected went back.
	if err := p.in("VoidPayment", Requested, Authorized, PartiallyCaptured); err != nil && (p.State() != Refunded || p.Open == 0) {
		return nil, err
	}
	if p.Phase == Requested {
		return []Event{WasVoided{Void: c, Amount: p.Amount.Amount}}, nil
	}
	if err := p.idle("VoidPayment"); err != nil {
		return nil, err
	}
	if p.Fulfilment == Managed {
		attempt.Meta, attempt.Kind, attempt.Amount, attempt.Reason = c.Meta, KindVoid, p.Open, c.Reason
		return []Event{AttemptStarted{attempt}}, nil
	}
	return []Event{WasVoided{Void: c, Amount: p.Open}}, nil
}

// Refund decides about giving back.
func (p *Payment) Refund(c Refund, attempt Attempt) ([]Event, error) {
	if err := p.in("RefundPayment", PartiallyCaptured, Captured); err != nil {
		return nil, err
	}
	if err := p.idle("RefundPayment"); err != nil {
		return nil, err
	}
	if err := p.amount("amount", c.Amount); err != nil {
		return nil, err
	}
	if left := p.Captured - p.Refunded; c.Amount.Amount > left {
		return nil, fault.RuleViolated(string(p.State()), "RefundPayment", "only %d of %d minor units are left to give back", left, p.Captured)
	}
	if p.Fulfilment == Managed {
		attempt.Meta, attempt.Kind, attempt.Amount, attempt.Reason = c.Meta, KindRefund, c.Amount.Amount, c.Reason
		return []Event{AttemptStarted{attempt}}, nil
	}
	return []Event{WasRefunded{Refund: c, Total: p.Refunded + c.Amount.Amount}}, nil
}

// Correct decides about a late correction. It concerns the books only: the
// provider is not asked.
func (p *Payment) Correct(c Correct) ([]Event, error) {
	if err := p.in("CorrectPayment", PartiallyCaptured, Captured, Refunded); err != nil {
		return nil, err
	}
	if err := p.idle("CorrectPayment"); err != nil {
		return nil, err
	}
	switch {
	case c.Captured.Currency != p.Amount.Currency:
		return nil, fault.Invalid("corrected_captured.currency", "the payment is in %s", p.Amount.Currency)
	case c.Captured.Amount < 0 || c.Captured.Amount > maxAmount:
		return nil, fault.Invalid("corrected_captured.amount", "must be between 0 and %d minor units", maxAmount)
	case c.Captured.Amount == p.Captured:
		return nil, fault.RuleViolated(string(p.State()), "CorrectPayment", "%d minor units are recorded already", p.Captured)
	case c.Captured.Amount < p.Refunded:
		return nil, fault.RuleViolated(string(p.State()), "CorrectPayment", "%d minor units were given back already", p.Refunded)
	}
	return []Event{WasCorrected{Correct: c, Previous: p.Captured}}, nil
}

// Answered decides what the provider's answer to the attempt under key means. A
// second answer to the same attempt, or one to an attempt that is unknown,
// means nothing. Meta is when the answer came.
func (p *Payment) Answered(key string, a Answer, at Meta) []Event {
	t := p.Attempt
	if t == nil || t.Key != key {
		return nil
	}
	events := []Event{AttemptEnded{at}}
	money := Money{Amount: t.Amount, Currency: p.Amount.Currency}
	switch {
	case t.Kind == KindAuthorize && p.Phase == Voided && a.Approved:
		// It was voided while the provider was thinking: release it there too.
		late := *t
		late.Kind, late.Key, late.Reason = KindLateVoid, t.Key+"/late-void", "voided before the approval arrived"
		late.RequestID = ""
		return append(events, AttemptStarted{late})
	case t.Kind == KindAuthorize && p.Phase != Requested, t.Kind == KindLateVoid:
		return events
	case t.Kind == KindAuthorize && a.Approved:
		return append(events, WasAuthorized{Meta: at, ProviderReference: a.Reference, ExpiresAt: a.ExpiresAt})
	case t.Kind == KindAuthorize:
		return append(events, WasDeclined{Meta: at, Code: a.Code, Message: a.Message, Retryable: a.Retryable})
	case !a.Approved:
		return events
	case t.Kind == KindCapture:
		return append(events, WasCaptured{Capture: Capture{Meta: t.Meta, Amount: money, ShipmentID: t.ShipmentID}, Total: p.Captured + t.Amount})
	case t.Kind == KindVoid:
		return append(events, WasVoided{Void: Void{Meta: t.Meta, Reason: t.Reason}, Amount: t.Amount})
	case t.Kind == KindRefund:
		return append(events, WasRefunded{Refund: Refund{Meta: t.Meta, Amount: money, Reason: t.Reason}, Total: p.Refunded + t.Amount})
	}
	return events
}
