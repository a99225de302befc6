package payment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// usualActor is who acted when a command does not say.
const usualActor = "customer"

// server is the gRPC side: translate, decide, translate; and ask the provider
// where the decision says so.
type server struct {
	paymentpb.UnimplementedPaymentServiceServer
	journal  *journal.Journal
	table    *journal.Table[Payment]
	pager    *rpc.Pager
	provider Provider
	patience ProviderConfig
	log      *slog.Logger
}

// command lets one command take effect. Where it needs the provider, it takes
// effect in two transactions: the first commits the attempt, then the provider
// is asked, then the second commits its answer. The request id is that of both,
// and names the call at the provider too, so the command may be repeated at any
// point and goes on where it stood.
func command[R proto.Message](ctx context.Context, s *server, method, id string, r owner.Request,
	decide func(*Payment, Meta, Attempt) ([]Event, error), answer func(*paymentpb.Payment, *freshnesspb.Token) R) (R, error) {
	var none R
	req := journal.Request{ID: r.GetRequestId(), Method: method, Message: r, AggregateID: id}
	var asking *Payment
	resp, replayed, err := journal.Execute(ctx, s.journal, s.table, req,
		func(p *Payment, now time.Time) ([]journal.Fact, error) {
			asking = nil
			events, err := decide(p, Meta(owner.MetaIn(r, usualActor, now)), Attempt{Key: r.GetRequestId(), RequestID: r.GetRequestId()})
			if err != nil {
				return nil, err
			}
			stated := change(p, events)
			if p.Attempt != nil && p.Attempt.Key == r.GetRequestId() {
				asking = p
			}
			return stated, nil
		},
		func(p *Payment, h journal.Head) R {
			return answer(paymentOut(p, h), owner.Token(aggregateType, p.ID, h))
		})
	if err != nil {
		return none, err
	}
	if replayed {
		// The remembered answer may be that of the first half.
		p, err := owner.Get(ctx, s.journal.Pool(), s.table, paymentID(resp))
		if err != nil {
			return none, err
		}
		if p.State.Attempt == nil || p.State.Attempt.Key != r.GetRequestId() {
			return final[R](ctx, s, req)
		}
		asking = p.State
	}
	if asking == nil {
		return resp, nil
	}
	settled, err := s.ask(ctx, asking, *asking.Attempt)
	if errors.Is(err, errSettled) {
		return final[R](ctx, s, req) // somebody else brought the answer
	}
	if err != nil {
		return none, err
	}
	typed, ok := settled.(R)
	if !ok {
		return none, fmt.Errorf("%s was answered by a %T", method, settled)
	}
	return typed, nil
}

// final returns the answer that was remembered when the provider had answered.
func final[R proto.Message](ctx context.Context, s *server, req journal.Request) (R, error) {
	resp, found, err := journal.Recall[R](ctx, s.journal, req)
	if err == nil && !found {
		err = fault.Conflict("the payment provider refused this command meanwhile; try again")
	}
	return resp, err
}

// paymentID returns the id in a command's answer.
func paymentID(resp proto.Message) string {
	if r, ok := resp.(interface{ GetPayment() *paymentpb.Payment }); ok {
		return r.GetPayment().GetPaymentId()
	}
	return ""
}

// AuthorizePayment asks the provider to hold an amount, or records what another
// system did.
func (s *server) AuthorizePayment(ctx context.Context, r *paymentpb.AuthorizePaymentRequest) (*paymentpb.AuthorizePaymentResponse, error) {
	authorize, err := authorizeIn(r)
	if err != nil {
		return nil, err
	}
	id := r.GetPaymentId()
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make a payment id: %w", err)
		}
		id = made.String()
	}
	return command(ctx, s, "AuthorizePayment", id, r,
		func(p *Payment, m Meta, t Attempt) ([]Event, error) {
			authorize.Meta = m
			return p.Authorize(authorize, t)
		},
		func(p *paymentpb.Payment, t *freshnesspb.Token) *paymentpb.AuthorizePaymentResponse {
			return &paymentpb.AuthorizePaymentResponse{Payment: p, Token: t}
		})
}

