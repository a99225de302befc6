package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
)

// ReadableTime is how long after its commit an event can be read by a consumer.
type ReadableTime struct {
	Wanted  float64 `json:"wanted_commits_per_second"`
	Reached float64 `json:"reached_commits_per_second"`
	Events  int     `json:"events"`
	// Due counts from when the command was due (open loop), Commit from its answer.
	Due    Quantiles `json:"from_due_ms"`
	Commit Quantiles `json:"from_commit_ms"`
}

// commit lets one command take effect on a new aggregate. Without facts it is
// the same transaction less journal, outbox and wake-up.
func (s *stage) commit(ctx context.Context, table *journal.Table[thing], id string, facts ...journal.Fact) error {
	_, _, err := journal.Execute(ctx, s.journal, table,
		journal.Request{ID: uuid.NewString(), Method: "Bench", Message: &emptypb.Empty{}, AggregateID: id},
		func(*thing, time.Time) ([]journal.Fact, error) { return facts, nil },
		func(*thing, journal.Head) *emptypb.Empty { return &emptypb.Empty{} })
	return err
}

// latency commits at a fixed rate that waits for nobody, while a consumer reads.
func (b *bed) latency(ctx context.Context) (r *ReadableTime, err error) {
	b.opts.Progress(fmt.Sprintf("commit to readable, %.0f commits/s for %s", b.opts.CommitRate, b.opts.Latency))
	s, err := b.fresh(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.strike(ctx)) }()
	stop, err := s.startRelay(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	const warmup = 500
	total := warmup + int(b.opts.CommitRate*b.opts.Latency.Seconds())
	var mu sync.Mutex
	committed, due, arrived := map[string]time.Time{}, map[string]time.Time{}, map[string]time.Time{}
	var complete atomic.Bool
	consumed := make(chan error, 1)
	go func() {
		consumed <- b.consume(ctx, complete.Load, func(_ *ck.Message, e event.Envelope) error {
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if _, twice := arrived[e.Key]; twice || e.Version != 1 {
				return fmt.Errorf("%s arrived twice or out of order", e.Aggregate)
			}
			arrived[e.Key] = now
			if len(arrived) == total {
				complete.Store(true)
			}
			return nil
		})
	}()
	table, gap := things(), time.Duration(float64(time.Second)/b.opts.CommitRate)
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	start := time.Now().Add(100 * time.Millisecond)
	for i := range total {
		at := start.Add(time.Duration(i) * gap)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(at)):
		}
		group.Go(func() {
			id := strconv.Itoa(i)
			if err := s.commit(ctx, table, id, journal.Fact{Body: payload(id)}); err != nil {
				failed.Store(&err)
				return
			}
			now := time.Now()
			mu.Lock()
			committed[id], due[id] = now, at
			mu.Unlock()
		})
	}
	group.Wait()
	reached := float64(total) / time.Since(start).Seconds()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	if err := <-consumed; err != nil {
		return nil, err
	}
	var fromDue, fromCommit []time.Duration
	for i := warmup; i < total; i++ {
		id := strconv.Itoa(i)
		fromDue = append(fromDue, arrived[id].Sub(due[id]))
		fromCommit = append(fromCommit, max(0, arrived[id].Sub(committed[id])))
	}
	return &ReadableTime{Wanted: b.opts.CommitRate, Reached: reached, Events: len(fromDue), Due: quantiles(fromDue), Commit: quantiles(fromCommit)}, nil
}

// CommitResult is the rate of commits, each in its own transaction; medians.
type CommitResult struct {
	Clients int `json:"clients"`
	// Without is the same transaction without journal, outbox and wake-up.
	Without float64 `json:"without_per_second"`
	// Stopped and Running are with them, the relay stopped, and running.
	Stopped      float64 `json:"with_relay_stopped_per_second"`
	Running      float64 `json:"with_relay_running_per_second"`
	StoppedRatio float64 `json:"relay_stopped_ratio"`
	RunningRatio float64 `json:"relay_running_ratio"`
	// The CPU of this process (broker included if it is the embedded one) and of
	// Postgres per commit, in microseconds: what the rates hang on where the
	// clients keep all cores busy, and what other programs beside them do not spoil.
	WithoutCPU float64 `json:"without_cpu_us"`
	StoppedCPU float64 `json:"with_relay_stopped_cpu_us"`
	RunningCPU float64 `json:"with_relay_running_cpu_us"`
}

func (b *bed) commits(ctx context.Context) (*CommitResult, error) {
	kinds := []string{"without", "relay stopped", "relay running"}
	rates, cpus := map[string][]float64{}, map[string][]float64{}
	for round := range b.opts.Rounds {
		order := slices.Clone(kinds)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, kind := range order {
			b.opts.Progress(fmt.Sprintf("commits %d of %d: %s", round+1, b.opts.Rounds, kind))
			rate, cpu, err := b.commitRate(ctx, kind)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			rates[kind], cpus[kind] = append(rates[kind], rate), append(cpus[kind], cpu)
		}
	}
	of := func(figures map[string][]float64, kind int) float64 {
		return median(figures[kinds[kind]], func(r float64) float64 { return r })
	}
	r := &CommitResult{
		Clients: b.opts.Clients, Without: of(rates, 0), Stopped: of(rates, 1), Running: of(rates, 2),
		WithoutCPU: of(cpus, 0), StoppedCPU: of(cpus, 1), RunningCPU: of(cpus, 2),
	}
	r.StoppedRatio, r.RunningRatio = r.Stopped/r.Without, r.Running/r.Without
	return r, nil
}

