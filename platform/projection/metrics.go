package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

const scope = "github.com/tidemark-dev/tidemark/platform/projection"

// metrics are the kernel's own: no convention has names for these.
type metrics struct {
	facts      metric.Int64Counter
	faults     metric.Int64Counter
	generation attribute.KeyValue

	registration metric.Registration
}

// gauges are what is observed on demand, by name.
type gauges struct {
	parked   func(context.Context) (map[string]int64, error)
	sources  func(context.Context) ([]*freshnessv1.SourceFreshness, error)
	assigned func() int
	paused   func() bool
	differ   func() int64
}

func newMetrics(tel *telemetry.Telemetry, generation string, g gauges) (*metrics, error) {
	meter := tel.Meter(scope)
	m := &metrics{generation: attribute.String("tidemark.generation", generation)}
	states := map[freshnessv1.Completeness]string{
		freshnessv1.Completeness_COMPLETENESS_PROVEN:   "proven",
		freshnessv1.Completeness_COMPLETENESS_UNPROVEN: "unproven",
		freshnessv1.Completeness_COMPLETENESS_VIOLATED: "violated",
	}
	var err error
	if m.facts, err = meter.Int64Counter("tidemark.projection.facts", metric.WithUnit("{fact}"),
		metric.WithDescription("Facts by the verdict they got.")); err != nil {
		return nil, fmt.Errorf("make a counter: %w", err)
	}
	if m.faults, err = meter.Int64Counter("tidemark.projection.faults", metric.WithUnit("{fault}"),
		metric.WithDescription("Faults that control totals proved, by source, partition and kind.")); err != nil {
		return nil, fmt.Errorf("make a counter: %w", err)
	}
	parked, err := meter.Int64ObservableGauge("tidemark.projection.parked", metric.WithUnit("{aggregate}"),
		metric.WithDescription("Aggregates that stand still, by why."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	staleness, err := meter.Float64ObservableGauge("tidemark.projection.staleness", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest as_of over all partitions of a source."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	assigned, err := meter.Int64ObservableGauge("tidemark.projection.assigned", metric.WithUnit("{partition}"),
		metric.WithDescription("Partition numbers this process owns; a reader that owns none is red, not idle."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	completeness, err := meter.Int64ObservableGauge("tidemark.projection.completeness", metric.WithUnit("{source}"),
		metric.WithDescription("What control totals say of a source: 1 for the state it is in, 0 for the others."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	blocked, err := meter.Int64ObservableGauge("tidemark.projection.blocked", metric.WithUnit("{aggregate}"),
		metric.WithDescription("Aggregates that a source holds back because an event of them cannot be sent."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	paused, err := meter.Int64ObservableGauge("tidemark.projection.paused", metric.WithUnit("{reader}"),
		metric.WithDescription("1 while reading is paused because too many aggregates are parked."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	differences, err := meter.Int64ObservableGauge("tidemark.projection.differences", metric.WithUnit("{field}"),
		metric.WithDescription("Fields that are not what the owners' journals make them, as far as orders are compared all the time."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	m.registration, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		o.ObserveInt64(assigned, int64(g.assigned()), metric.WithAttributes(m.generation))
		counts, err := g.parked(ctx)
		if err != nil {
			return err
		}
		for verdict, n := range counts {
			o.ObserveInt64(parked, n, metric.WithAttributes(m.generation, attribute.String("tidemark.verdict", verdict)))
		}
		still := int64(0)
		if g.paused() {
			still = 1
		}
		o.ObserveInt64(paused, still, metric.WithAttributes(m.generation))
		o.ObserveInt64(differences, g.differ(), metric.WithAttributes(m.generation))
		sources, err := g.sources(ctx)
		if err != nil {
			return err
		}
		for _, s := range sources {
			source := attribute.String("tidemark.source", s.GetSource())
			if s.GetStaleness() != nil {
				o.ObserveFloat64(staleness, s.GetStaleness().AsDuration().Seconds(), metric.WithAttributes(m.generation, source))
			}
			o.ObserveInt64(blocked, s.GetBlockedCount(), metric.WithAttributes(m.generation, source))
			for state, name := range states {
				is := int64(0)
				if state == s.GetCompleteness() {
					is = 1
				}
				o.ObserveInt64(completeness, is, metric.WithAttributes(m.generation, source, attribute.String("tidemark.state", name)))
			}
		}
		return nil
	}, assigned, parked, staleness, completeness, blocked, paused, differences)
	if err != nil {
		return nil, fmt.Errorf("register gauges: %w", err)
	}
	return m, nil
}

func (m *metrics) count(ctx context.Context, counts map[fold.Verdict]int) {
	for verdict, n := range counts {
		m.facts.Add(ctx, int64(n), metric.WithAttributes(m.generation, attribute.String("tidemark.verdict", string(verdict))))
	}
}

func (m *metrics) fault(ctx context.Context, source string, partition int32, kind completeness.Settlement) {
	m.faults.Add(ctx, 1, metric.WithAttributes(m.generation, attribute.String("tidemark.source", source),
		attribute.Int("tidemark.partition", int(partition)), attribute.String("tidemark.fault", kind.String())))
}

// parkedNow counts the aggregates that stand still, by verdict.
func (p *Projection[S]) parkedNow(ctx context.Context) (map[string]int64, error) {
	counts := map[string]int64{string(fold.Gap): 0, string(fold.Poison): 0}
	rows, err := p.pool.Query(ctx, "SELECT verdict, count(*) FROM quarantine GROUP BY verdict")
	if err != nil {
		return nil, fmt.Errorf("count parked aggregates: %w", err)
	}
	var verdict string
	var n int64
	if _, err = pgx.ForEachRow(rows, []any{&verdict, &n}, func() error { counts[verdict] = n; return nil }); err != nil {
		return nil, fmt.Errorf("count parked aggregates: %w", err)
	}
	return counts, nil
}

// standNow returns how the sources of an answer over all orders stand.
func (p *Projection[S]) standNow(ctx context.Context) ([]*freshnessv1.SourceFreshness, error) {
	f, err := p.Read(ctx, nil, "", func(*pgx.Batch) {})
	return f.GetSources(), err
}

// unregister ends the gauges. It can be repeated.
func (m *metrics) unregister() {
	if m != nil && m.registration != nil {
		// It was registered by us, so it cannot fail.
		_ = m.registration.Unregister()
		m.registration = nil
	}
}
