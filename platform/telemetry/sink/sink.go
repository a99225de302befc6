// Package sink receives OpenTelemetry spans over OTLP and keeps the latest in
// memory. The embedded run shows an order's journey from it; tests assert paths
// with it.
package sink

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // senders may compress
)

// Span is one received span. Ids are lower-case hex; Parent is "" for a root.
type Span struct {
	Trace      string            `json:"trace"`
	ID         string            `json:"id"`
	Parent     string            `json:"parent,omitempty"`
	Service    string            `json:"service"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind"` // internal, server, client, producer, consumer
	Start      time.Time         `json:"start"`
	End        time.Time         `json:"end"`
	Error      string            `json:"error,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Links      []Link            `json:"links,omitempty"`
}

// Link points to a span of another trace.
type Link struct {
	Trace string `json:"trace"`
	ID    string `json:"id"`
}

// Config describes a sink.
type Config struct {
	// Addr is where to listen; "" takes a free port on 127.0.0.1.
	Addr string
	// Capacity is how many spans are kept, the latest; 0 means 100,000.
	Capacity int
	// Forward is an OTLP endpoint (host:port, plain text) that gets everything
	// too. What it does not take is lost. "" forwards nothing.
	Forward string
}

// Sink is a running OTLP receiver.
type Sink struct {
	tracepb.UnimplementedTraceServiceServer
	server   *grpc.Server
	addr     string
	capacity int
	forward  *grpc.ClientConn // nil without Config.Forward

	mu      sync.Mutex
	spans   []Span // a ring once it is full
	next    int    // where the next span goes
	changed chan struct{}
}

// Start starts a sink.
func Start(config Config) (*Sink, error) {
	if config.Addr == "" {
		config.Addr = "127.0.0.1:0"
	}
	if config.Capacity == 0 {
		config.Capacity = 100_000
	}
	s := &Sink{server: grpc.NewServer(), capacity: config.Capacity, changed: make(chan struct{})}
	if config.Forward != "" {
		conn, err := grpc.NewClient(strings.TrimPrefix(config.Forward, "http://"),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("forward spans to %s: %w", config.Forward, err)
		}
		s.forward = conn
	}
	listener, err := net.Listen("tcp", config.Addr)
	if err != nil {
		return nil, fmt.Errorf("span sink: %w", err)
	}
	s.addr = listener.Addr().String()
	tracepb.RegisterTraceServiceServer(s.server, s)
	metricspb.RegisterMetricsServiceServer(s.server, metrics{forward: s.forward})
	go func() { _ = s.server.Serve(listener) }() // ends with Close
	return s, nil
}

// Endpoint returns host:port for telemetry.Config.OTLPEndpoint.
func (s *Sink) Endpoint() string { return s.addr }

// Close stops receiving. What was received can still be read.
func (s *Sink) Close() error {
	s.server.Stop()
	if s.forward == nil {
		return nil
	}
	return s.forward.Close()
}

// Export takes spans in; it is the OTLP method.
func (s *Sink) Export(ctx context.Context, request *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	s.take(request)
	if s.forward == nil {
		return &tracepb.ExportTraceServiceResponse{}, nil
	}
	return tracepb.NewTraceServiceClient(s.forward).Export(ctx, request)
}

func (s *Sink) take(request *tracepb.ExportTraceServiceRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		service := attributes(resource.GetResource().GetAttributes())["service.name"]
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.put(convert(service, span))
			}
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Sink) put(span Span) {
	if len(s.spans) < s.capacity {
		s.spans = append(s.spans, span)
		return
	}
	s.spans[s.next] = span
	s.next = (s.next + 1) % s.capacity
}

// Spans returns what is kept, oldest arrival first.
func (s *Sink) Spans() []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.spans[s.next:], s.spans[:s.next])
}

// Wait blocks until enough says that the received spans are enough and returns
// them. It is asked again whenever spans arrive, never in between. When ctx
// ends first, the error comes with what is there.
func (s *Sink) Wait(ctx context.Context, enough func([]Span) bool) ([]Span, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		spans := s.Spans()
		if enough(spans) {
			return spans, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return spans, fmt.Errorf("waiting for spans, %d so far: %w", len(spans), ctx.Err())
		}
	}
}

// Journey returns all spans of the traces that hold a span for which starts is
// true, and, from other traces, the spans that link to one of these with all
// below them: a batch that carried the order among others. By start time.
func Journey(spans []Span, starts func(Span) bool) []Span {
	traces := make(map[string]bool)
	for _, span := range spans {
		if starts(span) {
			traces[span.Trace] = true
		}
	}
	type key struct{ trace, id string }
	below := make(map[key]bool)
	children := make(map[key][]key)
	var linked []key
	for _, span := range spans {
		own := key{span.Trace, span.ID}
		children[key{span.Trace, span.Parent}] = append(children[key{span.Trace, span.Parent}], own)
		if slices.ContainsFunc(span.Links, func(l Link) bool { return traces[l.Trace] }) {
			linked = append(linked, own)
		}
	}
	for len(linked) > 0 {
		span := linked[len(linked)-1]
		linked = linked[:len(linked)-1]
		if !below[span] {
			below[span] = true
			linked = append(linked, children[span]...)
		}
	}
	var journey []Span
	for _, span := range spans {
		if traces[span.Trace] || below[key{span.Trace, span.ID}] {
			journey = append(journey, span)
		}
	}
	slices.SortStableFunc(journey, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return journey
}

// metrics passes metrics on, or drops them.
type metrics struct {
	metricspb.UnimplementedMetricsServiceServer
	forward *grpc.ClientConn
}

// Export takes metrics in; it is the OTLP method.
func (m metrics) Export(ctx context.Context, request *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	if m.forward == nil {
		return &metricspb.ExportMetricsServiceResponse{}, nil
	}
	return metricspb.NewMetricsServiceClient(m.forward).Export(ctx, request)
}

func convert(service string, span *spanpb.Span) Span {
	converted := Span{
		Trace:      hex.EncodeToString(span.GetTraceId()),
		ID:         hex.EncodeToString(span.GetSpanId()),
		Parent:     hex.EncodeToString(span.GetParentSpanId()),
		Service:    service,
		Name:       span.GetName(),
		Kind:       strings.ToLower(strings.TrimPrefix(span.GetKind().String(), "SPAN_KIND_")),
		Start:      time.Unix(0, int64(span.GetStartTimeUnixNano())).UTC(),
		End:        time.Unix(0, int64(span.GetEndTimeUnixNano())).UTC(),
		Attributes: attributes(span.GetAttributes()),
	}
	if status := span.GetStatus(); status.GetCode() == spanpb.Status_STATUS_CODE_ERROR {
		converted.Error = status.GetMessage()
		if converted.Error == "" {
			converted.Error = "error"
		}
	}
	for _, link := range span.GetLinks() {
		converted.Links = append(converted.Links, Link{
			Trace: hex.EncodeToString(link.GetTraceId()), ID: hex.EncodeToString(link.GetSpanId()),
		})
	}
	return converted
}

func attributes(pairs []*commonpb.KeyValue) map[string]string {
	if len(pairs) == 0 {
		return nil
	}
	all := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		all[pair.GetKey()] = text(pair.GetValue())
	}
	return all
}

func text(value *commonpb.AnyValue) string {
	switch v := value.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *commonpb.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *commonpb.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *commonpb.AnyValue_ArrayValue:
		parts := make([]string, 0, len(v.ArrayValue.GetValues()))
		for _, part := range v.ArrayValue.GetValues() {
			parts = append(parts, text(part))
		}
		return strings.Join(parts, ",")
	default:
		return ""
	}
}