// commitRate runs a closed loop of clients on a fresh database.
func (b *bed) commitRate(ctx context.Context, kind string) (rate, cpu float64, err error) {
	s, err := b.fresh(ctx, "")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.strike(ctx)) }()
	if kind == "relay running" {
		stop, err := s.startRelay(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	table := things()
	var group sync.WaitGroup
	var count atomic.Int64
	var failed atomic.Pointer[error]
	start, before := time.Now(), cpuSeconds()+b.serverCPU()
	for c := range b.opts.Clients {
		group.Go(func() {
			for i := 0; time.Since(start) < b.opts.Commits && failed.Load() == nil; i++ {
				id := fmt.Sprintf("%d-%d", c, i)
				var facts []journal.Fact
				if kind != "without" {
					facts = append(facts, journal.Fact{Body: payload(id)})
				}
				if err := s.commit(ctx, table, id, facts...); err != nil {
					failed.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	group.Wait()
	rate = float64(count.Load()) / time.Since(start).Seconds()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	used := func() float64 { return (cpuSeconds() + b.serverCPU() - before) * 1e6 / float64(count.Load()) }
	if kind != "relay running" {
		return rate, used(), nil
	}
	if err := s.marked(ctx); err != nil {
		return 0, 0, err
	}
	cpu = used()
	return rate, cpu, b.check(ctx, int(count.Load()))
}

// IdleResult is what doing nothing costs.
type IdleResult struct {
	Seconds float64 `json:"seconds"`
	// CPU is the share of one core that this process uses, embedded broker
	// included; Postgres is that of the server.
	CPU      float64 `json:"cpu_percent"`
	Postgres float64 `json:"postgres_cpu_percent"`
	// Growth is what the database and the heap grew by, in bytes.
	Database int64 `json:"database_growth_bytes"`
	Heap     int64 `json:"heap_growth_bytes"`
}

func (b *bed) idle(ctx context.Context) (r *IdleResult, err error) {
	b.opts.Progress(fmt.Sprintf("nothing, for %s", b.opts.Idle))
	s, err := b.fresh(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.strike(ctx)) }()
	stop, err := s.startRelay(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := s.commit(ctx, things(), "one", journal.Fact{Body: payload("one")}); err != nil {
		return nil, err
	}
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	wait(3 * time.Second)
	sizeOf := func() (n int64) {
		if scanErr := s.pool.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&n); scanErr != nil {
			err = scanErr
		}
		return n
	}
	size, heap, cpu, server, start := sizeOf(), heapInUse(), cpuSeconds(), b.serverCPU(), time.Now()
	wait(b.opts.Idle)
	seconds := time.Since(start).Seconds()
	return &IdleResult{
		Seconds: seconds, CPU: 100 * (cpuSeconds() - cpu) / seconds, Postgres: 100 * (b.serverCPU() - server) / seconds,
		Database: sizeOf() - size, Heap: int64(heapInUse()) - int64(heap),
	}, err
}

// MemoryResult is what the process holds while a long backlog is drained.
type MemoryResult struct {
	Rows int `json:"rows"`
	// Early and Late are the largest heaps after a collection in the first and in
	// the last third of the drain, in bytes; RSS is that of the whole process.
	Early    uint64 `json:"early_heap_bytes"`
	Late     uint64 `json:"late_heap_bytes"`
	EarlyRSS int64  `json:"early_rss_bytes"`
	LateRSS  int64  `json:"late_rss_bytes"`
}

func (b *bed) memory(ctx context.Context) (r *MemoryResult, err error) {
	b.opts.Progress(fmt.Sprintf("memory while %d rows are drained", b.opts.Memory))
	s, err := b.fresh(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.strike(ctx)) }()
	if err := s.fill(ctx, b.opts.Memory); err != nil {
		return nil, err
	}
	stop, err := s.startRelay(ctx)
	if err != nil {
		return nil, err
	}
	type sample struct {
		heap uint64
		rss  int64
	}
	var samples []sample
	done := make(chan error, 1)
	go func() { done <- s.marked(ctx) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-tick.C:
			runtime.GC()
			samples = append(samples, sample{heapInUse(), rssBytes()})
		}
	}
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	third := max(1, len(samples)/3)
	r = &MemoryResult{Rows: b.opts.Memory}
	for i, one := range samples {
		if i < third {
			r.Early, r.EarlyRSS = max(r.Early, one.heap), max(r.EarlyRSS, one.rss)
		}
		if i >= len(samples)-third {
			r.Late, r.LateRSS = max(r.Late, one.heap), max(r.LateRSS, one.rss)
		}
	}
	return r, b.check(ctx, b.opts.Memory)
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// rssBytes is the resident memory of this process; 0 where /proc does not tell.
func rssBytes() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// serverCPU is what Postgres and its processes that live now have used, in
// seconds; 0 where /proc does not tell.
func (b *bed) serverCPU() float64 {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	const ticks = 100 // a second, on every Linux that Go runs on
	server, total := strconv.Itoa(b.cluster.PID()), 0.0
	for _, entry := range entries {
		raw, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(raw), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 13 || entry.Name() != server && fields[1] != server {
			continue
		}
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		total += (user + system) / ticks
	}
	return total
}
