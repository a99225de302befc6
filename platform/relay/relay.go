// Package relay sends what a journal committed to Kafka, and says in control
// records how much it sent and how current the topic is.
//
//	member ──leases got: terms──▶ owner: read the unsent set ▶ produce ▶ acknowledged ▶ mark ▶ control records ▶ share ─┐
//	    ▲                           ▲                                                                                  │
//	    │                           └───────────────────── commit, or poll interval ◀───────────────────────────────────┘
//	    └──────anything failed: leases are given back, the producer is replaced, the unsent set is read again
//
// Several relays of one source share its partitions, each partition under a
// lease of its own, in equal parts. A partition that another relay took drops
// out: of what was sent for it nothing is marked, counted or announced.
//
// There is no cursor: what is unsent is a set of rows, read in one statement,
// and a row leaves it only after the broker's acknowledgement and only under
// the lease of the relay that sent it.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// Config is what a relay has to know.
type Config struct {
	// Source is the context whose journal is in Pool: "order".
	Source string
	Pool   *pgxpool.Pool
	Kafka  kafka.Config
	// Codec knows the ids of the frames and writes control records.
	Codec *avro.Codec
	// Wakes receives after commits of this process; may be nil.
	Wakes     <-chan struct{}
	Telemetry *telemetry.Telemetry
	Log       *slog.Logger
	Tuning    Tuning
}

// DefaultBatch is how many rows of a partition one read of the unsent set takes.
// Larger batches drain a backlog faster and hold more in memory.
const DefaultBatch = 500

// Tuning are times and sizes; zero values mean the defaults.
type Tuning struct {
	// LeaseTTL is how long a silent owner keeps its partitions; default 5 s.
	LeaseTTL time.Duration
	// Poll is the interval of the fallback poll, of idle control records, and of
	// looking at the other relays; default 1 s.
	Poll time.Duration
	// ControlEvery is the least time between two control records of a partition
	// in its data topic; default 500 ms. What a reader can prove of a partition is
	// this old before the next record comes (docs/adr/0033).
	ControlEvery time.Duration
	// Coalesce is the least time between two reads when four events were found by
	// the last one, and proportionally more, up to ten times, when more were;
	// default 2 ms. Fewer are read at once.
	Coalesce time.Duration
	// BatchPerPartition is how many rows of a partition one read takes; default
	// DefaultBatch.
	BatchPerPartition int
}

func (t Tuning) withDefaults() Tuning {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&t.LeaseTTL, 5*time.Second)
	set(&t.Poll, time.Second)
	set(&t.ControlEvery, 500*time.Millisecond)
	set(&t.Coalesce, 2*time.Millisecond)
	if t.BatchPerPartition <= 0 {
		t.BatchPerPartition = DefaultBatch
	}
	return t
}

// Relay sends one source. Several may run; they share its partitions.
type Relay struct {
	cfg     Config
	tuning  Tuning
	leases  leases
	metrics *metrics
	otel    *kafkaotel.Telemetry
	// hooks let tests stop the relay at the points where it matters.
	hooks hooks
}

type hooks struct {
	read     func(*owner) error // the unsent set was read, nothing of it is sent
	produced func(*owner) error // some were sent: all are acknowledged, none is marked
}

func (o *owner) pass(hook func(*owner) error) error {
	if hook == nil {
		return nil
	}
	return hook(o)
}

// New returns a relay. It does nothing before Run.
func New(cfg Config) (*Relay, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Telemetry == nil {
		cfg.Telemetry = telemetry.Off()
	}
	otel, err := kafkaotel.New(cfg.Telemetry.TracerProvider, cfg.Telemetry.MeterProvider)
	if err != nil {
		return nil, err
	}
	tuning := cfg.Tuning.withDefaults()
	r := &Relay{cfg: cfg, tuning: tuning, otel: otel}
	r.leases = leases{pool: cfg.Pool, holder: sessionHolder + uuid.NewString(), ttl: tuning.LeaseTTL}
	if r.metrics, err = newMetrics(cfg.Telemetry, cfg.Source, cfg.Pool); err != nil {
		return nil, err
	}
	return r, nil
}

// Run sends until ctx ends, then lets what is in flight be acknowledged, marks
// it, and gives its partitions back. Trouble of the broker or the database is
// logged once per attempt and tried again for ever: the unsent set is safe.
func (r *Relay) Run(ctx context.Context) error {
	defer r.metrics.stop()
	pause := 100 * time.Millisecond
	said := ""
	for ctx.Err() == nil {
		started := time.Now()
		err := r.own(ctx)
		if r.standStill(ctx, err, &said) {
			pause = 100 * time.Millisecond
			continue
		}
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "relay starts over", slog.String("source", r.cfg.Source), slog.Any("error", err))
		}
		if time.Since(started) > 10*time.Second {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
	return nil
}

