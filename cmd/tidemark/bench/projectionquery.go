package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

// QueryResult is what queries cost, over so many stored facts.
type QueryResult struct {
	Stored int `json:"facts_stored"`
	// Copied is how fast both read models copied them from Kafka, at once.
	Copied float64 `json:"facts_per_second_copied_by_both"`
	// One after another: the timeline's order status, and a bare handler with one
	// prepared select. CPU is that of this process, with the client, and of Postgres.
	Single   Quantiles `json:"single_order_ms"`
	Bare     Quantiles `json:"bare_handler_ms"`
	P50Ratio float64   `json:"p50_ratio"`
	CPU      float64   `json:"single_order_cpu_us"`
	BareCPU  float64   `json:"bare_handler_cpu_us"`
	CPURatio float64   `json:"cpu_ratio"`
	// Open loop, from the moment a query was due.
	Rate         float64  `json:"queries_per_second"`
	OpenBare     OpenLoop `json:"open_loop_bare_handler"`
	OpenSingle   OpenLoop `json:"open_loop_single_order"`
	OpenTimeline OpenLoop `json:"open_loop_timeline_page_of_50"`
	OpenWork     OpenLoop `json:"open_loop_work_list_page"`
}

// OpenLoop is what queries of one kind took and cost, as above.
type OpenLoop struct {
	Quantiles `json:"ms"`
	CPU       float64 `json:"cpu_us"`
}

// query asks once about one of the orders.
type query func(ctx context.Context, n int) error

// queries copies facts into both read models, through Kafka, and asks.
func (b *copyBed) queries(ctx context.Context) (result *QueryResult, err error) {
	defer lifecycle.HeapFloor()() // as every program of a read model has
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{Dir: filepath.Join(b.opts.Dir, "broker"), Partitions: copyPartitions})
	if err != nil {
		return nil, err
	}
	defer broker.Close()
	orders := (b.opts.Stored + journeyFacts - 1) / journeyFacts
	b.say("publishing the facts of %d orders", orders)
	stored, last, err := b.publish(ctx, broker.Addr(), orders)
	if err != nil {
		return nil, err
	}
	result = &QueryResult{Stored: stored, Rate: b.opts.Rate}
	ctx, cancel := context.WithCancel(lifecycle.WithLogger(ctx, quiet()))
	defer cancel()
	db, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	started := time.Now()
	asking, err := b.serve(ctx, &group, broker.Addr(), db)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, asking.close()) }()
	b.say("both read models copy %d facts", stored)
	if err := asking.await(ctx, last); err != nil {
		return nil, err
	}
	result.Copied = float64(stored) / time.Since(started).Seconds()
	if err := b.settle(ctx, db, asking.other); err != nil {
		return nil, err
	}
	single := func(ctx context.Context, n int) error {
		_, err := asking.timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: journeyOrder(n % orders)})
		return err
	}
	bare := func(ctx context.Context, n int) error {
		_, err := asking.bare.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: journeyOrder(n % orders)})
		return err
	}
	b.say("queries one after another")
	if err := b.inPairs(ctx, result, single, bare); err != nil {
		return nil, err
	}
	for _, one := range []struct {
		name string
		into *OpenLoop
		ask  query
	}{
		{"bare handler", &result.OpenBare, bare},
		{"order status", &result.OpenSingle, single},
		{"timeline page of 50", &result.OpenTimeline, func(ctx context.Context, n int) error {
			_, err := asking.timeline.ListCustomerTimeline(ctx, &timelinev1.ListCustomerTimelineRequest{CustomerId: fmt.Sprintf("customer-%05d", n%copyCustomers), PageSize: 50})
			return err
		}},
		{"work list page", &result.OpenWork, func(ctx context.Context, _ int) error {
			_, err := asking.operations.ListWorkItems(ctx, &operationsv1.ListWorkItemsRequest{PageSize: 50})
			return err
		}},
	} {
		b.say("open loop at %.0f/s: %s", b.opts.Rate, one.name)
		if *one.into, err = b.openLoop(ctx, one.ask); err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return result, nil
}