// CapturePayment collects all or part of what is authorised.
func (s *server) CapturePayment(ctx context.Context, r *paymentpb.CapturePaymentRequest) (*paymentpb.CapturePaymentResponse, error) {
	amount, err := moneyIn("amount", r.GetAmount())
	if err != nil {
		return nil, err
	}
	return command(ctx, s, "CapturePayment", r.GetPaymentId(), r,
		func(p *Payment, m Meta, t Attempt) ([]Event, error) {
			return p.Capture(Capture{Meta: m, Amount: amount, ShipmentID: r.GetShipmentId()}, t)
		},
		func(p *paymentpb.Payment, t *freshnesspb.Token) *paymentpb.CapturePaymentResponse {
			return &paymentpb.CapturePaymentResponse{Payment: p, Token: t}
		})
}

// VoidPayment releases what is authorised and not collected.
func (s *server) VoidPayment(ctx context.Context, r *paymentpb.VoidPaymentRequest) (*paymentpb.VoidPaymentResponse, error) {
	return command(ctx, s, "VoidPayment", r.GetPaymentId(), r,
		func(p *Payment, m Meta, t Attempt) ([]Event, error) {
			return p.Void(Void{Meta: m, Reason: r.GetReason()}, t)
		},
		func(p *paymentpb.Payment, t *freshnesspb.Token) *paymentpb.VoidPaymentResponse {
			return &paymentpb.VoidPaymentResponse{Payment: p, Token: t}
		})
}

// RefundPayment gives back all or part of what was collected.
func (s *server) RefundPayment(ctx context.Context, r *paymentpb.RefundPaymentRequest) (*paymentpb.RefundPaymentResponse, error) {
	amount, err := moneyIn("amount", r.GetAmount())
	if err != nil {
		return nil, err
	}
	return command(ctx, s, "RefundPayment", r.GetPaymentId(), r,
		func(p *Payment, m Meta, t Attempt) ([]Event, error) {
			return p.Refund(Refund{Meta: m, Amount: amount, Reason: r.GetReason()}, t)
		},
		func(p *paymentpb.Payment, t *freshnesspb.Token) *paymentpb.RefundPaymentResponse {
			return &paymentpb.RefundPaymentResponse{Payment: p, Token: t}
		})
}

// CorrectPayment puts right, later, how much was collected.
func (s *server) CorrectPayment(ctx context.Context, r *paymentpb.CorrectPaymentRequest) (*paymentpb.CorrectPaymentResponse, error) {
	captured, err := moneyIn("corrected_captured", r.GetCorrectedCaptured())
	if err != nil {
		return nil, err
	}
	effective := *owner.TimeIn(r.GetEffectiveAt())
	return command(ctx, s, "CorrectPayment", r.GetPaymentId(), r,
		func(p *Payment, m Meta, _ Attempt) ([]Event, error) {
			return p.Correct(Correct{Meta: m, Captured: captured, EffectiveAt: effective, Reason: r.GetReason()})
		},
		func(p *paymentpb.Payment, t *freshnesspb.Token) *paymentpb.CorrectPaymentResponse {
			return &paymentpb.CorrectPaymentResponse{Payment: p, Token: t}
		})
}

// GetPayment returns one payment as its owner sees it now.
func (s *server) GetPayment(ctx context.Context, r *paymentpb.GetPaymentRequest) (*paymentpb.GetPaymentResponse, error) {
	p, err := owner.Get(ctx, s.journal.Pool(), s.table, r.GetPaymentId())
	if err != nil {
		return nil, err
	}
	return &paymentpb.GetPaymentResponse{
		Payment: paymentOut(p.State, p.Head), Token: owner.Token(aggregateType, p.State.ID, p.Head),
	}, nil
}

// ListPayments pages through payments, newest first.
func (s *server) ListPayments(ctx context.Context, r *paymentpb.ListPaymentsRequest) (*paymentpb.ListPaymentsResponse, error) {
	page, next, err := owner.List(ctx, s.journal.Pool(), s.pager, s.table, r,
		owner.Filter{Column: "order_id", Values: []string{r.GetOrderId()}}, owner.Filter{Column: "state_name", Values: owner.EnumsIn(r.GetStates(), "PAYMENT_STATE_")})
	if err != nil {
		return nil, err
	}
	resp := &paymentpb.ListPaymentsResponse{NextPageToken: next}
	for _, p := range page {
		resp.Payments = append(resp.Payments, paymentOut(p.State, p.Head))
	}
	return resp, nil
}
