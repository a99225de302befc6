package order

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// usualActor is who acted when a command does not say.
const usualActor = "customer"

// server is the gRPC side: translate, decide, translate.
type server struct {
	orderpb.UnimplementedOrderServiceServer
	journal *journal.Journal
	pager   *rpc.Pager
}

// command lets one command take effect. Decide gets the order and what every
// command carries; answer wraps the order after it.
func command[R proto.Message](ctx context.Context, s *server, method, id string, r owner.Request,
	decide func(*Order, Meta) ([]Event, error), answer func(*orderpb.Order, *freshnesspb.Token) R) (R, error) {
	req := journal.Request{ID: r.GetRequestId(), Method: method, Message: r, AggregateID: id}
	resp, _, err := journal.Execute(ctx, s.journal, &table, req,
		func(o *Order, now time.Time) ([]journal.Fact, error) {
			events, err := decide(o, Meta(owner.MetaIn(r, usualActor, now)))
			if err != nil {
				return nil, err
			}
			return change(o, events), nil
		},
		func(o *Order, h journal.Head) R { return answer(orderOut(o, h), owner.Token(aggregateType, o.ID, h)) })
	return resp, err
}

// PlaceOrder records a new order.
func (s *server) PlaceOrder(ctx context.Context, r *orderpb.PlaceOrderRequest) (*orderpb.PlaceOrderResponse, error) {
	place, err := placeIn(r)
	if err != nil {
		return nil, err
	}
	id := r.GetOrderId()
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make an order id: %w", err)
		}
		id = made.String()
	}
	return command(ctx, s, "PlaceOrder", id, r,
		func(o *Order, m Meta) ([]Event, error) { place.Meta = m; return o.Place(place) },
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.PlaceOrderResponse {
			return &orderpb.PlaceOrderResponse{Order: o, Token: t}
		})
}

// AmendOrder changes lines, fee, address or promise before dispatch.
func (s *server) AmendOrder(ctx context.Context, r *orderpb.AmendOrderRequest) (*orderpb.AmendOrderResponse, error) {
	amend, err := amendIn(r)
	if err != nil {
		return nil, err
	}
	return command(ctx, s, "AmendOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) { amend.Meta = m; return o.Amend(amend) },
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.AmendOrderResponse {
			return &orderpb.AmendOrderResponse{Order: o, Token: t}
		})
}

// HoldOrder stops an order from moving on until it is released.
func (s *server) HoldOrder(ctx context.Context, r *orderpb.HoldOrderRequest) (*orderpb.HoldOrderResponse, error) {
	return command(ctx, s, "HoldOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) {
			return o.Hold(Hold{Meta: m, Reason: r.GetReason(), Note: r.GetNote()})
		},
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.HoldOrderResponse {
			return &orderpb.HoldOrderResponse{Order: o, Token: t}
		})
}

// ReleaseOrder lifts a hold.
func (s *server) ReleaseOrder(ctx context.Context, r *orderpb.ReleaseOrderRequest) (*orderpb.ReleaseOrderResponse, error) {
	return command(ctx, s, "ReleaseOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) { return o.Release(Release{Meta: m, Note: r.GetNote()}) },
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.ReleaseOrderResponse {
			return &orderpb.ReleaseOrderResponse{Order: o, Token: t}
		})
}

// ConfirmOrder accepts a placed order.
func (s *server) ConfirmOrder(ctx context.Context, r *orderpb.ConfirmOrderRequest) (*orderpb.ConfirmOrderResponse, error) {
	return command(ctx, s, "ConfirmOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) {
			confirm := Confirm{Meta: m, PromisedAt: owner.TimeIn(r.GetPromisedAt())}
			if r.AmendmentsSeen != nil {
				seen := int(r.GetAmendmentsSeen())
				confirm.AmendmentsSeen = &seen
			}
			return o.Confirm(confirm)
		},
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.ConfirmOrderResponse {
			return &orderpb.ConfirmOrderResponse{Order: o, Token: t}
		})
}

// CancelOrder ends an order.
func (s *server) CancelOrder(ctx context.Context, r *orderpb.CancelOrderRequest) (*orderpb.CancelOrderResponse, error) {
	return command(ctx, s, "CancelOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) {
			return o.Cancel(Cancel{Meta: m, Reason: owner.EnumIn(r.GetReason(), "CANCEL_REASON_"), Note: r.GetNote()})
		},
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.CancelOrderResponse {
			return &orderpb.CancelOrderResponse{Order: o, Token: t}
		})
}

// CompleteOrder ends an order of which everything is delivered and paid.
func (s *server) CompleteOrder(ctx context.Context, r *orderpb.CompleteOrderRequest) (*orderpb.CompleteOrderResponse, error) {
	return command(ctx, s, "CompleteOrder", r.GetOrderId(), r,
		func(o *Order, m Meta) ([]Event, error) { return o.Complete(Complete{Meta: m}) },
		func(o *orderpb.Order, t *freshnesspb.Token) *orderpb.CompleteOrderResponse {
			return &orderpb.CompleteOrderResponse{Order: o, Token: t}
		})
}

// GetOrder returns one order as its owner sees it now.
func (s *server) GetOrder(ctx context.Context, r *orderpb.GetOrderRequest) (*orderpb.GetOrderResponse, error) {
	o, err := owner.Get(ctx, s.journal.Pool(), &table, r.GetOrderId())
	if err != nil {
		return nil, err
	}
	return &orderpb.GetOrderResponse{
		Order: orderOut(o.State, o.Head), Token: owner.Token(aggregateType, o.State.ID, o.Head),
	}, nil
}

// ListOrders pages through orders, newest first.
func (s *server) ListOrders(ctx context.Context, r *orderpb.ListOrdersRequest) (*orderpb.ListOrdersResponse, error) {
	page, next, err := owner.List(ctx, s.journal.Pool(), s.pager, &table, r,
		owner.Filter{Column: "customer_id", Values: []string{r.GetCustomerId()}}, owner.Filter{Column: "state_name", Values: owner.EnumsIn(r.GetStates(), "ORDER_STATE_")})
	if err != nil {
		return nil, err
	}
	resp := &orderpb.ListOrdersResponse{NextPageToken: next}
	for _, o := range page {
		resp.Orders = append(resp.Orders, orderOut(o.State, o.Head))
	}
	return resp, nil
}
