// Package rpc is the gRPC server and client kit of the fleet: limits,
// deadlines, recovery, validation, tracing, health, reflection, a bounded stop,
// and the one table from faults to statuses.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// MaxMessageBytes is the largest request or response.
const MaxMessageBytes = 4 << 20

// Limits of a server. grpc-go's own defaults are unbounded.
const (
	maxStreamsPerConn = 1_000
	maxHeaderBytes    = 64 << 10
	handshakeTimeout  = 10 * time.Second
	connectionAge     = 30 * time.Minute
	connectionGrace   = 30 * time.Second
	// GracePeriod bounds how long a stop waits for calls that are under way.
	GracePeriod = 3 * time.Second
)

// Config says where a server listens.
type Config struct {
	Addr        string        `help:"Address of the gRPC server; port 0 picks a free one." default:"${rpc_addr=127.0.0.1:0}"`
	HTTPAddr    string        `help:"Address of /metrics, /healthz and /readyz; empty serves none." default:"${http_addr=}" name:"http-addr"`
	MaxDeadline time.Duration `help:"Longest a unary call may take, whatever its caller asks for." default:"40s"`
	PageSecret  string        `help:"Secret of page tokens; the same on every replica. Empty: one per process." name:"page-secret"`
}

// Check says whether something the server needs works; nil means it does.
type Check func(context.Context) error

// Server is a gRPC server with its HTTP side. Register services on GRPC, add
// checks, Listen, then Serve.
//
//	built ──Listen──▶ listening ──Serve──▶ serving ──ctx ends──▶ NOT_SERVING ▶ no new connections ▶ calls end (bounded) ▶ stopped
type Server struct {
	cfg    Config
	log    *slog.Logger
	grpc   *grpc.Server
	health *health.Server
	mux    *http.ServeMux

	mu       sync.Mutex
	checks   map[string]Check
	stopping bool

	lis, httpLis net.Listener
}

// NewServer returns a server without services.
func NewServer(cfg Config, tel *telemetry.Telemetry, log *slog.Logger) (*Server, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make the request validator: %w", err)
	}
	if cfg.MaxDeadline <= 0 {
		cfg.MaxDeadline = 40 * time.Second
	}
	edge := &edge{log: log, validator: validator, maxDeadline: cfg.MaxDeadline}
	s := &Server{cfg: cfg, log: log, health: health.NewServer(), mux: http.NewServeMux(), checks: map[string]Check{}}
	s.grpc = grpc.NewServer(
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(tel.TracerProvider),
			otelgrpc.WithMeterProvider(tel.MeterProvider),
			otelgrpc.WithPropagators(tel.Propagator),
			otelgrpc.WithFilter(filters.Not(filters.HealthCheck())),
		)),
		// Handlers go deep; on a new goroutine each call would grow its stack anew.
		grpc.NumStreamWorkers(uint32(2*runtime.GOMAXPROCS(0))),
		grpc.ChainUnaryInterceptor(edge.unary),
		grpc.ChainStreamInterceptor(edge.stream),
		grpc.UnknownServiceHandler(edge.unknown),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreamsPerConn),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionGrace,
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	s.mux.Handle("GET /metrics", tel.Handler())
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "alive") })
	s.mux.HandleFunc("GET /readyz", s.ready)
	return s, nil
}

// GRPC is where services are registered, before Serve.
func (s *Server) GRPC() grpc.ServiceRegistrar { return s.grpc }

// HTTP is the mux beside the gRPC server, for further handlers.
func (s *Server) HTTP() *http.ServeMux { return s.mux }

// AddCheck adds a check that /readyz runs. Lag is no reason to be unready.
func (s *Server) AddCheck(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// Listen opens the sockets and returns the bound gRPC address. Calls wait in
// the backlog until Serve.
func (s *Server) Listen() (string, error) {
	lis, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return "", fmt.Errorf("listen for gRPC: %w", err)
	}
	s.lis = lis
	if s.cfg.HTTPAddr != "" {
		if s.httpLis, err = net.Listen("tcp", s.cfg.HTTPAddr); err != nil {
			return "", errors.Join(fmt.Errorf("listen for HTTP: %w", err), lis.Close())
		}
	}
	return lis.Addr().String(), nil
}

// HTTPAddr returns the bound address of the HTTP side, or "".
func (s *Server) HTTPAddr() string {
	if s.httpLis == nil {
		return ""
	}
	return s.httpLis.Addr().String()
}

// Serve serves until ctx ends, then stops: it says NOT_SERVING, takes no new
// connections, waits GracePeriod for calls that are under way, and cuts the rest.
func (s *Server) Serve(ctx context.Context) error {
	if s.lis == nil {
		if _, err := s.Listen(); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	go func() { failed <- s.grpc.Serve(s.lis) }()
	web := &http.Server{Handler: s.mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeaderBytes}
	if s.httpLis != nil {
		go func() {
			if err := web.Serve(s.httpLis); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	var cause error
	select {
	case <-ctx.Done():
	case err := <-failed:
		cause = fmt.Errorf("serve: %w", err)
	}
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.health.Shutdown()
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }()
	timer := time.NewTimer(GracePeriod)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.grpc.Stop()
		<-done
	}
	return errors.Join(cause, web.Close())
}

var errStopping = errors.New("it is stopping")

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	s.mu.Lock()
	checks := make(map[string]Check, len(s.checks))
	for name, check := range s.checks {
		checks[name] = check
	}
	if s.stopping {
		checks["server"] = func(context.Context) error { return errStopping }
	}
	s.mu.Unlock()
	for name, check := range checks {
		if err := check(ctx); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "not ready: %s: %v\n", name, err)
			return
		}
	}
	_, _ = fmt.Fprintln(w, "ready")
}
