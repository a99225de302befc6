// Package readmodel runs what every read model is made of: its copy of the
// sources' facts, the connections that copy needs, and a server that answers
// queries and describes itself. What is left to a projection is its view and its
// queries.
package readmodel

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/schemas"
)

// Config is all that every read model can be told. A projection embeds it in its
// own, with its addresses, as in
//
//	readmodel.Config `embed:"" set:"rpc_addr=127.0.0.1:7201" set:"http_addr=127.0.0.1:8201"`
type Config struct {
	Postgres   postgres.Config   `embed:"" prefix:"postgres-"`
	Kafka      kafka.Config      `embed:"" prefix:"kafka-"`
	RPC        rpc.Config        `embed:""`
	Telemetry  telemetry.Config  `embed:""`
	Owners     projection.Owners `embed:"" prefix:"owner-"`
	ClockSkew  time.Duration     `help:"How far apart two machines' clocks may be; added to every staleness." default:"100ms"`
	InstanceID string            `help:"Name of this replica that its restart keeps, such as a stateful set gives: a quick restart then moves no partitions. Empty: every restart shares them out anew." name:"instance-id"`
	// Generations says how builds of the view follow each other.
	Generations projection.Generations `embed:"" prefix:"generations-"`
	// PlanOnce is projection.Config's, for the projection itself to say.
	PlanOnce bool `kong:"-"`
	// Ready is called with the bound gRPC address before the first query is answered.
	Ready func(addr string) `kong:"-"`
}

// Parts are what a projection answers its queries from.
type Parts[S any] struct {
	Server grpc.ServiceRegistrar
	Copy   *projection.Projection[S]
	Pager  *rpc.Pager
}

// Run keeps the view and answers queries until the context ends. contract is the
// projection's readmodel.yaml. register adds the projection's queries to the
// server, beside what every read model serves. Truths say how the view is compared
// with what the owners answer.
func Run[S any](ctx context.Context, cfg Config, view fold.View[S], contract string, register func(Parts[S]), truths ...projection.Truth[S]) error {
	log := lifecycle.Logger(ctx).With("service", view.Name)
	cfg.Telemetry.ServiceName = "tidemark-" + view.Name
	return lifecycle.Run(ctx, func(ctx context.Context, g *lifecycle.Group) error {
		tel, err := telemetry.Setup(ctx, cfg.Telemetry)
		if err != nil {
			return err
		}
		g.OnStop("telemetry", tel.Shutdown)
		codec, err := avro.Connect(ctx, cfg.Kafka.RegistryURL, avro.Numbering(cfg.Kafka.SchemaIDs), schemas.Catalog(), log)
		if err != nil {
			return err
		}
		owners, err := cfg.Owners.Dial(tel)
		if err != nil {
			return err
		}
		copied, err := projection.Open(ctx, projection.Config{
			Postgres: cfg.Postgres, Kafka: cfg.Kafka, InstanceID: cfg.InstanceID, ClockSkew: cfg.ClockSkew, Codec: codec,
			Journal: owners.Journal(codec), Owners: owners.Answers(),
			PlanOnce: cfg.PlanOnce, Contract: contract, PageSecret: cfg.RPC.PageSecret, Generations: cfg.Generations, Telemetry: tel, Log: log,
		}, view, truths...)
		if err != nil {
			return errors.Join(err, owners.Close())
		}
		g.OnStop("database", func(context.Context) error { copied.Close(); return owners.Close() })
		pager, err := rpc.NewPager([]byte(cfg.RPC.PageSecret))
		if err != nil {
			return err
		}
		srv, err := rpc.NewServer(cfg.RPC, tel, log)
		if err != nil {
			return err
		}
		register(Parts[S]{Server: srv.GRPC(), Copy: copied, Pager: pager})
		copied.Register(srv.GRPC())
		srv.AddCheck("projection", copied.Ready)
		addr, err := srv.Listen()
		if err != nil {
			return err
		}
		g.Go("projection", copied.Run)
		g.Go("server", srv.Serve)
		log.InfoContext(ctx, "answering", "addr", addr, "generation", copied.Generation())
		if cfg.Ready != nil {
			cfg.Ready(addr)
		}
		return nil
	})
}
