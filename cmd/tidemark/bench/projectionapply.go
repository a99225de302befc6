package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// copyBatch is how many records a consumer hands over at most.
const copyBatch = 1000

// ApplyResult is the live apply of one read model.
type ApplyResult struct {
	View  string `json:"view"`
	Facts int    `json:"facts"`
	// Kernel and Bare are facts per second, the medians of all runs.
	Kernel float64 `json:"kernel_facts_per_second"`
	Bare   float64 `json:"bare_loop_facts_per_second"`
	// Ratio is the median over pairs of kernel to bare loop.
	Ratio float64     `json:"ratio"`
	Pairs []ApplyPair `json:"pairs"`
	// KernelCPU and BareCPU are seconds of this process per million facts.
	KernelCPU float64 `json:"kernel_cpu_s_per_million"`
	BareCPU   float64 `json:"bare_cpu_s_per_million"`
}

// ApplyPair is one run of each, in facts per second.
type ApplyPair struct {
	Kernel float64 `json:"kernel"`
	Bare   float64 `json:"bare"`
}

// applied is one run.
type appliedRun struct {
	rate, cpu float64
	left      map[string]string // what is stored, per table
}

// applyLive measures the kernel on one view: records as the consumer hands them
// over, decoded, judged, folded, and written with the position of their
// partition in one transaction per batch; and a bare loop that writes the same
// rows and states in as many transactions.
func applyLive[S any](ctx context.Context, b *copyBed, view fold.View[S]) (result ApplyResult, err error) {
	result.View = view.Name
	streams := overlapping(b.opts.Facts, b.opts.Open)
	records, err := recordsOf(b.codec, streams)
	if err != nil {
		return result, err
	}
	for _, stream := range streams {
		result.Facts += len(stream)
	}
	b.say("%s: working out what a bare loop has to write for %d facts", view.Name, result.Facts)
	work, err := bareWork(ctx, b, view, streams)
	if err != nil {
		return result, err
	}
	kernel := func() (appliedRun, error) {
		return b.applied(ctx, view.Name, result.Facts, func(db string) (func() error, func(), error) { return kernelRun(ctx, b, view, records, db) })
	}
	bare := func() (appliedRun, error) {
		return b.applied(ctx, view.Name, result.Facts, func(db string) (func() error, func(), error) { return work.run(ctx, b, db) })
	}
	var ours, theirs []appliedRun
	for pair := range b.opts.Pairs {
		b.say("%s: pair %d of %d", view.Name, pair+1, b.opts.Pairs)
		order := []func() (appliedRun, error){kernel, bare}
		if pair%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		var ran [2]appliedRun
		for i, run := range order {
			if ran[i], err = run(); err != nil {
				return result, err
			}
		}
		if pair%2 == 1 {
			ran[0], ran[1] = ran[1], ran[0]
		}
		for table, rows := range ran[0].left {
			if ran[1].left[table] != rows {
				return result, fmt.Errorf("%s: the kernel left %s in table %s, the bare loop %s: they did not do the same work", view.Name, rows, table, ran[1].left[table])
			}
		}
		ours, theirs = append(ours, ran[0]), append(theirs, ran[1])
		result.Pairs = append(result.Pairs, ApplyPair{ran[0].rate, ran[1].rate})
	}
	million := 1e6 / float64(result.Facts)
	result.Kernel = median(ours, func(r appliedRun) float64 { return r.rate })
	result.Bare = median(theirs, func(r appliedRun) float64 { return r.rate })
	result.Ratio = median(result.Pairs, func(p ApplyPair) float64 { return p.Kernel / p.Bare })
	result.KernelCPU = median(ours, func(r appliedRun) float64 { return r.cpu }) * million
	result.BareCPU = median(theirs, func(r appliedRun) float64 { return r.cpu }) * million
	return result, nil
}

// applied runs one writer on an empty database and reads what it left.
func (b *copyBed) applied(ctx context.Context, view string, facts int, prepare func(db string) (run func() error, closed func(), err error)) (r appliedRun, err error) {
	db, err := b.database(ctx)
	if err != nil {
		return r, err
	}
	run, closed, err := prepare(db)
	if err != nil {
		return r, err
	}
	cpu, started := cpuSeconds(), time.Now()
	err = run()
	r.rate, r.cpu = float64(facts)/time.Since(started).Seconds(), cpuSeconds()-cpu
	if err == nil {
		r.left, err = b.left(ctx, db, view)
	}
	closed()
	if err != nil {
		return r, err
	}
	return r, b.server(ctx, "DROP DATABASE "+db+" WITH (FORCE)")
}

// left counts and sums up the rows of every table of a view, and its states.
func (b *copyBed) left(ctx context.Context, db, view string) (map[string]string, error) {
	all := map[string]string{}
	return all, b.on(ctx, db, func(conn *pgx.Conn) error {
		tables, err := tablesOf(ctx, conn, view)
		if err != nil {
			return err
		}
		for _, t := range tables {
			columns := "t::text"
			if t.name == "state" { // the kernel's own fingerprints are not the bare loop's
				columns = "t.state::text"
			}
			var text string
			err := conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*) || ' rows, hash ' || coalesce(sum(hashtextextended(%s, 0)), 0) FROM %s AS t", columns, t.qualified())).Scan(&text)
			if err != nil {
				return err
			}
			all[t.name] = text
		}
		return nil
	})
}

// kernelRun opens the real kernel and hands it records without a broker.
func kernelRun[S any](ctx context.Context, b *copyBed, view fold.View[S], records [][]consumer.Record, db string) (func() error, func(), error) {
	p, err := projection.Open(ctx, projection.Config{
		Postgres: postgres.Config{URL: b.cluster.URL(db), MaxConns: copyPartitions + 2}, Kafka: kafka.Config{Brokers: "127.0.0.1:1", Partitions: copyPartitions},
		Codec: b.codec, Telemetry: telemetry.Off(), Log: quiet(),
		Bounds: func(context.Context) (map[string]map[int32]consumer.Bounds, error) { return nil, nil },
	}, view)
	if err != nil {
		return nil, nil, err
	}
	ids := map[string]string{kafka.TopicControl: "control"}
	for _, source := range view.Sources {
		ids[kafka.EventsTopic(source)] = source
	}
	for number := range records {
		if _, err := p.Claim(ctx, int32(number), ids); err != nil {
			p.Close()
			return nil, nil, err
		}
	}
	return func() error {
		group, ctx := errgroup.WithContext(ctx)
		for number, stream := range records {
			group.Go(func() error {
				for from := 0; from < len(stream); from += copyBatch {
					if err := p.Handle(ctx, int32(number), stream[from:min(from+copyBatch, len(stream))]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	}, p.Close, nil
}
