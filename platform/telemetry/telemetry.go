// Package telemetry makes the OpenTelemetry providers of one service.
//
// Nothing here is global: several services run in one process (the embedded
// fleet, the integration tests) and each has a name, metrics and an export of
// its own. Whatever wants to trace or measure is given a *Telemetry.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Config says what a service exports. Prometheus metrics are always on: they
// cost nothing until somebody scrapes Handler.
type Config struct {
	ServiceName  string  `kong:"-"`
	OTLPEndpoint string  `name:"otlp-endpoint" help:"Where to send traces and metrics by OTLP over gRPC: host:port for plain text, or a http(s):// URL. Empty sends nothing."`
	SampleRatio  float64 `name:"trace-sample-ratio" help:"Share of new traces to record, 0 to 1. A caller's decision is respected." default:"1"`
	// TracesPerSecond limits how many new traces this service records.
	TracesPerSecond float64       `name:"traces-per-second" help:"Most new traces to record each second; 0 sets no limit." default:"0"`
	ExportInterval  time.Duration `name:"otlp-export-interval" help:"How long spans are collected before they are sent." default:"1s"`
	MetricInterval  time.Duration `name:"otlp-metric-interval" help:"How often metrics are sent." default:"15s"`
}

// Telemetry is what one service traces and measures with.
type Telemetry struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Propagator     propagation.TextMapPropagator // W3C trace context and baggage

	registry *prometheus.Registry
	flush    []func(context.Context) error
	shutdown []func(context.Context) error
}

// Off returns a Telemetry that records nothing, for tests and tools. Its
// Propagator still passes a caller's trace context on.
func Off() *Telemetry {
	return &Telemetry{
		TracerProvider: tracenoop.NewTracerProvider(),
		MeterProvider:  metricnoop.NewMeterProvider(),
		Propagator:     newPropagator(),
		registry:       prometheus.NewRegistry(),
	}
}

// Setup makes the providers of one service. It does not connect: an endpoint
// that is away costs spans, never the service. Call Shutdown before exit, or
// the last spans are lost.
//
// Without an endpoint every request still gets a trace id, so that facts and
// timeline entries can name one; only the recording is left out.
func Setup(ctx context.Context, config Config) (*Telemetry, error) {
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", config.ServiceName),
		attribute.String("service.namespace", "tidemark"),
		attribute.String("service.instance.id", uuid.NewString()),
	))
	if err != nil {
		return nil, fmt.Errorf("describe the service for telemetry: %w", err)
	}
	t := &Telemetry{Propagator: newPropagator(), registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := t.setupTraces(ctx, config, res); err != nil {
		return nil, err
	}
	if err := t.setupMetrics(ctx, config, res); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

func newPropagator() propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
}

func (t *Telemetry) setupTraces(ctx context.Context, config Config, res *resource.Resource) error {
	if config.OTLPEndpoint == "" {
		provider := sdktrace.NewTracerProvider(sdktrace.WithResource(res),
			sdktrace.WithSampler(sdktrace.NeverSample()))
		t.TracerProvider = provider
		t.shutdown = append(t.shutdown, provider.Shutdown)
		return nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpointURL(config.OTLPEndpoint)))
	if err != nil {
		return fmt.Errorf("make the trace exporter: %w", err)
	}
	interval := config.ExportInterval
	if interval <= 0 {
		interval = time.Second
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithSampler(newSampler(config.SampleRatio, config.TracesPerSecond)),
		sdktrace.WithBatcher(exporter,
			sdktrace.WithBatchTimeout(interval),
			sdktrace.WithMaxQueueSize(16_384),
			sdktrace.WithMaxExportBatchSize(2_048)),
	)
	t.TracerProvider = provider
	t.flush = append(t.flush, provider.ForceFlush)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

func (t *Telemetry) setupMetrics(ctx context.Context, config Config, res *resource.Resource) error {
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry))
	if err != nil {
		return fmt.Errorf("make the prometheus exporter: %w", err)
	}
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(scraped)}
	if config.OTLPEndpoint != "" {
		exporter, err := otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpointURL(endpointURL(config.OTLPEndpoint)))
		if err != nil {
			return fmt.Errorf("make the metric exporter: %w", err)
		}
		interval := config.MetricInterval
		if interval <= 0 {
			interval = 15 * time.Second
		}
		options = append(options, sdkmetric.WithReader(
			sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(interval))))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.MeterProvider = provider
	t.flush = append(t.flush, provider.ForceFlush)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

func endpointURL(endpoint string) string {
	if strings.Contains(endpoint, "://") {
		return endpoint
	}
	return "http://" + endpoint
}

// Tracer returns the tracer of one package; name is its import path.
func (t *Telemetry) Tracer(name string) trace.Tracer { return t.TracerProvider.Tracer(name) }

// Meter returns the meter of one package; name is its import path.
func (t *Telemetry) Meter(name string) metric.Meter { return t.MeterProvider.Meter(name) }

// Handler serves the metrics in Prometheus' text format.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{Registry: t.registry})
}

// Flush sends what has been recorded so far, or fails when ctx ends first.
func (t *Telemetry) Flush(ctx context.Context) error {
	var errs []error
	for _, flush := range t.flush {
		errs = append(errs, flush(ctx))
	}
	return errors.Join(errs...)
}

// Shutdown sends what is left and frees everything. The context bounds it.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, shutdown := range t.shutdown {
		errs = append(errs, shutdown(ctx))
	}
	return errors.Join(errs...)
}
