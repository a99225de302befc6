package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

// RebuildResult is how fast a generation is built from nothing, beside the least
// that takes: to consume and decode the facts, and to copy, index and log the
// rows that come of them.
type RebuildResult struct {
	View  string `json:"view"`
	Facts int    `json:"facts"`
	// Rate is facts per second, the median of all runs: from the first record
	// asked for to tables that can be compared, positions included.
	Rate float64 `json:"facts_per_second"`
	// Ratio is the median over runs of the rebuild to the sum of the bare parts.
	Ratio float64      `json:"ratio"`
	Runs  []RebuildRun `json:"runs"`
	// CPU is seconds of this process, with the broker in it, per million facts.
	CPU float64 `json:"cpu_s_per_million"`
	// ServerCPU is that of Postgres, and BareServerCPU what it uses to copy, index and
	// log the rows that come of them.
	ServerCPU     float64 `json:"postgres_cpu_s_per_million"`
	BareServerCPU float64 `json:"bare_postgres_cpu_s_per_million"`
	// Memory is by how much this process grew at most, in MB.
	Memory float64 `json:"resident_growth_mb"`
}

// RebuildRun is one rebuild and the bare parts, in seconds.
type RebuildRun struct {
	Rebuild float64 `json:"rebuild_s"`
	Consume float64 `json:"bare_consume_and_decode_s"`
	Copy    float64 `json:"bare_copy_index_log_s"`
	cpu     float64
	server  [2]float64 // CPU of Postgres, in the rebuild and in the bare copy
	grew    float64
}

// rebuildWorkers is how many partitions a bare part works on at once, as the
// kernel does.
const rebuildWorkers = 2

func (b *copyBed) rebuilds(ctx context.Context) (results []RebuildResult, err error) {
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{Dir: filepath.Join(b.opts.Dir, "rebuild"), Partitions: copyPartitions})
	if err != nil {
		return nil, err
	}
	defer broker.Close()
	orders := (b.opts.Rebuild + journeyFacts - 1) / journeyFacts
	b.say("rebuild: publishing the facts of %d orders", orders)
	facts, _, err := b.publish(ctx, broker.Addr(), orders)
	if err != nil {
		return nil, err
	}
	to := kafka.Config{Brokers: broker.Addr(), Partitions: copyPartitions}
	for _, measure := range []func() (RebuildResult, error){
		func() (RebuildResult, error) { return rebuilds(ctx, b, timeline.View(), to, facts) },
		func() (RebuildResult, error) { return rebuilds(ctx, b, operations.View(), to, facts) },
	} {
		one, err := measure()
		if err != nil {
			return results, err
		}
		results = append(results, one)
	}
	return results, nil
}

// rebuilds measures one view, in A B B A order.
func rebuilds[S any](ctx context.Context, b *copyBed, view fold.View[S], to kafka.Config, facts int) (result RebuildResult, err error) {
	result.View, result.Facts = view.Name, facts
	for n := range b.opts.Rebuilds {
		b.say("rebuild of %s: run %d of %d", view.Name, n+1, b.opts.Rebuilds)
		db, err := b.database(ctx)
		if err != nil {
			return result, err
		}
		var run RebuildRun
		var consumed float64
		steps := []func() error{
			func() (err error) { run, err = build(ctx, b, view, to, db, facts); return err },
			func() (err error) { consumed, err = bareConsume(ctx, b, to, view.Sources, facts); return err },
		}
		if n%2 == 1 {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return result, err
			}
		}
		run.Consume = consumed
		if run.Copy, run.server[1], err = b.bareCopy(ctx, db, view.Name); err != nil {
			return result, err
		}
		if err := b.server(ctx, "DROP DATABASE "+db+" WITH (FORCE)"); err != nil {
			return result, err
		}
		result.Runs = append(result.Runs, run)
	}
	result.Rate = median(result.Runs, func(r RebuildRun) float64 { return float64(facts) / r.Rebuild })
	result.Ratio = median(result.Runs, func(r RebuildRun) float64 { return r.Rebuild / (r.Consume + r.Copy) })
	million := 1e6 / float64(facts)
	result.CPU = median(result.Runs, func(r RebuildRun) float64 { return r.cpu }) * million
	result.ServerCPU = median(result.Runs, func(r RebuildRun) float64 { return r.server[0] }) * million
	result.BareServerCPU = median(result.Runs, func(r RebuildRun) float64 { return r.server[1] }) * million
	for _, r := range result.Runs {
		result.Memory = max(result.Memory, r.grew)
	}
	return result, nil
}

// build has the kernel build a generation in an empty database, and checks that
// all of it is there.
func build[S any](ctx context.Context, b *copyBed, view fold.View[S], to kafka.Config, db string, facts int) (r RebuildRun, err error) {
	p, err := projection.Open(ctx, projection.Config{
		Postgres: postgres.Config{URL: b.cluster.URL(db), MaxConns: copyPartitions + 2}, Kafka: to, Codec: b.codec, Telemetry: telemetry.Off(), Log: quiet(),
		Generations: projection.Generations{BulkAbove: 1, BulkMemory: b.opts.RebuildMemory << 20},
	}, view)
	if err != nil {
		return r, err
	}
	defer p.Close()
	grew, cpu, server, started := grown(), cpuSeconds(), b.postgresCPU(), time.Now()
	err = p.Bulk(ctx)
	r.Rebuild, r.cpu, r.grew = time.Since(started).Seconds(), cpuSeconds()-cpu, grew()
	r.server[0] = b.postgresCPU() - server
	if err != nil {
		return r, err
	}
	return r, b.on(ctx, db, func(conn *pgx.Conn) error {
		tables, err := tablesOf(ctx, conn, view.Name)
		if err != nil {
			return err
		}
		var read int
		err = conn.QueryRow(ctx, fmt.Sprintf("SELECT coalesce(sum(value::bigint), 0) FROM %s.position, jsonb_each_text(offsets)", tables[0].schema)).Scan(&read)
		if err == nil && read != facts {
			err = fmt.Errorf("the rebuild read %d of %d facts", read, facts)
		}
		return err
	})
}

