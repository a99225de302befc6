package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

func TestEveryKindHasItsOwnCodeAndTravels(t *testing.T) {
	seen := map[codes.Code]fault.Kind{}
	for _, kind := range fault.Kinds() {
		in := fault.New(kind, "SOME_REASON", "some message").With("id", "x")
		st := rpc.Status(fmt.Errorf("wrapped: %w", in))
		if st.Code() == codes.OK || st.Code() == codes.Unknown || (st.Code() == codes.Internal) != (kind == fault.KindInternal) {
			t.Errorf("%v has no row: %v", kind, st.Code())
		}
		if other, taken := seen[st.Code()]; taken {
			t.Errorf("%v and %v are both %v", kind, other, st.Code())
		}
		seen[st.Code()] = kind
		out := fault.As(rpc.Fault(st.Err()))
		if out == nil || out.Kind != kind || out.Reason != "SOME_REASON" || out.Message != "some message" || out.Metadata["id"] != "x" {
			t.Errorf("%v came back as %+v", kind, out)
		}
	}
}

func TestFieldsTravel(t *testing.T) {
	in := fault.InvalidFields(fault.Violation{Field: "lines[0].quantity", Description: "must be positive"})
	st := rpc.Status(in)
	var fields []string
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	if diff := cmp.Diff([]string{"lines[0].quantity"}, fields); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(in.Violations, fault.As(rpc.Fault(st.Err())).Violations); diff != "" {
		t.Error(diff)
	}
}

func TestDetailsTravelBesideErrorInfo(t *testing.T) {
	absence := &freshnesspb.Absence{Kind: freshnesspb.Absence_KIND_NEVER_EXISTED}
	st := rpc.Status(fmt.Errorf("get: %w", rpc.WithDetails(fault.NotFound("order", "o"), absence)))
	if st.Code() != codes.NotFound || len(st.Details()) != 2 {
		t.Fatalf("status = %v with %v", st.Code(), st.Details())
	}
	if got := st.Details()[1].(*freshnesspb.Absence).GetKind(); got != absence.GetKind() {
		t.Errorf("absence = %v", got)
	}
}

// journal is a service whose behaviour each test chooses.
type journal struct {
	journalpb.UnimplementedJournalServiceServer
	get func(context.Context, *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error)
}

func (j *journal) GetEvents(ctx context.Context, r *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
	return j.get(ctx, r)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type running struct {
	*rpc.Server
	conn *grpc.ClientConn
	log  *syncBuffer
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T, cfg rpc.Config, j *journal) *running {
	t.Helper()
	cfg.Addr, cfg.HTTPAddr = "127.0.0.1:0", "127.0.0.1:0"
	r := &running{log: &syncBuffer{}, done: make(chan error, 1)}
	var err error
	if r.Server, err = rpc.NewServer(cfg, telemetry.Off(), slog.New(slog.NewTextHandler(r.log, nil))); err != nil {
		t.Fatal(err)
	}
	journalpb.RegisterJournalServiceServer(r.GRPC(), j)
	addr, err := r.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.Serve(ctx) }()
	if r.conn, err = rpc.Dial(addr, telemetry.Off()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = r.conn.Close() })
	return r
}

func (r *running) call(ctx context.Context) error {
	_, err := journalpb.NewJournalServiceClient(r.conn).GetEvents(ctx, &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: "o"})
	return err
}

func TestInvalidRequestsNameTheField(t *testing.T) {
	r := serve(t, rpc.Config{}, &journal{})
	_, err := journalpb.NewJournalServiceClient(r.conn).GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", PageSize: -1})
	f := fault.As(rpc.Fault(err))
	if f == nil || f.Kind != fault.KindInvalid || f.Reason != fault.ReasonInvalidField {
		t.Fatalf("err = %v", err)
	}
	var fields []string
	for _, v := range f.Violations {
		fields = append(fields, v.Field)
	}
	if diff := cmp.Diff([]string{"aggregate_id", "page_size"}, fields); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownErrorsAndPanicsAreLoggedNotShown(t *testing.T) {
	for name, get := range map[string]func(context.Context, *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error){
		"error": func(context.Context, *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
			return nil, errors.New("secret detail")
		},
		"panic": func(context.Context, *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
			panic("secret detail")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, rpc.Config{}, &journal{get: get})
			err := r.call(t.Context())
			if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
				t.Errorf("err = %v", err)
			}
			if fault.ReasonOf(rpc.Fault(err)) != fault.ReasonInternal {
				t.Errorf("no ErrorInfo: %v", err)
			}
			if n := strings.Count(r.log.String(), "\n"); n != 1 || !strings.Contains(r.log.String(), "secret detail") {
				t.Errorf("log = %q", r.log.String())
			}
		})
	}
}

