package testkit

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// Broker returns a fresh embedded broker with Tidemark's topics, in memory, for
// one test. A test that restarts its broker uses embedded.StartBroker.
func Broker(t testing.TB) *embedded.Broker {
	t.Helper()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{})
	if err != nil {
		t.Fatalf("start the test broker: %v", err)
	}
	t.Cleanup(broker.Close)
	return broker
}

// Registry returns a fresh embedded schema registry that knows the schemas.
func Registry(t testing.TB, schemas ...embedded.Schema) *embedded.Registry {
	t.Helper()
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{Schemas: schemas})
	if err != nil {
		t.Fatalf("start the test registry: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := registry.Close(ctx); err != nil {
			t.Errorf("stop the test registry: %v", err)
		}
	})
	return registry
}

// Spans returns a sink for one test; give its Endpoint to the subject's
// telemetry.Config.OTLPEndpoint.
func Spans(t testing.TB) *sink.Sink {
	t.Helper()
	spans, err := sink.Start(sink.Config{})
	if err != nil {
		t.Fatalf("start the span sink: %v", err)
	}
	t.Cleanup(func() { _ = spans.Close() })
	return spans
}
