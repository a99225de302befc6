package telemetry

import (
	"fmt"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// newSampler decides which traces are recorded. A caller's decision always
// holds. A span that begins a trace and links to others, a batch, is recorded
// if one of those is: so a recorded order is followed through every batch that
// carries it, and batches of unrecorded orders cost nothing. What else begins a
// trace is recorded with probability ratio and, with perSecond above 0, at most
// that often: a demonstration shows every order, an import does not drown in
// spans.
func newSampler(ratio, perSecond float64) sdktrace.Sampler {
	root := sdktrace.TraceIDRatioBased(ratio)
	if perSecond > 0 {
		root = &limited{inner: root, perSecond: perSecond, tokens: perSecond, now: time.Now}
	}
	return sdktrace.ParentBased(byLinks{root})
}

// byLinks records a span with links like what it links to.
type byLinks struct{ unlinked sdktrace.Sampler }

// ShouldSample implements the SDK's Sampler.
func (s byLinks) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if len(p.Links) == 0 {
		return s.unlinked.ShouldSample(p)
	}
	for _, link := range p.Links {
		if link.SpanContext.IsSampled() {
			return sdktrace.AlwaysSample().ShouldSample(p)
		}
	}
	return sdktrace.NeverSample().ShouldSample(p)
}

// Description implements the SDK's Sampler.
func (s byLinks) Description() string { return "ByLinks{" + s.unlinked.Description() + "}" }

// limited passes on at most perSecond decisions to record, in bursts of up to
// one second's worth. Spans of kind client that begin a trace are a service's
// own background queries; they are left out, or they would use up the rate.
type limited struct {
	inner     sdktrace.Sampler
	perSecond float64
	now       func() time.Time

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

// ShouldSample implements the SDK's Sampler.
func (s *limited) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := s.inner.ShouldSample(p)
	if result.Decision == sdktrace.RecordAndSample && (p.Kind == trace.SpanKindClient || !s.take()) {
		return sdktrace.NeverSample().ShouldSample(p)
	}
	return result
}

// Description implements the SDK's Sampler.
func (s *limited) Description() string {
	return fmt.Sprintf("Limited{%g/s,%s}", s.perSecond, s.inner.Description())
}

func (s *limited) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !s.last.IsZero() {
		s.tokens = min(s.perSecond, s.tokens+now.Sub(s.last).Seconds()*s.perSecond)
	}
	s.last = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}
