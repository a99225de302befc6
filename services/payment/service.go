package payment

import (
	"context"

	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/relay"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// source is the context's name in envelopes, topics and tokens.
const source = "payment"

// Config is everything the service is told.
type Config struct {
	Postgres  postgres.Config  `embed:"" prefix:"postgres-"`
	Kafka     kafka.Config     `embed:"" prefix:"kafka-"`
	RPC       rpc.Config       `embed:"" set:"rpc_addr=127.0.0.1:7102" set:"http_addr=127.0.0.1:8102"`
	Telemetry telemetry.Config `embed:""`
	Provider  ProviderConfig   `embed:"" prefix:"provider-"`
	Simulator SimulatorConfig  `embed:"" prefix:"simulator-"`
	Relay     relay.Tuning     `kong:"-"`
	// Ready is called with the bound gRPC address once the service serves.
	Ready func(addr string) `kong:"-"`
}

// Run is the payment service: it serves commands and reads, asks the provider,
// makes unanswered calls again, and relays what was committed, until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	return lifecycle.Run(ctx, func(ctx context.Context, g *lifecycle.Group) error {
		o, err := owner.Start(ctx, g, owner.Config{
			Name: source, Migrations: migrations, Postgres: cfg.Postgres, Kafka: cfg.Kafka, RPC: cfg.RPC, Telemetry: cfg.Telemetry, Relay: cfg.Relay,
		})
		if err != nil {
			return err
		}
		payments := &server{
			journal: o.Journal, table: newTable(cfg.Provider.RetryAfter), pager: o.Pager,
			provider: NewSimulator(cfg.Simulator, o.Pool), patience: cfg.Provider, log: o.Log,
		}
		g.Go("recover", payments.recover)
		paymentpb.RegisterPaymentServiceServer(o.Server.GRPC(), payments)
		addr, err := o.Listen(payments.undecided)
		if err != nil {
			return err
		}
		o.Serve(ctx, g, addr, cfg.Ready)
		return nil
	})
}
