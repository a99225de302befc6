package order

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/relay"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
	"github.com/tidemark-dev/tidemark/schemas"
)

// source is the context's name in envelopes, topics and tokens.
const source = "order"

// Config is everything the service is told.
type Config struct {
	Postgres  postgres.Config  `embed:"" prefix:"postgres-"`
	Kafka     kafka.Config     `embed:"" prefix:"kafka-"`
	RPC       rpc.Config       `embed:"" set:"rpc_addr=127.0.0.1:7101" set:"http_addr=127.0.0.1:8101"`
	Telemetry telemetry.Config `embed:""`
	Relay     relay.Tuning     `kong:"-"`
	// Fulfilment is the process that moves MANAGED orders on.
	Fulfilment ProcessConfig `embed:"" prefix:"fulfilment-"`
	// Ready is called with the bound gRPC address once the service serves.
	Ready func(addr string) `kong:"-"`
}

// Run is the order service: it serves commands and reads, and relays what they
// committed, until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	log := lifecycle.Logger(ctx).With("service", source)
	return lifecycle.Run(ctx, func(ctx context.Context, g *lifecycle.Group) error {
		cfg.Telemetry.ServiceName = "tidemark-" + source
		tel, err := telemetry.Setup(ctx, cfg.Telemetry)
		if err != nil {
			return err
		}
		g.OnStop("telemetry", tel.Shutdown)

		pool, err := postgres.Open(ctx, cfg.Postgres, tel)
		if err != nil {
			return err
		}
		g.OnStop("postgres", func(context.Context) error { pool.Close(); return nil })
		tables, err := fs.Sub(migrations, "migrations")
		if err != nil {
			return fmt.Errorf("read the migrations: %w", err)
		}
		if err := postgres.Migrate(ctx, pool, tables, "goose_"+source); err != nil {
			return err
		}

		if err := postgres.Migrate(ctx, pool, process.Migrations(), process.MigrationTable); err != nil {
			return err
		}

		registry, err := avro.NewRegistry(cfg.Kafka.RegistryURL, avro.Numbering(cfg.Kafka.SchemaIDs))
		if err != nil {
			return err
		}
		set, confirmed, err := registry.Resolve(ctx, schemas.Catalog())
		if err != nil {
			return err
		}
		if !confirmed {
			log.InfoContext(ctx, "schema registry not reached, using the ids of ids.lock")
		}
		codec, err := avro.NewCodec(set)
		if err != nil {
			return err
		}
		codec.LearnFrom(registry)
		book, err := journal.Open(ctx, pool, journal.Config{Source: source, Partitions: cfg.Kafka.PartitionCount(), Codec: codec, Log: log})
		if err != nil {
			return err
		}
		g.Go("prune", book.Prune)

		sender, err := relay.New(relay.Config{
			Source: source, Pool: pool, Kafka: cfg.Kafka, Codec: codec, Wakes: book.Wakes(), Telemetry: tel, Log: log, Tuning: cfg.Relay,
		})
		if err != nil {
			return err
		}
		g.Go("relay", sender.Run)

		pager, err := rpc.NewPager([]byte(cfg.RPC.PageSecret))
		if err != nil {
			return err
		}
		srv, err := rpc.NewServer(cfg.RPC, tel, log)
		if err != nil {
			return err
		}
		orderpb.RegisterOrderServiceServer(srv.GRPC(), &server{journal: book, pager: pager})
		journalpb.RegisterJournalServiceServer(srv.GRPC(), journal.NewServer(book, pager))
		journalpb.RegisterJournalAdminServiceServer(srv.GRPC(), journal.NewAdmin(book, pager))
		journalpb.RegisterRequestServiceServer(srv.GRPC(), journal.NewRequestServer(book, nil))
		srv.AddCheck("postgres", pool.Ping)
		addr, err := srv.Listen()
		if err != nil {
			return err
		}
		if cfg.Fulfilment.Enabled {
			err := startFulfilment(g, fulfilmentParts{cfg: cfg, self: addr, srv: srv, pager: pager, pool: pool, codec: codec, tel: tel, log: log})
			if err != nil {
				return err
			}
		}
		g.Go("server", srv.Serve)
		log.InfoContext(ctx, "serving", "addr", addr)
		if cfg.Ready != nil {
			cfg.Ready(addr)
		}
		return nil
	})
}
