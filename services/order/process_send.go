package order

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// participants are the services the process commands; the order service itself
// is one of them, through its public door like anybody else.
type participants struct {
	order    orderv1.OrderServiceClient
	payment  paymentv1.PaymentServiceClient
	shipment shipmentv1.ShipmentServiceClient
	requests map[string]journalv1.RequestServiceClient
}

// The participants' names.
var targets = []string{"order", "payment", "shipment"}

// target says who takes a request: its package is named after the service.
func target(request proto.Message) string {
	name, _, _ := strings.Cut(string(request.ProtoReflect().Descriptor().FullName()), ".")
	return name
}

// send makes one call on behalf of the process, in the trace of its cause.
func (p participants) send(ctx context.Context, request proto.Message, cause process.Cause) error {
	call := p.call(request)
	if call == nil {
		return fmt.Errorf("fulfilment sends no %T", request)
	}
	return call(inTrace(ctx, cause))
}

// call returns how a request is sent; nil if it is none that the process sends.
func (p participants) call(request proto.Message) func(context.Context) error {
	switch r := request.(type) {
	case *orderv1.AmendOrderRequest:
		return func(ctx context.Context) error { _, err := p.order.AmendOrder(ctx, r); return err }
	case *orderv1.ConfirmOrderRequest:
		return func(ctx context.Context) error { _, err := p.order.ConfirmOrder(ctx, r); return err }
	case *orderv1.CancelOrderRequest:
		return func(ctx context.Context) error { _, err := p.order.CancelOrder(ctx, r); return err }
	case *orderv1.CompleteOrderRequest:
		return func(ctx context.Context) error { _, err := p.order.CompleteOrder(ctx, r); return err }
	case *paymentv1.AuthorizePaymentRequest:
		return func(ctx context.Context) error { _, err := p.payment.AuthorizePayment(ctx, r); return err }
	case *paymentv1.CapturePaymentRequest:
		return func(ctx context.Context) error { _, err := p.payment.CapturePayment(ctx, r); return err }
	case *paymentv1.VoidPaymentRequest:
		return func(ctx context.Context) error { _, err := p.payment.VoidPayment(ctx, r); return err }
	case *paymentv1.RefundPaymentRequest:
		return func(ctx context.Context) error { _, err := p.payment.RefundPayment(ctx, r); return err }
	case *shipmentv1.PlanShipmentRequest:
		return func(ctx context.Context) error { _, err := p.shipment.PlanShipment(ctx, r); return err }
	case *shipmentv1.CancelShipmentRequest:
		return func(ctx context.Context) error { _, err := p.shipment.CancelShipment(ctx, r); return err }
	}
	return nil
}

func inTrace(ctx context.Context, cause process.Cause) context.Context {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": cause.TraceParent, "tracestate": cause.TraceState,
	})
	return rpc.WithCause(ctx, rpc.Cause{CausationID: cause.ID, CorrelationID: cause.Instance})
}

// resolve makes the outcome of a request definite at the participant.
func (p participants) resolve(ctx context.Context, target, requestID, method string, cause process.Cause) (effective bool, err error) {
	client := p.requests[target]
	if client == nil {
		return false, fmt.Errorf("there is no participant %q", target)
	}
	resp, err := client.ResolveRequest(inTrace(ctx, cause), &journalv1.ResolveRequestRequest{RequestId: requestID, Method: method})
	return resp.GetOutcome() == journalv1.RequestOutcome_REQUEST_OUTCOME_EFFECTIVE, err
}

// forget lets the participant forget the answers to requests.
func (p participants) forget(ctx context.Context, target string, requestIDs []string) error {
	client := p.requests[target]
	if client == nil {
		return fmt.Errorf("there is no participant %q", target)
	}
	_, err := client.ForgetRequests(ctx, &journalv1.ForgetRequestsRequest{RequestIds: requestIDs})
	return err
}
