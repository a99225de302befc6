// Package payment decides about payments: what was asked for, held, collected
// and given back. payment.go is the decision and nothing else; it knows no
// database, no network and no clock.
package payment

import (
	"time"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// State is where a payment stands.
//
//	Authorize ──▶ REQUESTED ──approved──▶ AUTHORIZED ──Capture (part)──▶ PARTIALLY_CAPTURED ──Capture (rest), Void (rest)──▶ CAPTURED
//	                 │  │                    │   └────────────Capture (all)────────────────────────────────────────────────────▲ │
//	                 │  └──refused──▶ DECLINED                                                                                    │ Refund (all)
//	                 └──────Void──────────┴──Void──▶ VOIDED                                                                       ▼
//	                                                                                                                           REFUNDED
//
//	Refund (part) and Correct keep the state or recompute it from the amounts.
type State string

// The states. The zero value means that the payment does not exist.
const (
	None              State = ""
	Requested         State = "REQUESTED"
	Authorized        State = "AUTHORIZED"
	Declined          State = "DECLINED"
	PartiallyCaptured State = "PARTIALLY_CAPTURED"
	Captured          State = "CAPTURED"
	Voided            State = "VOIDED"
	Refunded          State = "REFUNDED"
)

// Fulfilment says who talks to the provider: for MANAGED payments this service,
// for EXTERNAL ones somebody else.
type Fulfilment string

// The two ways.
const (
	Managed  Fulfilment = "MANAGED"
	External Fulfilment = "EXTERNAL"
)

// Money is an amount in the minor unit of its currency.
type Money struct {
	Amount   int64
	Currency string
}

// Payment is the aggregate. Its methods decide; only Apply changes it. All
// amounts are in the currency of Amount.
type Payment struct {
	ID, OrderID, CustomerID string
	Fulfilment              Fulfilment
	Method                  string
	Amount                  Money
	Installments            int32
	Reference               string // the provider's token for the method
	ProviderReference       string
	ExpiresAt               *time.Time
	DeclineCode             string
	Retryable               bool // the method may be tried again after the refusal

	Phase    State // Requested, Authorized, Declined or Voided; State refines Authorized
	Open     int64 // authorised, neither collected nor released
	Captured int64 // collected, corrections included
	Refunded int64
	Voided   int64
	Captures int32 // number of captures

	// Attempt is the call to the provider whose answer is not known yet.
	Attempt *Attempt
}

// Kind is what the provider is asked to do.
type Kind string

// The kinds. A late void releases an approval that came after the void.
const (
	KindAuthorize Kind = "AUTHORIZE"
	KindCapture   Kind = "CAPTURE"
	KindVoid      Kind = "VOID"
	KindRefund    Kind = "REFUND"
	KindLateVoid  Kind = "LATE_VOID"
)

// Attempt is a call to the provider, committed before it is made. Key is the
// provider's idempotency key: asking again with it has no second effect.
type Attempt struct {
	Meta
	Kind       Kind
	Key        string
	Amount     int64
	ShipmentID string
	Reason     string
	RequestID  string // of the command that waits for the answer; may be empty
}

// Meta is what every command and event carries: who acted, and when in the
// business.
type Meta struct {
	Actor         string
	OccurredAt    time.Time
	TimeEstimated bool
}

// Answer is what the provider said.
type Answer struct {
	Approved  bool
	Reference string
	Code      string // stable code of a refusal
	Message   string
	Retryable bool // the method may be tried again after the refusal
	ExpiresAt *time.Time
}

// Commands.
type (
	// Authorize asks for an amount to be held. For an EXTERNAL payment Outcome
	// says what another system reports.
	Authorize struct {
		Meta
		OrderID, CustomerID string
		Fulfilment          Fulfilment
		Method              string
		Amount              Money
		Installments        int32
		Reference           string
		Outcome             string // EXTERNAL: "PENDING", "AUTHORIZED" or "DECLINED"
		DecidedAt           *time.Time
		Retryable           bool // DECLINED: the method may be tried again
	}
	// Capture collects part or all of what is open.
	Capture struct {
		Meta
		Amount     Money
		ShipmentID string
	}
	// Void releases what is open.
	Void struct {
		Meta
		Reason string
	}
	// Refund gives back part or all of what was collected.
	Refund struct {
		Meta
		Amount Money
		Reason string
	}
	// Correct puts right how much was collected.
	Correct struct {
		Meta
		Captured    Money
		EffectiveAt time.Time
		Reason      string
	}
)

// Event is something that happened to a payment.
type Event interface{ meta() Meta }

// Events. The two about attempts are bookkeeping of this service and leave it
// as no fact.
type (
	// WasRequested starts a payment.
	WasRequested struct{ Authorize }
	// WasAuthorized says that the provider holds the amount.
	WasAuthorized struct {
		Meta
		ProviderReference string
		ExpiresAt         *time.Time
	}
	// WasDeclined says that the provider refused.
	WasDeclined struct {
		Meta
		Code, Message string
		Retryable     bool
	}
	// WasCaptured says that an amount was collected.
	WasCaptured struct {
		Capture
		Total int64
	}
	// WasVoided says that an amount was released.
	WasVoided struct {
		Void
		Amount int64
	}
	// WasRefunded says that an amount was given back.
	WasRefunded struct {
		Refund
		Total int64
	}
	// WasCorrected says what was really collected.
	WasCorrected struct {
		Correct
		Previous int64
	}
	// AttemptStarted says that the provider is about to be asked.
	AttemptStarted struct{ Attempt }
	// AttemptEnded says that the provider's answer is known.
	AttemptEnded struct{ Meta }
)

func (m Meta) meta() Meta { return m }

// State returns the state that the amounts make.
func (p *Payment) State() State {
	switch {
	case p.Phase != Authorized:
		return p.Phase
	case p.Captures == 0:
		return Authorized
	case p.Captured > 0 && p.Refunded >= p.Captured:
		return Refunded
	case p.Open > 0:
		return PartiallyCaptured
	default:
		return Captured
	}
}

// Apply changes the payment by what happened. It accepts whatever was once
// decided, so it checks nothing.
func (p *Payment) Apply(e Event) {
	switch e := e.(type) {
	case WasRequested:
		p.Phase = Requested
		p.OrderID, p.CustomerID, p.Fulfilment, p.Method = e.OrderID, e.CustomerID, e.Fulfilment, e.Method
		p.Amount, p.Installments, p.Reference = e.Amount, e.Installments, e.Reference
	case WasAuthorized:
		p.Phase, p.Open = Authorized, p.Amount.Amount
		p.ProviderReference, p.ExpiresAt = e.ProviderReference, e.ExpiresAt
	case WasDeclined:
		p.Phase, p.DeclineCode, p.Retryable = Declined, e.Code, e.Retryable
	case WasCaptured:
		p.Open -= e.Amount.Amount
		p.Captured = e.Total
		p.Captures++
	case WasVoided:
		p.Voided += e.Amount
		p.Open = 0
		if p.Captures == 0 {
			p.Phase = Voided
		}
	case WasRefunded:
		p.Refunded = e.Total
	case WasCorrected:
		p.Captured = e.Captured.Amount
	case AttemptStarted:
		attempt := e.Attempt
		p.Attempt = &attempt
	case AttemptEnded:
		p.Attempt = nil
	}
}

func (p *Payment) in(command string, states ...State) error {
	state := p.State()
	if state == None {
		return fault.NotFound("payment", p.ID)
	}
	for _, s := range states {
		if state == s {
			return nil
		}
	}
	return fault.IllegalTransition("payment", string(state), command)
}

// idle refuses a command while an earlier call to the provider is unanswered.
func (p *Payment) idle(command string) error {
	if p.Attempt == nil {
		return nil
	}
	return fault.Conflict("payment %s waits for the provider's answer to %s: try %s again", p.ID, p.Attempt.Kind, command).
		With("state", string(p.State())).With("command", command)
}

// amount wants a positive amount in the payment's currency; an EXTERNAL payment
// may move nothing.
func (p *Payment) amount(field string, m Money) error {
	switch {
	case m.Currency != p.Amount.Currency:
		return fault.Invalid(field+".currency", "the payment is in %s", p.Amount.Currency)
	case m.Amount < 0 || m.Amount == 0 && p.Fulfilment == Managed:
		return fault.Invalid(field+".amount", "must be positive")
	}
	return nil
}
