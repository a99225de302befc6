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
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// RequestMemory is how long the answer to a request id is remembered.
const RequestMemory = 30 * 24 * time.Hour

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

// Prune forgets answers older than RequestMemory until ctx ends, but never those
// to name-based request ids (UUID version 5): a process makes such an id from its
// own name and that of its step, so it may come again as long as the process is
// open. Its failures are logged: they cost disk, never a command.
func (j *Journal) Prune(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		if err := j.pruneOnce(ctx); err != nil && ctx.Err() == nil {
			j.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "pruning request ids failed", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (j *Journal) pruneOnce(ctx context.Context) error {
	const chunk = 5_000
	for {
		tag, err := j.pool.Exec(ctx, `
			DELETE FROM idempotency WHERE request_id IN (
				SELECT request_id FROM idempotency
				 WHERE created_at < clock_timestamp() - $1::interval AND substr(request_id, 15, 1) <> '5' LIMIT $2)`, RequestMemory, chunk)
		if err != nil {
			return fmt.Errorf("prune request ids: %w", err)
		}
		if tag.RowsAffected() < chunk {
			return nil
		}
	}
}