// inPairs asks one after another, in A B B A order, after a round of each that
// does not count.
func (b *copyBed) inPairs(ctx context.Context, result *QueryResult, single, bare query) error {
	var took [2][]time.Duration
	var cpu [2]float64
	for round, which := range append([]int{0, 1}, abba(b.opts.Rounds)...) {
		if round == 2 {
			took, cpu = [2][]time.Duration{}, [2]float64{}
		}
		ask, before := []query{single, bare}[which], cpuSeconds()+b.postgresCPU()
		for range b.opts.Queries {
			started := time.Now()
			if err := ask(ctx, rand.IntN(1<<30)); err != nil {
				return err
			}
			took[which] = append(took[which], time.Since(started))
		}
		cpu[which] += cpuSeconds() + b.postgresCPU() - before
	}
	result.Single, result.Bare = quantiles(took[0]), quantiles(took[1])
	result.P50Ratio = result.Single.P50 / result.Bare.P50
	result.CPU, result.BareCPU = 1e6*cpu[0]/float64(len(took[0])), 1e6*cpu[1]/float64(len(took[1]))
	result.CPURatio = result.CPU / result.BareCPU
	return nil
}

func abba(rounds int) (order []int) {
	for range rounds {
		order = append(order, 0, 1, 1, 0)
	}
	return order
}

// postgresCPU is how many seconds of a core the server has used since it began:
// its live processes, and, in the postmaster's account, those that have ended.
func (b *copyBed) postgresCPU() (total float64) {
	const ticks = 100 // a second, on every Linux that Go runs on
	server := strconv.Itoa(b.cluster.PID())
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		raw, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		fields := strings.Fields(rest) // from the state on: parent, …, utime, stime, cutime, cstime
		if len(fields) < 15 || entry.Name() != server && fields[1] != server {
			continue
		}
		used := fields[11:13]
		if entry.Name() == server {
			used = fields[11:15]
		}
		for _, text := range used {
			n, err := strconv.ParseFloat(text, 64)
			if err == nil {
				total += n / ticks
			}
		}
	}
	return total
}

// openLoop asks at exponentially distributed intervals that wait for nobody.
func (b *copyBed) openLoop(ctx context.Context, ask query) (OpenLoop, error) {
	before := cpuSeconds() + b.postgresCPU()
	var group sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	due := time.Now()
	ends := due.Add(b.opts.Duration)
	for due.Before(ends) && ctx.Err() == nil {
		due = due.Add(time.Duration(rand.ExpFloat64() / b.opts.Rate * float64(time.Second)))
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(due)):
		}
		at := due
		group.Go(func() {
			err := ask(ctx, rand.IntN(1<<30))
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, time.Since(at)); err != nil {
				failed = err
			}
		})
	}
	group.Wait()
	used := cpuSeconds() + b.postgresCPU() - before
	return OpenLoop{quantiles(took), 1e6 * used / float64(len(took))}, errors.Join(failed, ctx.Err())
}

// publish puts journeys on the topics. Every tenth order stops half way, so that
// there is work. It returns how many facts, and a token of every partition's last.
func (b *copyBed) publish(ctx context.Context, brokers string, orders int) (n int, last []*freshnessv1.Token, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		return 0, nil, err
	}
	defer client.Close()
	ends := map[int32]event.Fact{}
	var mu sync.Mutex
	var failed error
	for i := range orders {
		facts := journey(i)
		if i%10 == 0 {
			facts = facts[:4]
		}
		records, err := recordsOf(b.codec, [][]event.Fact{facts})
		if err != nil {
			return 0, nil, err
		}
		p := event.PartitionOf(facts[0].Key, copyPartitions)
		for _, r := range records[0] {
			out := &kgo.Record{Topic: r.Topic, Partition: p, Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
			}
			client.Produce(ctx, out, func(_ *kgo.Record, err error) {
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = err
				}
			})
		}
		n, ends[p] = n+len(facts), facts[len(facts)-1]
	}
	if err := client.Flush(ctx); err != nil {
		return 0, nil, err
	}
	for _, f := range ends {
		last = append(last, &freshnessv1.Token{AggregateType: f.Aggregate.Type, AggregateId: f.Aggregate.ID, Version: f.Version, Epoch: f.Epoch, EventId: f.ID})
	}
	mu.Lock()
	defer mu.Unlock()
	return n, last, failed
}

