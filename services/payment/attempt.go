package payment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// ProviderConfig says how patient the service is with the provider.
type ProviderConfig struct {
	Timeout      time.Duration `help:"Longest one call to the payment provider may take." default:"4s"`
	RetryAfter   time.Duration `help:"When a call without an answer is made again; longer than the timeout." default:"6s"`
	RecoverEvery time.Duration `help:"How often calls without an answer are looked for." default:"1s"`
}

// Reasons of this service.
const (
	reasonNoAnswer = fault.Reason("PROVIDER_NO_ANSWER")
	reasonRefused  = fault.Reason("PROVIDER_REFUSED")
)

// errSettled says that the attempt has got its answer already.
var errSettled = errors.New("attempt is settled")

// ask makes the call of an attempt that is committed, and commits the answer.
// If no answer comes, the attempt stays and is made again: by the caller with
// the same request id, or by recover.
func (s *server) ask(ctx context.Context, p *Payment, t Attempt) (proto.Message, error) {
	// The answer is worth having even when the caller has gone.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience.Timeout)
	defer cancel()
	answers, err := s.provider.Do(bounded, Call{
		Key: t.Key, Kind: t.Kind, PaymentID: p.ID, Amount: Money{Amount: t.Amount, Currency: p.Amount.Currency},
		Method: p.Method, Reference: p.Reference, ProviderReference: p.ProviderReference,
	})
	if err != nil || len(answers) == 0 {
		return nil, fault.New(fault.KindUnavailable, reasonNoAnswer,
			"the payment provider did not answer; try again with the same request id").Because(err)
	}
	var settled proto.Message
	for i, answer := range answers {
		message, err := s.settle(context.WithoutCancel(ctx), p.ID, t, answer)
		if i == 0 && err == nil {
			settled = message
		}
		if err != nil && (i == 0 || !errors.Is(err, errSettled)) {
			return nil, err
		}
	}
	if !answers[0].Approved && t.Kind != KindAuthorize {
		return nil, fault.New(fault.KindFailedPrecondition, reasonRefused, "the payment provider refused: %s", answers[0].Message).
			With("code", answers[0].Code).With("command", string(t.Kind))
	}
	return settled, nil
}

// settle commits the provider's answer, and with it the answer to the command
// that waits for it. A second answer changes nothing and gives errSettled.
func (s *server) settle(ctx context.Context, id string, t Attempt, answer Answer) (proto.Message, error) {
	if rpc.CauseOf(ctx).CausationID == "" {
		ctx = rpc.WithCause(ctx, rpc.Cause{CausationID: t.RequestID, CorrelationID: rpc.CauseOf(ctx).CorrelationID})
	}
	var late *Attempt
	var paid Payment
	message, _, err := journal.Execute(ctx, s.journal, s.table,
		journal.Request{Method: "Answered", AggregateID: id, AnswerTo: t.RequestID},
		func(p *Payment, now time.Time) ([]journal.Fact, error) {
			events := p.Answered(t.Key, answer, Meta{Actor: "provider", OccurredAt: now})
			if len(events) == 0 {
				return nil, errSettled
			}
			stated := change(p, events)
			late, paid = p.Attempt, *p
			return stated, nil
		},
		func(p *Payment, h journal.Head) proto.Message {
			if t.RequestID == "" || !answer.Approved && t.Kind != KindAuthorize {
				return nil // a refused command may be made again
			}
			return outcome(t.Kind, p, h)
		})
	if err != nil {
		return nil, err
	}
	if late != nil {
		// An approval came after the void: release it. If that gets no answer,
		// recover goes on trying.
		if _, err := s.ask(ctx, &paid, *late); err != nil && fault.ReasonOf(err) != reasonNoAnswer {
			return nil, fmt.Errorf("release a late approval: %w", err)
		}
	}
	return message, nil
}

// outcome is the answer to the command that an attempt belongs to.
func outcome(kind Kind, p *Payment, h journal.Head) proto.Message {
	payment, token := paymentOut(p, h), owner.Token(aggregateType, p.ID, h)
	switch kind {
	case KindAuthorize:
		return &paymentpb.AuthorizePaymentResponse{Payment: payment, Token: token}
	case KindCapture:
		return &paymentpb.CapturePaymentResponse{Payment: payment, Token: token}
	case KindVoid:
		return &paymentpb.VoidPaymentResponse{Payment: payment, Token: token}
	case KindRefund:
		return &paymentpb.RefundPaymentResponse{Payment: payment, Token: token}
	}
	return nil
}

// undecided reports whether a command that moves money still waits for the
// provider. An authorisation does not: from its first commit on it can be voided,
// and a late approval is released.
func (s *server) undecided(ctx context.Context, requestID, method string, answer []byte) (bool, error) {
	var resp proto.Message
	switch method {
	case "CapturePayment":
		resp = &paymentpb.CapturePaymentResponse{}
	case "VoidPayment":
		resp = &paymentpb.VoidPaymentResponse{}
	case "RefundPayment":
		resp = &paymentpb.RefundPaymentResponse{}
	default:
		return false, nil
	}
	if err := proto.Unmarshal(answer, resp); err != nil {
		return false, fmt.Errorf("read the answer to request %s: %w", requestID, err)
	}
	p, err := owner.Get(ctx, s.journal.Pool(), s.table, paymentID(resp))
	if err != nil {
		return false, err
	}
	return p.State.Attempt != nil && p.State.Attempt.RequestID == requestID, nil
}

// recover makes unanswered attempts again, for ever: those of a process that
// died between its commit and the answer, and those that timed out.
func (s *server) recover(ctx context.Context) error {
	ticker := time.NewTicker(s.patience.RecoverEvery)
	defer ticker.Stop()
	for {
		if err := s.recoverOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "recovering payment attempts failed", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *server) recoverOnce(ctx context.Context) error {
	payments, err := claimOverdue(ctx, s.journal.Pool(), s.patience.RetryAfter, 32)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, p := range payments {
		if p.Attempt == nil {
			continue
		}
		g.Go(func() error {
			_, err := s.ask(ctx, p, *p.Attempt)
			if errors.Is(err, errSettled) || fault.ReasonOf(err) == reasonNoAnswer || fault.ReasonOf(err) == reasonRefused {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}
