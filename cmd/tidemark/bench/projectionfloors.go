package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// FreshnessFloors is how soon a command that was answered is visible to a reader
// with its token, beside the least that its way takes: a disk write of the
// source, a record through the broker, a disk write of the copy, a query.
type FreshnessFloors struct {
	Orders  int       `json:"orders"`
	Rate    float64   `json:"orders_per_second"`
	Visible Quantiles `json:"answered_to_visible_ms"`
	Fsync   Quantiles `json:"fsync_ms"`
	Broker  Quantiles `json:"produce_and_fetch_ms"`
	Query   Quantiles `json:"query_ms"`
	// FloorP50 and FloorP99 are the sums of the floors; the ratios are of Visible
	// to them.
	FloorP50 float64 `json:"floor_p50_ms"`
	FloorP99 float64 `json:"floor_p99_ms"`
	RatioP50 float64 `json:"ratio_p50"`
	RatioP99 float64 `json:"ratio_p99"`
}

// freshnessRate is how many orders are placed per second.
const freshnessRate = 50

// floorSamples is how often each floor is measured.
const floorSamples = 500

func (b *copyBed) freshness(ctx context.Context) (*FreshnessFloors, error) {
	b.say("freshness: %d orders at %d/s on a fleet of its own", b.opts.Orders, freshnessRate)
	dir := filepath.Join(b.opts.Dir, "fleet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	run, err := RunFreshness(ctx, FreshnessOptions{Dir: dir, Rate: freshnessRate, Orders: b.opts.Orders, Warmup: b.opts.Orders / 10})
	if err != nil {
		return nil, err
	}
	b.say("its floors")
	f := &FreshnessFloors{Orders: run.Orders, Rate: run.Reached, Visible: run.Answered}
	if f.Fsync, err = b.fsyncs(); err != nil {
		return nil, fmt.Errorf("fsync: %w", err)
	}
	if f.Broker, err = b.records(ctx); err != nil {
		return nil, fmt.Errorf("produce and fetch: %w", err)
	}
	if f.Query, err = b.selects(ctx); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	f.FloorP50 = 2*f.Fsync.P50 + f.Broker.P50 + f.Query.P50
	f.FloorP99 = 2*f.Fsync.P99 + f.Broker.P99 + f.Query.P99
	f.RatioP50, f.RatioP99 = f.Visible.P50/f.FloorP50, f.Visible.P99/f.FloorP99
	return f, nil
}

// fsyncs writes 8 KiB again and again, each time to the disk.
func (b *copyBed) fsyncs() (_ Quantiles, err error) {
	file, err := os.Create(filepath.Join(b.opts.Dir, "fsync"))
	if err != nil {
		return Quantiles{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return sampled(func() error {
		if _, err := file.Write(make([]byte, 8<<10)); err != nil {
			return err
		}
		return file.Sync()
	})
}

// records sends one record at a time through a broker to a reader who waits.
func (b *copyBed) records(ctx context.Context) (Quantiles, error) {
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{Dir: filepath.Join(b.opts.Dir, "floor"), Partitions: 1})
	if err != nil {
		return Quantiles{}, err
	}
	defer broker.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ConsumeTopics(kafka.TopicOrder), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return Quantiles{}, err
	}
	defer client.Close()
	return sampled(func() error {
		failed := make(chan error, 1)
		client.Produce(ctx, &kgo.Record{Topic: kafka.TopicOrder, Value: make([]byte, 300)}, func(_ *kgo.Record, err error) { failed <- err })
		for {
			fetches := client.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			if fetches.NumRecords() > 0 {
				return <-failed
			}
		}
	})
}

func (b *copyBed) selects(ctx context.Context) (q Quantiles, err error) {
	db, err := b.database(ctx)
	if err != nil {
		return q, err
	}
	return q, b.on(ctx, db, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "CREATE TABLE one (id text PRIMARY KEY, document text); INSERT INTO one SELECT i::text, repeat('x', 800) FROM generate_series(1, 1000) i"); err != nil {
			return err
		}
		q, err = sampled(func() error {
			var document string
			return conn.QueryRow(ctx, "SELECT document FROM one WHERE id = $1", "500").Scan(&document)
		})
		return err
	})
}

// sampled times something again and again; the first times do not count.
func sampled(do func() error) (Quantiles, error) {
	var took []time.Duration
	for i := range floorSamples + 20 {
		started := time.Now()
		if err := do(); err != nil {
			return Quantiles{}, err
		}
		if i >= 20 {
			took = append(took, time.Since(started))
		}
	}
	return quantiles(took), nil
}

func dialPlain(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// servePlain serves a handler with nothing around it.
func servePlain(group *sync.WaitGroup, s timelinev1.TimelineServiceServer) (addr string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := grpc.NewServer()
	timelinev1.RegisterTimelineServiceServer(server, s)
	group.Go(func() { _ = server.Serve(listener) }) // its end is ours: Stop
	return listener.Addr().String(), server.Stop, nil
}
