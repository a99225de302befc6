// Package projection keeps read models. A view remembers one state per order
// and derives everything else from it; the kernel keeps the states, their
// versions and the positions, writes only differences, sets aside what cannot
// be applied without losing order, and says how fresh every answer is.
//
// A fact takes this way:
//
//	Kafka ─ consumer ─ decode ─ verdict ─┬─ Apply ───────── Fold ─ Rows, Sums, Log ─┐
//	                                     ├─ Duplicate ─────────────────────────────┤
//	                                     └─ Gap, Poison, … ─ parked by reference ──┤
//	                                                        one transaction with the position
package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/contract"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Codec turns bytes into facts. platform/avro is the real one; the kernel's
// own tests have a simpler one.
type Codec interface {
	// LearnRecord makes sure that the schema the headers name is known, if it
	// was released at all. An error means to try again later.
	LearnRecord(ctx context.Context, headers []event.Header) error
	// Learn is LearnRecord for a payload of a journal.
	Learn(ctx context.Context, source, name string, version int) error
	// DecodeRecord decodes a Kafka record. Any error means that no retry by
	// this code can help.
	DecodeRecord(headers []event.Header, key, value []byte) (event.Fact, error)
	// Decode decodes a payload of a journal.
	Decode(name string, version int, bare []byte) (event.Body, error)
	// DecodeControl decodes a control record.
	DecodeControl(headers []event.Header, key, value []byte) (*control.ControlRecord, error)
}

// Config is what a projection needs besides its view.
type Config struct {
	Postgres postgres.Config
	Kafka    kafka.Config
	// InstanceID makes the consumer group member static; may be empty.
	InstanceID string
	// ClockSkew is added to every staleness: how far the clocks of two
	// machines may be apart.
	ClockSkew time.Duration
	// ControlTopic carries what sources say while nothing happens; empty means
	// kafka.TopicControl.
	ControlTopic string
	Codec        Codec
	// Journal heals what is missing; nil leaves it missing.
	Journal Journal
	// Owners are connections to the services that own the sources, by source, for
	// the truths of the view; without one a source is compared with its journal
	// only.
	Owners map[string]grpc.ClientConnInterface
	// Bounds answers where the logs begin and end, per topic and partition
	// number; nil asks the broker. It is for tests that have none.
	Bounds func(context.Context) (map[string]map[int32]consumer.Bounds, error)
	// Scan reads a partition number of some logs, as consumer.Scan does; nil asks
	// the broker. It is for tests that have none.
	Scan func(ctx context.Context, partition int32, logs map[string]consumer.Bounds, take func(ids map[string]string, records []consumer.Record) error) error
	// PlanOnce has the server plan each statement of the queries once and not for
	// every value, which for a page of a list costs more than reading it. It is for
	// a view whose statements are served by the same index whatever they ask for.
	PlanOnce bool
	// MaxParked is how many aggregates may be parked before reading pauses, or a
	// twentieth of all if that is more; 0 means 1,000.
	MaxParked int
	// ReconcileRate is how many orders a second are compared with their owners all
	// the time; 0 means 2, less than 0 none.
	ReconcileRate int
	// Contract is the text of readmodel.yaml, to be served; empty serves none.
	Contract string
	// PageSecret is the secret of operators' page tokens, the same on every
	// replica; empty is one per process.
	PageSecret string
	// Generations says how builds of the view follow each other.
	Generations Generations
	Telemetry   *telemetry.Telemetry
	Log         *slog.Logger
}

// Projection keeps one generation of a view and answers reads from it.
type Projection[S any] struct {
	cfg       Config
	view      fold.View[S]
	truths    []Truth[S]
	contract  *contract.Contract // nil if there is none
	pager     *rpc.Pager
	engine    fold.Engine[S]
	own       generation
	pool      *pgxpool.Pool // its unqualified tables are those of own
	snapshots *snapshots    // what reads of own are answered through
	sql       []statements
	topics    map[string]string // of each source
	seen      *arrivals
	waiters   *waiters
	asking    allowance // queries that ask owners
	metrics   *metrics
	gaps      chan struct{} // holds one token while there may be gaps to heal
	work      chan struct{} // holds one token while there may be something to prove
	ends      *ends
	clock     func() time.Time
	bounds    func(context.Context) (map[string]map[int32]consumer.Bounds, error)
	scan      func(ctx context.Context, partition int32, logs map[string]consumer.Bounds, take func(ids map[string]string, records []consumer.Record) error) error
	reads     atomic.Pointer[reading]
	foreign   func() bool // see shared
	family    *family[S]  // the generations this process keeps; nil in all but their head
	brake     *brake
	building  atomic.Bool        // it has not caught up: nothing is answered from it
	fail      func(string) error // a failpoint of tests

	process       string        // names this process in the rows of operations
	loneFor       time.Duration // these are constants but for tests
	lease         time.Duration
	patience      time.Duration
	grace         time.Duration
	progressEvery time.Duration

	crowd       chan struct{} // holds one token while many were parked
	newlyParked atomic.Int64
	paused      atomic.Pointer[errPaused]

	retrying sync.Mutex // one operator's retry at a time
	rounds   rounds     // comparison with the owners that goes on all the time

	knowing  time.Duration // how stale it may be and rule something out: absenceAge
	claiming sync.Mutex
	claimed  struct {
		at    time.Time
		known map[string]map[int32]consumer.Bounds
	}

	mu         sync.Mutex
	partitions map[int32]*partition[S]
	consumer   *consumer.Consumer
}