func TestUnknownMethodsCarryErrorInfo(t *testing.T) {
	r := serve(t, rpc.Config{}, &journal{})
	err := r.conn.Invoke(t.Context(), "/nobody.v1.NoService/Nothing", &journalpb.GetEventsRequest{}, &journalpb.GetEventsResponse{})
	if f := fault.As(rpc.Fault(err)); f == nil || f.Kind != fault.KindUnimplemented || f.Reason != fault.ReasonUnimplemented {
		t.Errorf("err = %v", err)
	}
}

func TestDeadlineIsCapped(t *testing.T) {
	r := serve(t, rpc.Config{MaxDeadline: 20 * time.Millisecond}, &journal{
		get: func(ctx context.Context, _ *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("wait: %w", ctx.Err())
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.call(ctx); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("err = %v", err)
	}
}

func TestCauseTravels(t *testing.T) {
	got := make(chan rpc.Cause, 1)
	r := serve(t, rpc.Config{}, &journal{
		get: func(ctx context.Context, _ *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
			got <- rpc.CauseOf(ctx)
			return &journalpb.GetEventsResponse{}, nil
		},
	})
	want := rpc.Cause{CausationID: "event-1", CorrelationID: "order-1"}
	if err := r.call(rpc.WithCause(t.Context(), want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Error(diff)
	}
	if err := r.call(rpc.WithCause(t.Context(), rpc.Cause{CausationID: strings.Repeat("x", 200)})); err != nil {
		t.Fatal(err)
	}
	if c := <-got; c != (rpc.Cause{}) {
		t.Errorf("an overlong id was taken: %v", c)
	}
}

func TestStopIsBoundedAndSaysNotServing(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := serve(t, rpc.Config{}, &journal{
		get: func(ctx context.Context, _ *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
			close(entered)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return &journalpb.GetEventsResponse{}, nil
		},
	})
	defer close(release)
	health, err := healthpb.NewHealthClient(r.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expectHealth(t, health, healthpb.HealthCheckResponse_SERVING)
	call := make(chan error, 1)
	go func() { call <- r.call(context.Background()) }()
	<-entered
	start := time.Now()
	r.stop()
	expectHealth(t, health, healthpb.HealthCheckResponse_NOT_SERVING)
	ready, err := http.Get("http://" + r.HTTPAddr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	if _ = ready.Body.Close(); ready.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz = %d while it stops", ready.StatusCode)
	}
	if err := <-r.done; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if took := time.Since(start); took > rpc.GracePeriod+2*time.Second {
		t.Errorf("stop took %s", took)
	}
	if err := <-call; err == nil {
		t.Error("a call that outlived the grace period was answered")
	}
}

func expectHealth(t *testing.T, w grpc.ServerStreamingClient[healthpb.HealthCheckResponse], want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	for {
		m, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetStatus() == want {
			return
		}
	}
}

func TestHTTPSide(t *testing.T) {
	r := serve(t, rpc.Config{}, &journal{})
	r.AddCheck("database", func(context.Context) error { return nil })
	get := func(path string) int {
		resp, err := http.Get("http://" + r.HTTPAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if c := []int{get("/healthz"), get("/readyz"), get("/metrics")}; !cmp.Equal(c, []int{200, 200, 200}) {
		t.Errorf("codes = %v", c)
	}
	r.AddCheck("broker", func(context.Context) error { return errors.New("away") })
	if c := get("/readyz"); c != http.StatusServiceUnavailable {
		t.Errorf("readyz = %d", c)
	}
}
