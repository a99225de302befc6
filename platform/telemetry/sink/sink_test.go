package sink_test

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

func startSink(t *testing.T, config sink.Config) *sink.Sink {
	t.Helper()
	s, err := sink.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func setup(t *testing.T, service, endpoint string) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{
		ServiceName: service, OTLPEndpoint: endpoint, SampleRatio: 1, ExportInterval: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := tel.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func names(spans []sink.Span) []string {
	var all []string
	for _, span := range spans {
		all = append(all, span.Service+" "+span.Name)
	}
	return all
}

func TestTwoServicesOfOneProcessKeepTheirNames(t *testing.T) {
	t.Parallel()
	behind := startSink(t, sink.Config{})
	s := startSink(t, sink.Config{Forward: behind.Endpoint()})
	order, timeline := setup(t, "order", s.Endpoint()), setup(t, "timeline", s.Endpoint())

	ctx, placed := order.Tracer("test").Start(t.Context(), "PlaceOrder")
	placed.SetAttributes(attribute.String("order", "o-1"))
	_, saved := order.Tracer("test").Start(ctx, "save")
	saved.End()
	placed.End()
	_, other := order.Tracer("test").Start(t.Context(), "GetOrder")
	other.End()
	ctx, batch := timeline.Tracer("test").Start(t.Context(), "apply batch",
		trace.WithLinks(trace.Link{SpanContext: placed.SpanContext()}))
	_, rows := timeline.Tracer("test").Start(ctx, "write rows")
	rows.End()
	batch.End()

	for _, at := range []*sink.Sink{s, behind} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		spans, err := at.Wait(ctx, func(spans []sink.Span) bool { return len(spans) == 5 })
		if err != nil {
			t.Fatal(err)
		}
		journey := sink.Journey(spans, func(s sink.Span) bool { return s.Attributes["order"] == "o-1" })
		want := []string{"order PlaceOrder", "order save", "timeline apply batch", "timeline write rows"}
		if diff := cmp.Diff(want, names(journey)); diff != "" {
			t.Errorf("journey (-want +got):\n%s", diff)
		}
	}
}

func TestTheSinkForgetsTheOldest(t *testing.T) {
	t.Parallel()
	s := startSink(t, sink.Config{Capacity: 2})
	tel := setup(t, "order", s.Endpoint())
	for _, name := range []string{"a", "b", "c"} {
		_, span := tel.Tracer("test").Start(t.Context(), name)
		span.End()
		if err := tel.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"order b", "order c"}, names(s.Spans())); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestWithoutAnEndpointATraceIDIsThereAllTheSame(t *testing.T) {
	t.Parallel()
	tel := setup(t, "order", "")
	_, span := tel.Tracer("test").Start(t.Context(), "PlaceOrder")
	defer span.End()
	if !span.SpanContext().IsValid() || span.IsRecording() {
		t.Errorf("span context %v, recording %v; want a valid id and no recording", span.SpanContext(), span.IsRecording())
	}
}

func TestMetricsOfTwoServicesDoNotMix(t *testing.T) {
	t.Parallel()
	order, timeline := setup(t, "order", ""), setup(t, "timeline", "")
	counter, err := order.Meter("test").Int64Counter("tidemark.test.things")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	if got := scrape(t, order); !strings.Contains(got, "tidemark_test_things_total") || !strings.Contains(got, `service_name="order"`) {
		t.Errorf("order's metrics miss the counter:\n%s", got)
	}
	if got := scrape(t, timeline); strings.Contains(got, "tidemark_test_things") {
		t.Error("timeline serves order's counter")
	}
}

func scrape(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	tel.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(recorder.Body)
	if err != nil || recorder.Code != 200 {
		t.Fatalf("status %d, %v", recorder.Code, err)
	}
	return string(body)
}