// grown watches by how much this process grows until stop is called, in MB.
func grown() (stop func() float64) {
	debug.FreeOSMemory()
	before := resident()
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				most.Store(max(most.Load(), resident()))
			}
		}
	}()
	return func() float64 {
		close(done)
		<-ended
		return float64(max(most.Load(), resident())-before) / (1 << 20)
	}
}

// resident is what this process has in memory, in bytes; 0 where it cannot be told.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// bareConsume reads all facts of some sources and decodes them.
func bareConsume(ctx context.Context, b *copyBed, to kafka.Config, sources []string, want int) (seconds float64, err error) {
	started := time.Now()
	var topics []string
	for _, source := range sources {
		topics = append(topics, kafka.EventsTopic(source))
	}
	bounds, err := consumer.LogBounds(ctx, to, topics)
	if err != nil {
		return 0, err
	}
	var decoded atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(rebuildWorkers)
	for number := range int32(copyPartitions) {
		group.Go(func() error {
			logs := map[string]consumer.Bounds{}
			for topic, partitions := range bounds {
				logs[topic] = partitions[number]
			}
			batches := make(chan []consumer.Record, 2)
			reading, reads := errgroup.WithContext(ctx)
			reading.Go(func() error {
				defer close(batches)
				return consumer.Scan(reads, to, "bare", number, logs, func(_ map[string]string, records []consumer.Record) error {
					select {
					case batches <- records:
						return nil
					case <-reads.Done():
						return reads.Err()
					}
				})
			})
			reading.Go(func() error {
				for records := range batches {
					for _, r := range records {
						if _, err := b.codec.DecodeRecord(r.Headers, r.Key, r.Value); err != nil {
							return err
						}
					}
					decoded.Add(int64(len(records)))
				}
				return nil
			})
			return reading.Wait()
		})
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("bare consume: %w", err)
	}
	if decoded.Load() != int64(want) {
		return 0, fmt.Errorf("bare consume: %d of %d facts", decoded.Load(), want)
	}
	return time.Since(started).Seconds(), nil
}

// bareCopy takes the rows of a generation out, untimed, and copies them into
// tables of the same shape: COPY without indexes, the indexes, SET LOGGED.
func (b *copyBed) bareCopy(ctx context.Context, db, view string) (seconds, server float64, err error) {
	var tables []string
	var schema string
	indexes := map[string][]string{}
	dir, err := os.MkdirTemp(b.opts.Dir, "rows")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.on(ctx, db, func(conn *pgx.Conn) error {
		found, err := tablesOf(ctx, conn, view)
		if err != nil {
			return err
		}
		schema = found[0].schema
		tables = append(tables, "member")
		for _, t := range found {
			tables = append(tables, t.name)
		}
		if _, err := conn.Exec(ctx, "CREATE SCHEMA bare"); err != nil {
			return err
		}
		for _, table := range tables {
			if err := takeOut(ctx, conn, schema, table, filepath.Join(dir, table)); err != nil {
				return err
			}
			rows, err := conn.Query(ctx, "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 AND tablename = $2", schema, table)
			if err != nil {
				return err
			}
			if indexes[table], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return err
			}
		}
		_, err = conn.Exec(ctx, "CHECKPOINT")
		return err
	}); err != nil {
		return 0, 0, fmt.Errorf("take the rows out: %w", err)
	}
	started, used := time.Now(), b.postgresCPU()
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(rebuildWorkers)
	for _, table := range tables {
		group.Go(func() error {
			return b.on(inside, db, func(conn *pgx.Conn) error {
				return bareTableCopy(inside, conn, table, filepath.Join(dir, table), schema, indexes[table])
			})
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, fmt.Errorf("bare copy: %w", err)
	}
	return time.Since(started).Seconds(), b.postgresCPU() - used, nil
}

func takeOut(ctx context.Context, conn *pgx.Conn, schema, table, path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := conn.PgConn().CopyTo(ctx, file, fmt.Sprintf("COPY %s.%s TO STDOUT (FORMAT binary)", schema, table)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("CREATE UNLOGGED TABLE bare.%s (LIKE %s.%s)", table, schema, table))
	return err
}

func bareTableCopy(ctx context.Context, conn *pgx.Conn, table, path, schema string, indexes []string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if _, err := conn.PgConn().CopyFrom(ctx, file, fmt.Sprintf("COPY bare.%s FROM STDIN (FORMAT binary)", table)); err != nil {
		return err
	}
	for _, definition := range append([]string{"SET maintenance_work_mem = '96MB'"}, indexes...) {
		if _, err := conn.Exec(ctx, strings.Replace(definition, " ON "+schema+".", " ON bare.", 1)); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("ALTER TABLE bare.%s SET LOGGED", table))
	return err
}
