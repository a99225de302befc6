package telemetry

import (
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func linkTo(flags trace.TraceFlags) []trace.Link {
	return []trace.Link{{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags,
	})}}
}

func TestSamplerDecides(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		perSecond float64
		span      sdktrace.SamplingParameters
		want      sdktrace.SamplingDecision
	}{
		{"a new trace", 5, sdktrace.SamplingParameters{Kind: trace.SpanKindServer}, sdktrace.RecordAndSample},
		{"a batch of recorded orders", 5, sdktrace.SamplingParameters{Links: linkTo(trace.FlagsSampled)}, sdktrace.RecordAndSample},
		{"a batch of unrecorded orders", 0, sdktrace.SamplingParameters{Links: linkTo(0)}, sdktrace.Drop},
		{"a background query, limited", 5, sdktrace.SamplingParameters{Kind: trace.SpanKindClient}, sdktrace.Drop},
		{"a background query, unlimited", 0, sdktrace.SamplingParameters{Kind: trace.SpanKindClient}, sdktrace.RecordAndSample},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.span.ParentContext = t.Context()
			if got := newSampler(1, tt.perSecond).ShouldSample(tt.span).Decision; got != tt.want {
				t.Errorf("decision = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSamplerLimitsTheRate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sampler := &limited{inner: sdktrace.AlwaysSample(), perSecond: 10, tokens: 10, now: func() time.Time { return now }}
	recorded := 0
	for range 1000 { // 1,000 traces in 2 s
		if sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: t.Context(), Kind: trace.SpanKindServer}).Decision == sdktrace.RecordAndSample {
			recorded++
		}
		now = now.Add(2 * time.Millisecond)
	}
	if recorded < 28 || recorded > 31 { // one second's worth at once, then 10/s
		t.Errorf("recorded %d of 1,000, want about 30", recorded)
	}
}
