package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/schemas"
)

// ProjectionOptions say what to measure and how hard to press.
type ProjectionOptions struct {
	// Dir is where the private Postgres, the broker and a fleet keep their data; empty.
	Dir string
	// Facts are applied in every run of the live apply; Pairs is how many pairs of
	// the kernel and a bare loop are run, in A B B A order. Open is how many orders
	// of a partition are under way at once: the more, the fewer facts of one order
	// meet in a batch.
	Facts, Pairs, Open int
	// Rebuild are the facts that a generation is built from; Rebuilds how often, and
	// RebuildMemory what its states may take, in MB.
	Rebuild, Rebuilds int
	RebuildMemory     int64
	// Stored are the facts that queries are asked over; Queries is how many are
	// asked one after another in each round, Rounds how often.
	Stored, Queries, Rounds int
	// Rate and Duration are the open loop of queries.
	Rate     float64
	Duration time.Duration
	// Orders are placed one after another's due time while freshness is measured.
	Orders int
	// Progress is told what is measured now.
	Progress func(string)
}

// ProjectionResult is what RunProjection measured.
type ProjectionResult struct {
	Machine   Machine          `json:"machine"`
	Postgres  string           `json:"postgres"`
	Apply     []ApplyResult    `json:"live_apply,omitempty"`
	Rebuild   []RebuildResult  `json:"rebuild,omitempty"`
	Query     *QueryResult     `json:"queries,omitempty"`
	Freshness *FreshnessFloors `json:"freshness,omitempty"`
}

// copyBed is what the benchmarks of read models run on.
type copyBed struct {
	opts    ProjectionOptions
	cluster *postgres.Cluster
	codec   *avro.Codec
	made    int
}

// RunProjection measures the read side: how fast facts are applied, live, beside
// a bare loop that writes the same rows; what a query costs beside a bare
// handler; how soon a commit is visible beside the floors of its way. A
// measurement whose size is zero is left out.
func RunProjection(ctx context.Context, opts ProjectionOptions) (result *ProjectionResult, err error) {
	b := &copyBed{opts: opts}
	if b.codec, err = avro.NewCodec(schemas.Catalog()); err != nil {
		return nil, err
	}
	bin, err := binaries.Ensure(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	b.cluster, err = postgres.StartCluster(ctx, postgres.ClusterConfig{Dir: filepath.Join(opts.Dir, "postgres"), Durable: true, BinDir: bin})
	if err != nil {
		return nil, err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, b.cluster.Stop(bounded))
	}()
	result = &ProjectionResult{Machine: ThisMachine()}
	if err := b.on(ctx, "postgres", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SHOW server_version").Scan(&result.Postgres)
	}); err != nil {
		return nil, err
	}
	if opts.Facts > 0 && opts.Pairs > 0 {
		for _, measure := range []func() (ApplyResult, error){
			func() (ApplyResult, error) { return applyLive(ctx, b, timeline.View()) },
			func() (ApplyResult, error) { return applyLive(ctx, b, operations.View()) },
		} {
			one, err := measure()
			if err != nil {
				return result, fmt.Errorf("live apply: %w", err)
			}
			result.Apply = append(result.Apply, one)
		}
	}
	if opts.Rebuild > 0 && opts.Rebuilds > 0 {
		if result.Rebuild, err = b.rebuilds(ctx); err != nil {
			return result, fmt.Errorf("rebuild: %w", err)
		}
	}
	if opts.Stored > 0 {
		if result.Query, err = b.queries(ctx); err != nil {
			return result, fmt.Errorf("queries: %w", err)
		}
	}
	if opts.Orders > 0 {
		if result.Freshness, err = b.freshness(ctx); err != nil {
			return result, fmt.Errorf("freshness: %w", err)
		}
	}
	return result, nil
}

// on runs something on one connection to a database.
func (b *copyBed) on(ctx context.Context, database string, do func(*pgx.Conn) error) (err error) {
	conn, err := pgx.Connect(ctx, b.cluster.URL(database))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return do(conn)
}

// database makes an empty one.
func (b *copyBed) database(ctx context.Context) (name string, err error) {
	b.made++
	name = fmt.Sprintf("copy_%d", b.made)
	if err := b.cluster.EnsureDatabases(ctx, name); err != nil {
		return "", err
	}
	return name, b.server(ctx, "CHECKPOINT")
}

func (b *copyBed) server(ctx context.Context, sql string) error {
	return b.on(ctx, "postgres", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// settle does now what the server would do by itself some time after so much was
// written, in the middle of what is measured.
func (b *copyBed) settle(ctx context.Context, databases ...string) error {
	for _, db := range databases {
		if err := b.on(ctx, db, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "VACUUM (ANALYZE)")
			return err
		}); err != nil {
			return err
		}
	}
	return b.server(ctx, "CHECKPOINT")
}

func (b *copyBed) say(format string, args ...any) {
	if b.opts.Progress != nil {
		b.opts.Progress(fmt.Sprintf(format, args...))
	}
}
