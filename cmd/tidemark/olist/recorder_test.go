package olist

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// recorder stands at the other end of the wire: it keeps every command by its
// request id and shows what came of them as the two read models would. It
// exists to see what the importer sends when servers answer badly; what the
// commands do in a real fleet is tested on the real fleet.
type recorder struct {
	orderv1.UnimplementedOrderServiceServer
	paymentv1.UnimplementedPaymentServiceServer
	shipmentv1.UnimplementedShipmentServiceServer
	timelinev1.UnimplementedTimelineServiceServer
	operationsv1.UnimplementedOperationsServiceServer

	mu       sync.Mutex
	seen     map[string]proto.Message // by request id
	effects  []string                 // "order: step" in the order of taking effect
	views    map[string]*timelinev1.OrderView
	channels map[string]string
	versions map[string]int64

	// chance is the share of calls that answer UNAVAILABLE, half of them after
	// they took effect.
	chance float64
	// deny refuses a command for good.
	deny func(proto.Message) error
	// after is called when a command has taken effect.
	after func(effects int)
}

// start serves a recorder and returns clients for it.
func start(t *testing.T) (*recorder, *client.Fleet) {
	t.Helper()
	r := &recorder{
		seen: map[string]proto.Message{}, views: map[string]*timelinev1.OrderView{},
		channels: map[string]string{}, versions: map[string]int64{},
	}
	server := grpc.NewServer()
	orderv1.RegisterOrderServiceServer(server, r)
	paymentv1.RegisterPaymentServiceServer(server, r)
	shipmentv1.RegisterShipmentServiceServer(server, r)
	timelinev1.RegisterTimelineServiceServer(server, r)
	operationsv1.RegisterOperationsServiceServer(server, r)
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:recorder",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return r, client.New(client.Conns{Order: conn, Payment: conn, Shipment: conn, Timeline: conn, Operations: conn})
}

type command interface {
	proto.Message
	GetRequestId() string
}

// take records a command and applies it once.
func (r *recorder) take(c command, kind, id string, apply func() (orderID string)) (*freshnessv1.Token, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	chance := rand.Float64()
	if chance < r.chance/2 {
		return nil, false, status.Error(codes.Unavailable, "out of order before")
	}
	if r.deny != nil {
		if err := r.deny(c); err != nil {
			return nil, false, err
		}
	}
	before, replayed := r.seen[c.GetRequestId()]
	if replayed && !proto.Equal(before, c) {
		return nil, false, status.Error(codes.AlreadyExists, "request id used with another body")
	}
	aggregate := kind + "/" + id
	if !replayed {
		orderID := apply()
		r.seen[c.GetRequestId()] = proto.Clone(c)
		r.versions[aggregate]++
		r.effects = append(r.effects, orderID+": "+strings.TrimSuffix(string(c.ProtoReflect().Descriptor().Name()), "Request"))
		if r.after != nil {
			r.after(len(r.effects))
		}
	}
	if chance < r.chance {
		return nil, false, status.Error(codes.Unavailable, "out of order after")
	}
	return &freshnessv1.Token{
		AggregateType: kind, AggregateId: id, Version: r.versions[aggregate], Epoch: "epoch", EventId: uuid.NewString(),
	}, replayed, nil
}

func (r *recorder) view(orderID string) *timelinev1.OrderView {
	if r.views[orderID] == nil {
		r.views[orderID] = &timelinev1.OrderView{OrderId: orderID}
	}
	return r.views[orderID]
}

func (r *recorder) payment(id string) (*timelinev1.OrderView, *timelinev1.PaymentSummary) {
	for _, v := range r.views {
		for _, p := range v.GetPayments() {
			if p.GetPaymentId() == id {
				return v, p
			}
		}
	}
	return &timelinev1.OrderView{}, &timelinev1.PaymentSummary{}
}

func (r *recorder) shipment(id string) (*timelinev1.OrderView, *timelinev1.ShipmentSummary) {
	for _, v := range r.views {
		for _, s := range v.GetShipments() {
			if s.GetShipmentId() == id {
				return v, s
			}
		}
	}
	return &timelinev1.OrderView{}, &timelinev1.ShipmentSummary{}
}