// own works as one of the source's relays until something fails, then gives
// back what it holds.
func (r *Relay) own(ctx context.Context) (err error) {
	producer, err := kafka.NewProducer(r.cfg.Kafka, "tidemark-relay-"+r.cfg.Source)
	if err != nil {
		return err
	}
	o := &owner{
		Relay: r, topic: kafka.EventsTopic(r.cfg.Source), producer: producer, shards: map[int32]*shard{},
		fatal: make(chan error, 1), reports: make(chan ck.Event, 1<<15), hints: newHints(), lessons: lessons{},
		topicIDs: make(chan string),
	}
	session, err := r.session(ctx)
	if err != nil {
		producer.Close()
		return err
	}
	drained := make(chan struct{})
	go o.drain(drained)
	hinting, quiet := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { o.tell(hinting) })
	group.Go(func() { o.listen(hinting, session) })
	group.Go(func() { o.watchTopic(hinting) })
	o.background = func(f func(context.Context)) { group.Go(func() { f(hinting) }) }
	defer func() {
		quiet()
		group.Wait()
		producer.Close()
		<-drained
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = errors.Join(err, r.leases.leave(bounded))
	}()
	if _, err := r.cfg.Pool.Exec(ctx, makeShards, r.cfg.Kafka.PartitionCount()); err != nil {
		return fmt.Errorf("make the leases: %w", err)
	}
	return o.loop(ctx)
}

// owner is a relay at work, with one producer.
type owner struct {
	*Relay
	topic    string
	topicID  string
	topicIDs chan string // what the broker has under the topic's name now
	epoch    epoch
	producer *ck.Producer
	fatal    chan error
	reports  chan ck.Event
	hints    hints
	lessons  lessons
	// background runs something until it ends or the owner does.
	background func(func(context.Context))

	shards   map[int32]*shard // those that are ours
	trusted  time.Time        // before it, on our own clock, nobody else can have taken them
	surveyed time.Time        // when we last looked at the other relays
	lastRead time.Time
	lastRows int
	backlog  bool   // the last read left some unread
	unmarked []*row // acknowledged, and to be marked before anything else is read
}

// shard is what the owner knows of one partition.
type shard struct {
	partition int32
	term      int64
	noted     int64 // offset of the last control record in the data topic, as far as known; -1 = none
	opened    bool  // the epoch's opening record stands in the topic
	totals    totals
	end       int64     // offset after the last record of the data topic
	asOf      time.Time // see advance
	target    *target
	changed   bool      // totals or blocked rows changed since the last control record in band
	inBand    time.Time // last control record in the data topic
	idle      time.Time // last idle control record
	blocked   blockedState
}

type totals struct {
	number, count int64
	hash          event.Sum
	min, max      int64
}

// target is an as_of that becomes true once everything up to head is sent.
type target struct {
	at   time.Time
	head int64
}

type blockedState struct {
	count int64
	since *time.Time
	names []string
}

// drain handles what is not about one message: it notices fatal errors, and
// says now and then that no broker answers.
func (o *owner) drain(done chan<- struct{}) {
	defer close(done)
	var said time.Time
	for e := range o.producer.Events() {
		if stats, ok := e.(*ck.Stats); ok {
			_ = o.otel.Statistics(stats.String()) // it only shows; nothing is wrong with the producer
			continue
		}
		err, ok := e.(ck.Error)
		switch {
		case !ok:
		case err.IsFatal():
			select {
			case o.fatal <- err:
			default:
			}
		case err.Code() == ck.ErrAllBrokersDown && time.Since(said) > 30*time.Second:
			said = time.Now()
			o.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "no broker answers; events wait",
				slog.String("source", o.cfg.Source), slog.Any("error", err))
		}
	}
}

// loop reads, sends and marks until ctx ends or something fails.
func (o *owner) loop(ctx context.Context) error {
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		more, err := o.cycle(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if !more {
			poll.Reset(o.untilControl())
			select {
			case <-ctx.Done():
				return nil
			case err := <-o.fatal:
				return fmt.Errorf("producer: %w", err)
			case <-poll.C:
				continue
			case <-o.hints.take:
			case <-o.cfg.Wakes:
				o.hint()
			}
		}
		// While commits keep coming, let some gather.
		if wait := o.gather() - time.Since(o.lastRead); wait > 0 {
			select {
			case <-ctx.Done():
				return o.finish(ctx, nil)
			case <-time.After(wait):
			}
		}
	}
}

// gather is the least time between two reads: the more the last one found, the
// longer, because a turn costs nearly the same for one event as for twenty. A
// read that found few, or could not take all, is followed at once.
func (o *owner) gather() time.Duration {
	if o.lastRows < 4 || o.backlog {
		return 0
	}
	return o.tuning.Coalesce * time.Duration(min(o.lastRows, 40)) / 4
}