// asking are clients of both read models and of a bare handler.
type asking struct {
	timeline, bare timelinev1.TimelineServiceClient
	operations     operationsv1.OperationsServiceClient
	other          string // the database of operations
	closers        []func() error
}

func (a *asking) close() error {
	var errs []error
	for _, c := range a.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// await waits until both read models have all there is.
func (a *asking) await(ctx context.Context, last []*freshnessv1.Token) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	read := &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: last}}, WaitBudget: durationpb.New(20 * time.Second),
	}
	for {
		_, first := a.timeline.ListCustomerTimeline(ctx, &timelinev1.ListCustomerTimelineRequest{CustomerId: "customer-00001", PageSize: 1, Read: read})
		_, second := a.operations.ListWorkItems(ctx, &operationsv1.ListWorkItemsRequest{PageSize: 1, Read: read})
		if first == nil && second == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the facts were not copied in time: %w", errors.Join(first, second))
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// bareTimeline answers with one prepared select.
type bareTimeline struct {
	timelinev1.UnimplementedTimelineServiceServer
	pool *pgxpool.Pool
}

func (s *bareTimeline) GetOrderStatus(ctx context.Context, r *timelinev1.GetOrderStatusRequest) (*timelinev1.GetOrderStatusResponse, error) {
	var document string
	if err := s.pool.QueryRow(ctx, `SELECT document FROM orders WHERE order_id = $1`, r.GetOrderId()).Scan(&document); err != nil {
		return nil, err
	}
	return &timelinev1.GetOrderStatusResponse{Order: &timelinev1.OrderView{OrderId: r.GetOrderId(), Headline: document}}, nil
}

// serve starts both read models over the broker, and the bare handler over the
// timeline's rows.
func (b *copyBed) serve(ctx context.Context, group *sync.WaitGroup, brokers, db string) (*asking, error) {
	a := &asking{}
	other, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	a.other = other
	views := make(chan string, 2)
	failed := make(chan error, 2)
	tl, err := lifecycle.Defaults[timeline.Config]()
	if err != nil {
		return nil, err
	}
	tl.Postgres.URL, tl.Kafka.Brokers, tl.Kafka.Partitions, tl.Kafka.RegistryURL = b.cluster.URL(db), brokers, copyPartitions, "http://127.0.0.1:1"
	tl.RPC.Addr, tl.RPC.HTTPAddr, tl.Ready = "127.0.0.1:0", "", func(addr string) { views <- addr }
	group.Go(func() { failed <- timeline.Run(ctx, tl) })
	ready := func() (*grpc.ClientConn, error) {
		select {
		case addr := <-views:
			conn, err := dialPlain(addr)
			if err == nil {
				a.closers = append(a.closers, conn.Close)
			}
			return conn, err
		case err := <-failed:
			return nil, errors.Join(err, errors.New("a read model ended by itself"))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := ready()
	if err != nil {
		return nil, err
	}
	a.timeline = timelinev1.NewTimelineServiceClient(conn)
	ops, err := lifecycle.Defaults[operations.Config]()
	if err != nil {
		return nil, err
	}
	ops.Postgres.URL, ops.Kafka = b.cluster.URL(other), tl.Kafka
	ops.RPC.Addr, ops.RPC.HTTPAddr, ops.Ready = "127.0.0.1:0", "", func(addr string) { views <- addr }
	group.Go(func() { failed <- operations.Run(ctx, ops) })
	if conn, err = ready(); err != nil {
		return nil, err
	}
	a.operations = operationsv1.NewOperationsServiceClient(conn)
	var tables []*bareTable
	if err := b.on(ctx, db, func(conn *pgx.Conn) (err error) { tables, err = tablesOf(ctx, conn, "timeline"); return err }); err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, b.cluster.URL(db)+"&pool_max_conns=16&search_path="+tables[0].schema)
	if err != nil {
		return nil, err
	}
	addr, stop, err := servePlain(group, &bareTimeline{pool: pool})
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, func() error { stop(); pool.Close(); return nil })
	if conn, err = dialPlain(addr); err != nil {
		return nil, err
	}
	a.closers = append([]func() error{conn.Close}, a.closers...)
	a.bare = timelinev1.NewTimelineServiceClient(conn)
	return a, nil
}
