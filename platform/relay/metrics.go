package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// metrics tell how far sending is behind. They are read from the database when
// somebody collects, so every replica tells the same, owner or not.
type metrics struct {
	registration metric.Registration
}

func newMetrics(tel *telemetry.Telemetry, source string, pool *pgxpool.Pool) (*metrics, error) {
	meter := tel.Meter("github.com/tidemark-dev/tidemark/platform/relay")
	unsent, err := meter.Int64ObservableGauge("tidemark.relay.unsent", metric.WithUnit("{event}"),
		metric.WithDescription("Committed events that are not acknowledged by the broker and marked yet."))
	if err != nil {
		return nil, fmt.Errorf("make relay metrics: %w", err)
	}
	oldest, err := meter.Float64ObservableGauge("tidemark.relay.oldest_unsent", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest unsent event; 0 when there is none."))
	if err != nil {
		return nil, fmt.Errorf("make relay metrics: %w", err)
	}
	blocked, err := meter.Int64ObservableGauge("tidemark.relay.blocked", metric.WithUnit("{aggregate}"),
		metric.WithDescription("Aggregates whose events cannot be sent."))
	if err != nil {
		return nil, fmt.Errorf("make relay metrics: %w", err)
	}
	set := metric.WithAttributeSet(attribute.NewSet(attribute.String("tidemark.source", source)))
	registration, err := meter.RegisterCallback(func(ctx context.Context, observer metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		var count, aggregates int64
		var age float64
		err := pool.QueryRow(ctx, `
			SELECT (SELECT count(*) FROM outbox),
			       coalesce((SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM journal
			                  WHERE sequence = (SELECT min(sequence) FROM outbox)), 0),
			       (SELECT count(DISTINCT (aggregate_type, aggregate_id)) FROM blocked)`).Scan(&count, &age, &aggregates)
		if err != nil {
			return fmt.Errorf("observe the relay: %w", err)
		}
		observer.ObserveInt64(unsent, count, set)
		observer.ObserveFloat64(oldest, age, set)
		observer.ObserveInt64(blocked, aggregates, set)
		return nil
	}, unsent, oldest, blocked)
	if err != nil {
		return nil, fmt.Errorf("register relay metrics: %w", err)
	}
	return &metrics{registration: registration}, nil
}

// stop ends the observation; the pool is about to close.
func (m *metrics) stop() { _ = m.registration.Unregister() }
