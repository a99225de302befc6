package session_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/session"
)

// fleet is what a session meets: a service that commits, and a read model that
// says what was demanded of it.
type fleet struct {
	orderv1.UnimplementedOrderServiceServer
	timelinev1.UnimplementedTimelineServiceServer

	mu    sync.Mutex
	token *freshnessv1.Token
	fail  error
	asked *freshnessv1.ReadOptions
}

func (f *fleet) CancelOrder(context.Context, *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &orderv1.CancelOrderResponse{Token: f.token}, f.fail
}

func (f *fleet) GetOrderStatus(_ context.Context, r *timelinev1.GetOrderStatusRequest) (*timelinev1.GetOrderStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r.GetRead()
	return &timelinev1.GetOrderStatusResponse{}, f.fail
}

func (f *fleet) WatchOrder(_ *timelinev1.WatchOrderRequest, s grpc.ServerStreamingServer[timelinev1.WatchOrderResponse]) error {
	if err := s.Send(&timelinev1.WatchOrderResponse{}); err != nil {
		return err
	}
	return f.fail
}

func start(t *testing.T) (*fleet, *grpc.ClientConn) {
	t.Helper()
	f := &fleet{}
	server := grpc.NewServer()
	orderv1.RegisterOrderServiceServer(server, f)
	timelinev1.RegisterTimelineServiceServer(server, f)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(lis) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(session.UnaryClientInterceptor), grpc.WithChainStreamInterceptor(session.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return f, conn
}

func TestACommandsTokenGoesIntoTheNextQuery(t *testing.T) {
	f, conn := start(t)
	orders, timeline := orderv1.NewOrderServiceClient(conn), timelinev1.NewTimelineServiceClient(conn)
	s := &session.Session{}
	ctx := session.NewContext(t.Context(), s)
	command := func(token *freshnessv1.Token) {
		t.Helper()
		f.token = token
		if _, err := orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	query := func(ctx context.Context, read *freshnessv1.ReadOptions) []*freshnessv1.Token {
		t.Helper()
		r := &timelinev1.GetOrderStatusRequest{OrderId: "o", Read: read}
		before := proto.Clone(r)
		if _, err := timeline.GetOrderStatus(ctx, r); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(before, r) {
			t.Error("the caller's request was changed")
		}
		return f.asked.GetAtLeast().GetTokens()
	}
	if query(ctx, nil); f.asked != nil {
		t.Errorf("nothing was written, and %v was demanded", f.asked)
	}
	first, second := token("order", "a", 1, epoch1), token("order", "b", 4, epoch1)
	command(first)
	command(second)
	same(t, []*freshnessv1.Token{first, second}, query(ctx, nil))
	same(t, nil, query(t.Context(), nil)) // a call without the session

	// The caller's own choices stay.
	same(t, nil, query(ctx, &freshnessv1.ReadOptions{Consistency: &freshnessv1.ReadOptions_Any{Any: &freshnessv1.Any{}}}))
	same(t, nil, query(ctx, &freshnessv1.ReadOptions{Consistency: &freshnessv1.ReadOptions_MaxStaleness{MaxStaleness: durationpb.New(time.Second)}}))
	same(t, []*freshnessv1.Token{first, second}, query(ctx, &freshnessv1.ReadOptions{WaitBudget: durationpb.New(7 * time.Second), IfNoneMatch: "x"}))
	if f.asked.GetWaitBudget().AsDuration() != 7*time.Second || f.asked.GetIfNoneMatch() != "x" {
		t.Errorf("the caller's options became %v", f.asked)
	}
	f.fail = status.Error(codes.FailedPrecondition, "no")
	f.token = token("order", "c", 1, epoch1)
	if _, err := orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{}); err == nil {
		t.Fatal("no error")
	}
	same(t, []*freshnessv1.Token{first, second}, s.Tokens())
}

// A write that a restore has undone is told once; it must not make every query
// fail from then on.
func TestAWriteThatWasUndoneIsForgotten(t *testing.T) {
	f, conn := start(t)
	timeline := timelinev1.NewTimelineServiceClient(conn)
	undone, err := status.New(codes.DataLoss, "undone").WithDetails(&errdetails.ErrorInfo{
		Reason: "WRITE_LOST_BY_RESTORE", Metadata: map[string]string{"aggregates": "order/a,payment/p"},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.fail = undone.Err()
	kept := token("order", "b", 1, epoch1)
	for name, call := range map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: "a"})
			return err
		},
		"stream": func(ctx context.Context) error {
			stream, err := timeline.WatchOrder(ctx, &timelinev1.WatchOrderRequest{OrderId: "a"})
			for err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		s := &session.Session{}
		s.Add(token("order", "a", 1, epoch1), kept, token("payment", "p", 3, epoch1))
		if err := call(session.NewContext(t.Context(), s)); status.Code(err) != codes.DataLoss {
			t.Errorf("%s: %v", name, err)
		}
		same(t, []*freshnessv1.Token{kept}, s.Tokens())
	}
}

func TestStreamsBelongToTheSessionToo(t *testing.T) {
	f, conn := start(t)
	s := &session.Session{}
	ctx := session.NewContext(t.Context(), s)
	exchange := func(method string, request, answer proto.Message) {
		t.Helper()
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(request), stream.CloseSend(), stream.RecvMsg(answer)); err != nil {
			t.Fatal(err)
		}
	}
	f.token = token("order", "a", 1, epoch1)
	exchange(orderv1.OrderService_CancelOrder_FullMethodName, &orderv1.CancelOrderRequest{}, &orderv1.CancelOrderResponse{})
	exchange(timelinev1.TimelineService_GetOrderStatus_FullMethodName, &timelinev1.GetOrderStatusRequest{}, &timelinev1.GetOrderStatusResponse{})
	same(t, []*freshnessv1.Token{f.token}, f.asked.GetAtLeast().GetTokens())
}
