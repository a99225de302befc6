package fleet

import (
	"context"

	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/readmodel"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

// readModel is a part that remembers.
type readModel struct {
	name  string
	port  int // added to the port base
	start func(ctx context.Context, f *Fleet, name string) (*running, error)
}

// reading makes the starter of a projection's Run; of finds in its configuration
// what every read model is told.
func reading[C any](run func(context.Context, C) error, of func(*C) *readmodel.Config) func(context.Context, *Fleet, string) (*running, error) {
	return func(ctx context.Context, f *Fleet, name string) (*running, error) {
		return program(run, func(f *Fleet, ready func(string)) (C, error) {
			config, err := lifecycle.Defaults[C]()
			c := of(&config)
			c.Postgres.URL, c.Kafka, c.Telemetry = f.database(name), f.kafka(), f.telemetry(c.Telemetry)
			c.RPC.Addr, c.RPC.HTTPAddr, c.Ready = f.Addr(name), f.MetricsAddr(name), ready
			c.Owners = projection.Owners{Order: f.Addr(Order), Payment: f.Addr(Payment), Shipment: f.Addr(Shipment)}
			return config, err
		})(ctx, f, name)
	}
}

// readModels are started behind the services. `make new-projection` adds to them.
func readModels() []readModel {
	return []readModel{
		{Timeline, 201, reading(timeline.Run, func(c *timeline.Config) *readmodel.Config { return &c.Config })},
		{Operations, 202, reading(operations.Run, func(c *operations.Config) *readmodel.Config { return &c.Config })},
	}
}