// PlaceOrder and the methods below record one kind of command each.
func (r *recorder) PlaceOrder(_ context.Context, c *orderv1.PlaceOrderRequest) (*orderv1.PlaceOrderResponse, error) {
	token, replayed, err := r.take(c, "order", c.GetOrderId(), func() string {
		v := r.view(c.GetOrderId())
		v.CustomerId, v.Status = c.GetCustomerId(), timelinev1.OrderStatus_ORDER_STATUS_PLACED
		r.channels[c.GetOrderId()] = c.GetChannel()
		return c.GetOrderId()
	})
	return &orderv1.PlaceOrderResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) ConfirmOrder(_ context.Context, c *orderv1.ConfirmOrderRequest) (*orderv1.ConfirmOrderResponse, error) {
	token, replayed, err := r.take(c, "order", c.GetOrderId(), func() string {
		r.view(c.GetOrderId()).Status = timelinev1.OrderStatus_ORDER_STATUS_CONFIRMED
		return c.GetOrderId()
	})
	return &orderv1.ConfirmOrderResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) CancelOrder(_ context.Context, c *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	token, replayed, err := r.take(c, "order", c.GetOrderId(), func() string {
		v := r.view(c.GetOrderId())
		v.Status, v.CancelReason = timelinev1.OrderStatus_ORDER_STATUS_CANCELLED, strings.TrimPrefix(c.GetReason().String(), "CANCEL_REASON_")
		return c.GetOrderId()
	})
	return &orderv1.CancelOrderResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) AuthorizePayment(_ context.Context, c *paymentv1.AuthorizePaymentRequest) (*paymentv1.AuthorizePaymentResponse, error) {
	token, replayed, err := r.take(c, "payment", c.GetPaymentId(), func() string {
		v := r.view(c.GetOrderId())
		v.Payments = append(v.Payments, &timelinev1.PaymentSummary{PaymentId: c.GetPaymentId(), Method: c.GetMethod(), Requested: c.GetAmount()})
		return c.GetOrderId()
	})
	return &paymentv1.AuthorizePaymentResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) CapturePayment(_ context.Context, c *paymentv1.CapturePaymentRequest) (*paymentv1.CapturePaymentResponse, error) {
	token, replayed, err := r.take(c, "payment", c.GetPaymentId(), func() string {
		v, p := r.payment(c.GetPaymentId())
		p.Captured = c.GetAmount()
		return v.GetOrderId()
	})
	return &paymentv1.CapturePaymentResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) PlanShipment(_ context.Context, c *shipmentv1.PlanShipmentRequest) (*shipmentv1.PlanShipmentResponse, error) {
	token, replayed, err := r.take(c, "shipment", c.GetShipmentId(), func() string {
		v := r.view(c.GetOrderId())
		v.Shipments = append(v.Shipments, &timelinev1.ShipmentSummary{ShipmentId: c.GetShipmentId(), State: "planned", Warehouse: c.GetWarehouse()})
		return c.GetOrderId()
	})
	return &shipmentv1.PlanShipmentResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) DispatchShipment(_ context.Context, c *shipmentv1.DispatchShipmentRequest) (*shipmentv1.DispatchShipmentResponse, error) {
	token, replayed, err := r.take(c, "shipment", c.GetShipmentId(), func() string {
		v, s := r.shipment(c.GetShipmentId())
		s.State, v.Status = "dispatched", timelinev1.OrderStatus_ORDER_STATUS_SHIPPED
		return v.GetOrderId()
	})
	return &shipmentv1.DispatchShipmentResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) DeliverShipment(_ context.Context, c *shipmentv1.DeliverShipmentRequest) (*shipmentv1.DeliverShipmentResponse, error) {
	token, replayed, err := r.take(c, "shipment", c.GetShipmentId(), func() string {
		v, s := r.shipment(c.GetShipmentId())
		s.State, v.Status = "delivered", timelinev1.OrderStatus_ORDER_STATUS_DELIVERED
		return v.GetOrderId()
	})
	return &shipmentv1.DeliverShipmentResponse{Token: token, Replayed: replayed}, err
}

func (r *recorder) GetOrderStatus(_ context.Context, q *timelinev1.GetOrderStatusRequest) (*timelinev1.GetOrderStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.views[q.GetOrderId()] == nil {
		return nil, status.Error(codes.NotFound, "no such order")
	}
	return &timelinev1.GetOrderStatusResponse{
		Order: proto.CloneOf(r.views[q.GetOrderId()]), Freshness: &freshnessv1.Freshness{DemandMet: true},
	}, nil
}

func (r *recorder) GetTotals(_ context.Context, q *operationsv1.GetTotalsRequest) (*operationsv1.GetTotalsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	response := &operationsv1.GetTotalsResponse{}
	for id, v := range r.views {
		if r.channels[id] != q.GetChannel() {
			continue
		}
		response.Orders = append(response.Orders, &operationsv1.StatusCount{
			Status: strings.ToLower(strings.TrimPrefix(v.GetStatus().String(), "ORDER_STATUS_")), Orders: 1,
		})
	}
	sums := map[commercev1.PaymentMethod]*operationsv1.MethodTotal{}
	for id, v := range r.views {
		if r.channels[id] != q.GetChannel() {
			continue
		}
		for _, p := range v.GetPayments() {
			m := sums[p.GetMethod()]
			if m == nil {
				m = &operationsv1.MethodTotal{Method: p.GetMethod(), Currency: Currency}
				sums[p.GetMethod()] = m
				response.Money = append(response.Money, m)
			}
			m.Payments++
			m.Requested += p.GetRequested().GetAmount()
			m.Captured += p.GetCaptured().GetAmount()
		}
	}
	return response, nil
}

// steps returns the effects on one order.
func (r *recorder) steps(orderID string) []string {
	var list []string
	for _, e := range r.effects {
		if step, ok := strings.CutPrefix(e, orderID+": "); ok {
			list = append(list, step)
		}
	}
	return list
}

// dump writes the read models in a fixed form.
func (r *recorder) dump() string {
	var b strings.Builder
	for _, id := range []string{"bare", "many", "early", "backwards", "keptboth", "nodates", "fresh", "zero", "bareshipped", "working", "billed", "agreed", "dropped"} {
		fmt.Fprintf(&b, "%s %s %d %d\n", id, r.views[id].GetStatus(), len(r.views[id].GetPayments()), len(r.views[id].GetShipments()))
	}
	return b.String()
}
