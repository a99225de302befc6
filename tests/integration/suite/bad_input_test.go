package suite

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// badInput sends what nobody should, and wants an error with the right code,
// a stable reason and, for a field, its name.
func badInput(t *testing.T, w *world) {
	good := func(change func(*orderv1.PlaceOrderRequest)) *orderv1.PlaceOrderRequest {
		r := managed("donald")
		change(r)
		return r
	}
	for _, test := range []struct {
		name    string
		request *orderv1.PlaceOrderRequest
		code    codes.Code
		field   string
	}{
		{"no request id", good(func(r *orderv1.PlaceOrderRequest) { r.RequestId = "" }), codes.InvalidArgument, "request_id"},
		{"negative quantity", good(func(r *orderv1.PlaceOrderRequest) { r.Lines[1].Quantity = -4 }), codes.InvalidArgument, "lines[1].quantity"},
		{"absurd amount", good(func(r *orderv1.PlaceOrderRequest) { r.ShippingFee = euros(1 << 60) }), codes.InvalidArgument, "shipping_fee.amount"},
		{"negative price", good(func(r *orderv1.PlaceOrderRequest) { r.Lines[0].UnitPrice = euros(-1) }), codes.InvalidArgument, "lines[0].unit_price"},
		{"unknown currency", good(func(r *orderv1.PlaceOrderRequest) { r.ShippingFee = &commercev1.Money{Amount: 1, Currency: "euro"} }), codes.InvalidArgument, "shipping_fee.currency"},
		{"two currencies", good(func(r *orderv1.PlaceOrderRequest) { r.ShippingFee.Currency = "USD" }), codes.InvalidArgument, ""},
		{"no lines", good(func(r *orderv1.PlaceOrderRequest) { r.Lines = nil }), codes.InvalidArgument, "lines"},
		{"plan does not pay", good(func(r *orderv1.PlaceOrderRequest) { r.PaymentPlan = r.PaymentPlan[:1] }), codes.InvalidArgument, "payment_plan"},
		{"year 1900", good(func(r *orderv1.PlaceOrderRequest) {
			r.OccurredAt = timestamppb.New(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC))
		}), codes.InvalidArgument, "occurred_at"},
		{"year 9999", good(func(r *orderv1.PlaceOrderRequest) {
			r.OccurredAt = timestamppb.New(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
		}), codes.InvalidArgument, "occurred_at"},
		{"no fulfilment", good(func(r *orderv1.PlaceOrderRequest) { r.Fulfilment = 0 }), codes.InvalidArgument, "fulfilment"},
		{"control characters in an id", good(func(r *orderv1.PlaceOrderRequest) { r.CustomerId = "a\x00b" }), codes.InvalidArgument, "customer_id"},
		{"10 MB string", good(func(r *orderv1.PlaceOrderRequest) { r.Lines[0].Title = strings.Repeat("x", 10<<20) }), codes.ResourceExhausted, ""},
		{"1 MB string", good(func(r *orderv1.PlaceOrderRequest) { r.Lines[0].Title = strings.Repeat("x", 1<<20) }), codes.InvalidArgument, "lines[0].title"},
	} {
		_, err := w.order.PlaceOrder(bounded(t), test.request)
		checkStatus(t, test.name, err, test.code, test.field)
	}

	_, err := w.order.CancelOrder(bounded(t), &orderv1.CancelOrderRequest{
		RequestId: uuid.NewString(), OrderId: "nobody", Reason: orderv1.CancelReason_CANCEL_REASON_CUSTOMER,
	})
	checkStatus(t, "unknown order", err, codes.NotFound, "")
	_, err = w.timeline.GetOrderStatus(bounded(t), &timelinev1.GetOrderStatusRequest{OrderId: "nobody"})
	checkStatus(t, "unknown order in the timeline", err, codes.NotFound, "")
	_, err = w.timeline.ListOrderTimeline(bounded(t), &timelinev1.ListOrderTimelineRequest{OrderId: "x", PageToken: "bm9uc2Vuc2U"})
	checkStatus(t, "forged page token", err, codes.InvalidArgument, "page_token")

	request := managed("donald")
	first, err := w.order.PlaceOrder(bounded(t), request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.order.PlaceOrder(bounded(t), request)
	if err != nil || !again.GetReplayed() || again.GetOrder().GetOrderId() != first.GetOrder().GetOrderId() {
		t.Errorf("the same request again: %v, %v; want the first answer", again, err)
	}
	request.CustomerId = "somebody else"
	request.CustomerId = "else"
	_, err = w.order.PlaceOrder(bounded(t), request)
	checkStatus(t, "request id reused", err, codes.AlreadyExists, "")

	// A connection that sends a preface and dies, and one that never speaks,
	// leave the server serving.
	for _, greeting := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00", ""} {
		conn, err := net.Dial("tcp", w.fleet.Addr(fleet.Order))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(greeting))
		_ = conn.(*net.TCPConn).CloseWrite()
		defer func() { _ = conn.Close() }()
	}
	if _, err := w.order.PlaceOrder(bounded(t), managed("donald")); err != nil {
		t.Errorf("after half-closed connections: %v", err)
	}
}

// checkStatus wants a code, a reason, and the named field among the violations.
func checkStatus(t *testing.T, name string, err error, code codes.Code, field string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code {
		t.Errorf("%s: got %v %q, want %v", name, s.Code(), s.Message(), code)
		return
	}
	var reason string
	var fields []string
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	tooLarge := code == codes.ResourceExhausted // refused by the transport before any of our code
	if reason == "" && !tooLarge {
		t.Errorf("%s: no reason in %v", name, s)
	}
	if field != "" && !strings.Contains(strings.Join(fields, " "), field) {
		t.Errorf("%s: violations name %v, want %s", name, fields, field)
	}
}
