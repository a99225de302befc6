// Package owner starts what every service that owns writes is made of: its
// database, its journal, the relay that publishes what was committed, and a
// server that lets everybody read the journal. What is left to the service is
// its commands.
package owner

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/relay"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/schemas"
)

// Config is what an owner is told.
type Config struct {
	// Name is the context's name in envelopes, topics and tokens: "order".
	Name string
	// Migrations has the service's own tables in its directory "migrations".
	Migrations fs.FS
	Postgres   postgres.Config
	Kafka      kafka.Config
	RPC        rpc.Config
	Telemetry  telemetry.Config
	Relay      relay.Tuning
}

// Parts are what a service builds its commands on.
type Parts struct {
	Log       *slog.Logger
	Telemetry *telemetry.Telemetry
	Pool      *pgxpool.Pool
	Codec     *avro.Codec
	Journal   *journal.Journal
	Pager     *rpc.Pager
	Server    *rpc.Server
	name      string
}

// Start opens the database, brings its tables up to date, opens the journal and
// starts the relay. All of it stops with g. Register the service's commands with
// Parts.Server, then call Listen and Serve.
func Start(ctx context.Context, g *lifecycle.Group, cfg Config) (*Parts, error) {
	p := &Parts{name: cfg.Name, Log: lifecycle.Logger(ctx).With("service", cfg.Name)}
	var err error
	cfg.Telemetry.ServiceName = "tidemark-" + cfg.Name
	if p.Telemetry, err = telemetry.Setup(ctx, cfg.Telemetry); err != nil {
		return nil, err
	}
	g.OnStop("telemetry", p.Telemetry.Shutdown)
	if p.Pool, err = postgres.Open(ctx, cfg.Postgres, p.Telemetry); err != nil {
		return nil, err
	}
	g.OnStop("postgres", func(context.Context) error { p.Pool.Close(); return nil })
	tables, err := fs.Sub(cfg.Migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	if err := postgres.Migrate(ctx, p.Pool, tables, "goose_"+cfg.Name); err != nil {
		return nil, err
	}
	if p.Codec, err = avro.Connect(ctx, cfg.Kafka.RegistryURL, avro.Numbering(cfg.Kafka.SchemaIDs), schemas.Catalog(), p.Log); err != nil {
		return nil, err
	}
	p.Journal, err = journal.Open(ctx, p.Pool, journal.Config{Source: cfg.Name, Partitions: cfg.Kafka.PartitionCount(), Codec: p.Codec, Log: p.Log})
	if err != nil {
		return nil, err
	}
	g.Go("prune", p.Journal.Prune)
	sender, err := relay.New(relay.Config{
		Source: cfg.Name, Pool: p.Pool, Kafka: cfg.Kafka, Codec: p.Codec, Wakes: p.Journal.Wakes(),
		Telemetry: p.Telemetry, Log: p.Log, Tuning: cfg.Relay,
	})
	if err != nil {
		return nil, err
	}
	g.Go("relay", sender.Run)
	if p.Pager, err = rpc.NewPager([]byte(cfg.RPC.PageSecret)); err != nil {
		return nil, err
	}
	if p.Server, err = rpc.NewServer(cfg.RPC, p.Telemetry, p.Log); err != nil {
		return nil, err
	}
	p.Server.AddCheck("postgres", p.Pool.Ping)
	return p, nil
}

// Listen adds the services of the journal and binds the address, which it
// returns. undecided says which accepted requests still depend on somebody
// outside; nil means none does.
func (p *Parts) Listen(undecided journal.Undecided) (addr string, err error) {
	s := p.Server.GRPC()
	journalpb.RegisterJournalServiceServer(s, journal.NewServer(p.Journal, p.Pager))
	journalpb.RegisterJournalAdminServiceServer(s, journal.NewAdmin(p.Journal, p.Pager))
	journalpb.RegisterRequestServiceServer(s, journal.NewRequestServer(p.Journal, undecided))
	return p.Server.Listen()
}

// Serve answers calls until the group stops. ready, which may be nil, is told the
// address once calls are answered.
func (p *Parts) Serve(ctx context.Context, g *lifecycle.Group, addr string, ready func(addr string)) {
	g.Go("server", p.Server.Serve)
	p.Log.InfoContext(ctx, "serving", "addr", addr)
	if ready != nil {
		ready(addr)
	}
}
