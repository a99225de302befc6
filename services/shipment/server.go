package shipment

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
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// usualActor is who acted when a command does not say.
const usualActor = "carrier"

// server is the gRPC side: translate, decide, translate.
type server struct {
	shipmentpb.UnimplementedShipmentServiceServer
	journal *journal.Journal
	pager   *rpc.Pager
}

// command lets one command take effect. Decide gets the shipment and what every
// command carries; answer wraps the shipment after it.
func command[R proto.Message](ctx context.Context, srv *server, method, id string, r owner.Request,
	decide func(*Shipment, Meta) ([]Event, error), answer func(*shipmentpb.Shipment, *freshnesspb.Token) R) (R, error) {
	req := journal.Request{ID: r.GetRequestId(), Method: method, Message: r, AggregateID: id}
	resp, _, err := journal.Execute(ctx, srv.journal, &table, req,
		func(s *Shipment, now time.Time) ([]journal.Fact, error) {
			events, err := decide(s, Meta(owner.MetaIn(r, usualActor, now)))
			if err != nil {
				return nil, err
			}
			return change(s, events), nil
		},
		func(s *Shipment, h journal.Head) R {
			return answer(shipmentOut(s, h), owner.Token(aggregateType, s.ID, h))
		})
	return resp, err
}

// PlanShipment plans what one warehouse is to ship for an order.
func (srv *server) PlanShipment(ctx context.Context, r *shipmentpb.PlanShipmentRequest) (*shipmentpb.PlanShipmentResponse, error) {
	plan := planIn(r)
	id := r.GetShipmentId()
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make a shipment id: %w", err)
		}
		id = made.String()
	}
	return command(ctx, srv, "PlanShipment", id, r,
		func(s *Shipment, m Meta) ([]Event, error) { plan.Meta = m; return s.Plan(plan) },
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.PlanShipmentResponse {
			return &shipmentpb.PlanShipmentResponse{Shipment: s, Token: t}
		})
}

// DispatchShipment hands a shipment to the carrier.
func (srv *server) DispatchShipment(ctx context.Context, r *shipmentpb.DispatchShipmentRequest) (*shipmentpb.DispatchShipmentResponse, error) {
	return command(ctx, srv, "DispatchShipment", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Dispatch(Dispatch{
				Meta: m, Carrier: r.GetCarrier(), TrackingNumber: r.GetTrackingNumber(), ExpectedAt: owner.TimeIn(r.GetExpectedAt()),
			})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.DispatchShipmentResponse {
			return &shipmentpb.DispatchShipmentResponse{Shipment: s, Token: t}
		})
}

// RecordScan records where the carrier saw a shipment.
func (srv *server) RecordScan(ctx context.Context, r *shipmentpb.RecordScanRequest) (*shipmentpb.RecordScanResponse, error) {
	return command(ctx, srv, "RecordScan", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Scan(Scan{Meta: m, Location: r.GetLocation(), Place: placeIn(r.GetPlace()), Description: r.GetDescription()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.RecordScanResponse {
			return &shipmentpb.RecordScanResponse{Shipment: s, Token: t}
		})
}

// ReportDelay moves the expected date, or says that nobody knows it any more.
func (srv *server) ReportDelay(ctx context.Context, r *shipmentpb.ReportDelayRequest) (*shipmentpb.ReportDelayResponse, error) {
	return command(ctx, srv, "ReportDelay", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Delay(Delay{Meta: m, ExpectedAt: owner.TimeIn(r.GetExpectedAt()), Reason: r.GetReason()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.ReportDelayResponse {
			return &shipmentpb.ReportDelayResponse{Shipment: s, Token: t}
		})
}

// DeliverShipment records that the customer has it.
func (srv *server) DeliverShipment(ctx context.Context, r *shipmentpb.DeliverShipmentRequest) (*shipmentpb.DeliverShipmentResponse, error) {
	return command(ctx, srv, "DeliverShipment", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Deliver(Deliver{Meta: m, Location: r.GetLocation(), SignedByRole: r.GetSignedByRole()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.DeliverShipmentResponse {
			return &shipmentpb.DeliverShipmentResponse{Shipment: s, Token: t}
		})
}

// LoseShipment records that the carrier lost it.
func (srv *server) LoseShipment(ctx context.Context, r *shipmentpb.LoseShipmentRequest) (*shipmentpb.LoseShipmentResponse, error) {
	return command(ctx, srv, "LoseShipment", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Lose(Lose{Meta: m, Reason: r.GetReason()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.LoseShipmentResponse {
			return &shipmentpb.LoseShipmentResponse{Shipment: s, Token: t}
		})
}

// ReturnShipment records that it came back.
func (srv *server) ReturnShipment(ctx context.Context, r *shipmentpb.ReturnShipmentRequest) (*shipmentpb.ReturnShipmentResponse, error) {
	return command(ctx, srv, "ReturnShipment", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Return(Return{Meta: m, Reason: r.GetReason()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.ReturnShipmentResponse {
			return &shipmentpb.ReturnShipmentResponse{Shipment: s, Token: t}
		})
}

// CancelShipment cancels a shipment before dispatch.
func (srv *server) CancelShipment(ctx context.Context, r *shipmentpb.CancelShipmentRequest) (*shipmentpb.CancelShipmentResponse, error) {
	return command(ctx, srv, "CancelShipment", r.GetShipmentId(), r,
		func(s *Shipment, m Meta) ([]Event, error) {
			return s.Cancel(Cancel{Meta: m, Reason: r.GetReason()})
		},
		func(s *shipmentpb.Shipment, t *freshnesspb.Token) *shipmentpb.CancelShipmentResponse {
			return &shipmentpb.CancelShipmentResponse{Shipment: s, Token: t}
		})
}

// GetShipment returns one shipment as its owner sees it now.
func (srv *server) GetShipment(ctx context.Context, r *shipmentpb.GetShipmentRequest) (*shipmentpb.GetShipmentResponse, error) {
	s, err := owner.Get(ctx, srv.journal.Pool(), &table, r.GetShipmentId())
	if err != nil {
		return nil, err
	}
	return &shipmentpb.GetShipmentResponse{
		Shipment: shipmentOut(s.State, s.Head), Token: owner.Token(aggregateType, s.State.ID, s.Head),
	}, nil
}

// ListShipments pages through shipments, newest first.
func (srv *server) ListShipments(ctx context.Context, r *shipmentpb.ListShipmentsRequest) (*shipmentpb.ListShipmentsResponse, error) {
	fulfilment := owner.Filter{Column: "fulfilment"}
	if r.GetFulfilment() != 0 {
		fulfilment.Values = []string{owner.EnumIn(r.GetFulfilment(), "FULFILMENT_")}
	}
	page, next, err := owner.List(ctx, srv.journal.Pool(), srv.pager, &table, r,
		owner.Filter{Column: "order_id", Values: []string{r.GetOrderId()}}, fulfilment,
		owner.Filter{Column: "state_name", Values: owner.EnumsIn(r.GetStates(), "SHIPMENT_STATE_")})
	if err != nil {
		return nil, err
	}
	resp := &shipmentpb.ListShipmentsResponse{NextPageToken: next}
	for _, s := range page {
		resp.Shipments = append(resp.Shipments, shipmentOut(s.State, s.Head))
	}
	return resp, nil
}
