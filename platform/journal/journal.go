// Package journal is the write path's memory: every event for ever, the set of
// those not sent yet, and the answers already given. Execute is the one
// transaction in which a command takes effect; the JournalService serves what
// was committed.
package journal

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config is what a journal has to know about its service.
type Config struct {
	// Source is the context: "order", "payment", "shipment".
	Source string
	// Partitions is the partition count of the deployment; fixed for ever.
	Partitions int32
	// Codec turns a fact into the name and version of its schema and its bytes.
	Codec *avro.Codec
	Log   *slog.Logger
}

// Journal appends to and reads from the journal of one service.
type Journal struct {
	cfg  Config
	pool *pgxpool.Pool
	wake chan struct{}
}

// Open brings the tables up to date, mints the source's first epoch if there is
// none, and returns the journal. If the database is not the one that the epoch
// began in, the journal takes no commands until a new epoch begins.
func Open(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Journal, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read the journal's migrations: %w", err)
	}
	if err := postgres.Migrate(ctx, pool, sub, "goose_journal"); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	j := &Journal{cfg: cfg, pool: pool, wake: make(chan struct{}, 1)}
	if err := j.mintFirstEpoch(ctx); err != nil {
		return nil, err
	}
	if err := j.stopIfMoved(ctx); err != nil {
		return nil, err
	}
	return j, nil
}

// Source returns the context that the journal belongs to.
func (j *Journal) Source() string { return j.cfg.Source }

// Partitions returns the partition count that keys are spread over.
func (j *Journal) Partitions() int32 { return j.cfg.Partitions }

// Pool returns the service's database.
func (j *Journal) Pool() *pgxpool.Pool { return j.pool }

// Wakes receives after commits; several commits may be one wake-up. It is a
// hint for the relay of this process: what it misses, the relay's poll finds.
func (j *Journal) Wakes() <-chan struct{} { return j.wake }

func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}