// Open finds or makes the view's generation and is then ready to answer reads;
// Run makes it move. Close it after Run has ended. Truths say how it is compared
// with what the owners answer.
func Open[S any](ctx context.Context, cfg Config, view fold.View[S], truths ...Truth[S]) (*Projection[S], error) {
	if err := view.Check(); err != nil {
		return nil, err
	}
	if err := checkTruths(view.Sources, truths); err != nil {
		return nil, fmt.Errorf("view %s: %w", view.Name, err)
	}
	p := newProjection(cfg, view)
	p.truths = truths
	var err error
	p.family = &family[S]{members: map[string]*member[S]{}, again: make(chan struct{}, 1), tasks: make(chan struct{}, 1)}
	if cfg.Contract != "" {
		if p.contract, err = contract.Parse([]byte(cfg.Contract)); err != nil {
			return nil, err
		}
		if err := p.contract.Match(view.Name, view.Version, view.Sources); err != nil {
			return nil, err
		}
	}
	if p.pager, err = rpc.NewPager([]byte(cfg.PageSecret)); err != nil {
		return nil, err
	}
	serving, err := p.openOwn(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.openReads(ctx, serving); err != nil {
		p.pool.Close()
		p.snapshots.pool.Close()
		return nil, err
	}
	if err := p.prepare(); err != nil {
		p.Close()
		return nil, err
	}
	p.admit(&member[S]{Projection: p})
	return p, nil
}

// newProjection makes one that is not connected to anything yet.
func newProjection[S any](cfg Config, view fold.View[S]) *Projection[S] {
	if cfg.ControlTopic == "" {
		cfg.ControlTopic = kafka.TopicControl
	}
	cfg.Generations = cfg.Generations.orDefault()
	p := &Projection[S]{
		cfg: cfg, view: view, engine: fold.Engine[S]{View: view}, topics: map[string]string{}, seen: newArrivals(),
		waiters: newWaiters(), gaps: make(chan struct{}, 1), work: make(chan struct{}, 1), crowd: make(chan struct{}, 1),
		ends: newEnds(), clock: time.Now, partitions: map[int32]*partition[S]{}, brake: newBrake(),
		process: processName(), loneFor: loneFor, lease: leaseTime, patience: gatePatience, grace: 2 * lookTick, progressEvery: time.Second, knowing: absenceAge,
		fail: func(string) error { return nil },
	}
	p.foreign = p.shared
	if p.bounds = cfg.Bounds; p.bounds == nil {
		p.bounds = func(ctx context.Context) (map[string]map[int32]consumer.Bounds, error) {
			return consumer.LogBounds(ctx, cfg.Kafka, append(p.dataTopics(), cfg.ControlTopic))
		}
	}
	if p.scan = cfg.Scan; p.scan == nil {
		p.scan = func(ctx context.Context, partition int32, logs map[string]consumer.Bounds, take func(map[string]string, []consumer.Record) error) error {
			return consumer.Scan(ctx, cfg.Kafka, "tidemark."+p.own.schema+".bulk", partition, logs, take)
		}
	}
	for _, source := range view.Sources {
		p.topics[source] = kafka.EventsTopic(source)
	}
	for _, spec := range view.Specs() {
		p.sql = append(p.sql, statementsOf(spec))
	}
	return p
}

// openOwn makes or finds the generation, with a short-lived pool, and opens
// those that work in it.
func (p *Projection[S]) openOwn(ctx context.Context) (serving generation, err error) {
	plain := p.cfg.Postgres
	plain.MaxConns = 2
	pool, err := postgres.Open(ctx, plain, p.cfg.Telemetry)
	if err != nil {
		return serving, err
	}
	defer pool.Close()
	p.own, serving, err = openGeneration(ctx, pool, p.view, p.cfg.Kafka.PartitionCount())
	if err != nil {
		return serving, err
	}
	return serving, p.connect(ctx)
}

// connect opens the pools that work in the generation: one for those who write
// it, one for those who ask, who therefore do not wait for each other.
func (p *Projection[S]) connect(ctx context.Context) (err error) {
	if p.pool, err = openWithin(ctx, p.cfg, p.own.schema, p.cfg.Telemetry); err != nil {
		return err
	}
	if p.snapshots, err = openSnapshots(ctx, p.cfg, p.own.schema); err != nil {
		p.pool.Close()
	}
	return err
}

func (p *Projection[S]) prepare() (err error) {
	if p.metrics, err = newMetrics(p.cfg.Telemetry, p.own.String(), gauges{p.parkedNow, p.standNow, func() int { return len(p.consumer.Status().Assigned) }, func() bool { return p.paused.Load() != nil }, p.rounds.differing}); err != nil {
		return err
	}
	topics := []string{p.cfg.ControlTopic}
	for _, source := range p.view.Sources {
		topics = append(topics, p.topics[source])
	}
	p.consumer, err = consumer.New(consumer.Config{
		Kafka: p.cfg.Kafka, Group: "tidemark." + p.own.schema, InstanceID: p.cfg.InstanceID, Topics: topics, Hurry: p.waiters.hurried, Reassigned: p.waiters.wakeAll,
		Telemetry: p.cfg.Telemetry, Log: p.cfg.Log,
	}, p)
	return err
}

// Run keeps the generations of the view's version, carries out operations on
// them, and switches, until the context ends.
func (p *Projection[S]) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	p.keep(ctx, group.Go)
	group.Go(func() error { return p.watch(ctx) })
	group.Go(func() error { return p.operate(ctx) })
	group.Go(func() error { return p.reconcileAlways(ctx) })
	group.Go(func() error { return p.tellOthers(ctx) })
	group.Go(func() error { return p.hearOthers(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("projection %s: %w", p.own, err)
	}
	return nil
}

// copy copies facts into this generation, heals gaps and proves, until the
// context ends.
func (p *Projection[S]) copy(ctx context.Context) error {
	if err := p.Bulk(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		p.cfg.Log.Error("copying in bulk failed for good", "generation", p.own.String(), "error", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.consumer.Run(ctx) })
	group.Go(func() error { return p.heal(ctx) })
	group.Go(func() error { return p.prove(ctx) })
	group.Go(func() error { return p.watchEnds(ctx) })
	group.Go(func() error { return p.guard(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("generation %s: %w", p.own, err)
	}
	return nil
}

// Close frees the database connections.
func (p *Projection[S]) Close() {
	p.metrics.unregister()
	pools := map[*pgxpool.Pool]bool{p.pool: true, p.snapshots.pool: true}
	if r := p.reads.Load(); r != nil {
		pools[r.from.pool] = true
	}
	if p.family != nil {
		for _, schema := range p.schemas() {
			if m := p.member(schema); m.Projection != p {
				m.metrics.unregister()
				pools[m.pool], pools[m.snapshots.pool] = true, true
			}
		}
	}
	for pool := range pools {
		pool.Close()
	}
}

// Generation names what this process builds, for instance "timeline/3-9f2c11ab".
func (p *Projection[S]) Generation() string { return p.own.String() }

// Ready is a check for /readyz: it fails while the view cannot answer. Lag, or
// a broker that is away, does not.
func (p *Projection[S]) Ready(ctx context.Context) error {
	_, err := p.Read(ctx, nil, "", func(*pgx.Batch) {})
	return err
}

// Status returns how the reading from Kafka stands. A projection that owns no
// partition, or whose Err is set, stands still: its answers age.
func (p *Projection[S]) Status() consumer.Status { return p.answering().consumer.Status() }

// tell lets everybody know what a commit changed.
func (p *Projection[S]) tell(ctx context.Context, d *fold.Delta, marked ...int32) {
	p.waiters.tell(d.Changes, marked...)
	p.metrics.count(ctx, d.Counts)
	p.crowded(len(d.Quarantined))
	for _, q := range d.Quarantined {
		if q.Verdict == fold.Gap || q.Verdict == fold.NewerEpoch || q.Verdict == fold.Equivocation {
			poke(p.gaps)
		}
		if q.Verdict == fold.Gap || q.Verdict == fold.NewerEpoch {
			continue
		}
		p.cfg.Log.Error("a fact was parked", "generation", p.own.String(), "verdict", string(q.Verdict),
			"aggregate", q.Aggregate.String(), "order", q.Order, "reason", q.Reason)
	}
}

// Answering names the generation that reads are bound to now. It is this
// process's own but while that is being built.
func (p *Projection[S]) Answering() string { return p.reads.Load().generation.String() }
