package shipment

import (
	"context"

	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/relay"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// source is the context's name in envelopes, topics and tokens.
const source = "shipment"

// Config is everything the service is told.
type Config struct {
	Postgres  postgres.Config  `embed:"" prefix:"postgres-"`
	Kafka     kafka.Config     `embed:"" prefix:"kafka-"`
	RPC       rpc.Config       `embed:"" set:"rpc_addr=127.0.0.1:7103" set:"http_addr=127.0.0.1:8103"`
	Telemetry telemetry.Config `embed:""`
	Relay     relay.Tuning     `kong:"-"`
	// Ready is called with the bound gRPC address once the service serves.
	Ready func(addr string) `kong:"-"`
}

// Run is the shipment service: it serves commands and reads, and relays what they
// committed, until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	return lifecycle.Run(ctx, func(ctx context.Context, g *lifecycle.Group) error {
		o, err := owner.Start(ctx, g, owner.Config{
			Name: source, Migrations: migrations, Postgres: cfg.Postgres, Kafka: cfg.Kafka, RPC: cfg.RPC, Telemetry: cfg.Telemetry, Relay: cfg.Relay,
		})
		if err != nil {
			return err
		}
		shipmentpb.RegisterShipmentServiceServer(o.Server.GRPC(), &server{journal: o.Journal, pager: o.Pager})
		addr, err := o.Listen(nil)
		if err != nil {
			return err
		}
		o.Serve(ctx, g, addr, cfg.Ready)
		return nil
	})
}
