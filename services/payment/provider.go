package payment

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Call is one request to the payment provider. The same Key never has a second
// effect and always gets the same answer.
type Call struct {
	Key               string
	Kind              Kind
	PaymentID         string
	Amount            Money
	Method            string
	Reference         string // the provider's token for the method
	ProviderReference string // what the provider called the authorisation
}

// Provider is the port to a payment provider; the simulator is one side of it,
// a real provider's client would be another. An error means that the outcome is
// unknown, never a refusal. A provider may deliver its answer more than once.
type Provider interface {
	Do(ctx context.Context, call Call) ([]Answer, error)
}

// SimulatorConfig switches misbehaviour of the simulated provider on. Whether a
// call is hit is a function of its key, so trying again changes nothing. Single
// payments choose by their reference: "tok_decline", "tok_decline_capture",
// "tok_timeout" (the first answer is lost), "tok_late_N" (the first N-1 answers
// are lost), "tok_duplicate", "tok_slow_MS", "tok_lapse_S" (what is approved
// lapses after S seconds).
type SimulatorConfig struct {
	DeclineRate   float64       `help:"Share of authorisations that the simulated provider declines, 0 to 1." default:"0"`
	TimeoutRate   float64       `help:"Share of calls whose first answer gets lost, 0 to 1." default:"0"`
	DuplicateRate float64       `help:"Share of calls that are answered twice, 0 to 1." default:"0"`
	Delay         time.Duration `help:"How long the simulated provider thinks." default:"0s"`
	Validity      time.Duration `help:"How long an authorisation by the simulated provider holds." default:"168h"`
}

// codeNoFunds is the simulator's only refusal. Money may come, so the method may
// be tried again.
const codeNoFunds = "INSUFFICIENT_FUNDS"

// Simulator is a payment provider that lives in a table of its own, so that it
// remembers what it approved as a real one does.
type Simulator struct {
	cfg  SimulatorConfig
	pool *pgxpool.Pool
}

// NewSimulator returns a simulated provider.
func NewSimulator(cfg SimulatorConfig, pool *pgxpool.Pool) *Simulator {
	return &Simulator{cfg: cfg, pool: pool}
}

// Do carries a call out once and answers it, or loses the answer.
func (s *Simulator) Do(ctx context.Context, call Call) ([]Answer, error) {
	if err := s.think(ctx, call); err != nil {
		return nil, err
	}
	approved, code, message := true, "", ""
	if declined := call.Kind == KindAuthorize && s.hit("decline", call.Key, s.cfg.DeclineRate); declined ||
		call.Kind == KindAuthorize && call.Reference == "tok_decline" || call.Kind == KindCapture && call.Reference == "tok_decline_capture" {
		approved, code, message = false, codeNoFunds, "the account does not cover the amount"
	}
	var a Answer
	var calls int
	var first time.Time
	err := s.pool.QueryRow(ctx, `
		INSERT INTO simulated_provider (key, kind, payment_id, amount, approved, reference, code, message)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (key) DO UPDATE SET calls = simulated_provider.calls + 1
		RETURNING approved, reference, code, message, calls, created_at`,
		call.Key, string(call.Kind), call.PaymentID, call.Amount.Amount, approved, "sim-"+call.Key, code, message).
		Scan(&a.Approved, &a.Reference, &a.Code, &a.Message, &calls, &first)
	if err != nil {
		return nil, fmt.Errorf("simulated provider: %w", err)
	}
	a.Retryable = a.Code == codeNoFunds
	if call.Kind == KindAuthorize && a.Approved {
		a.ExpiresAt = s.lapses(call, first)
	}
	if calls < s.answeredFrom(call) {
		<-ctx.Done() // it happened, and nobody hears of it
		return nil, fmt.Errorf("simulated provider: %w", ctx.Err())
	}
	if call.Reference == "tok_duplicate" || s.hit("duplicate", call.Key, s.cfg.DuplicateRate) {
		return []Answer{a, a}, nil
	}
	return []Answer{a}, nil
}

func (s *Simulator) think(ctx context.Context, call Call) error {
	delay := s.cfg.Delay
	if ms, ok := strings.CutPrefix(call.Reference, "tok_slow_"); ok {
		if n, err := strconv.Atoi(ms); err == nil {
			delay = time.Duration(n) * time.Millisecond
		}
	}
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("simulated provider: %w", ctx.Err())
	}
}

// lapses is when an authorisation is not held any more; nil: it always is.
func (s *Simulator) lapses(call Call, approved time.Time) *time.Time {
	validity := s.cfg.Validity
	if n, ok := strings.CutPrefix(call.Reference, "tok_lapse_"); ok {
		if seconds, err := strconv.Atoi(n); err == nil {
			validity = time.Duration(seconds) * time.Second
		}
	}
	if validity <= 0 {
		return nil
	}
	at := approved.Add(validity).UTC()
	return &at
}

// answeredFrom returns from which call on the answer arrives.
func (s *Simulator) answeredFrom(call Call) int {
	if n, ok := strings.CutPrefix(call.Reference, "tok_late_"); ok {
		if from, err := strconv.Atoi(n); err == nil {
			return from
		}
	}
	if call.Reference == "tok_timeout" || s.hit("timeout", call.Key, s.cfg.TimeoutRate) {
		return 2
	}
	return 1
}

// hit decides by the key alone.
func (s *Simulator) hit(what, key string, rate float64) bool {
	if rate <= 0 {
		return false
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(what + "\x00" + key))
	return float64(h.Sum64()%1_000_000) < rate*1_000_000
}
