package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/relay"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const (
	relaySource  = "order"
	relayKey     = "tidemark_bench_template"
	payloadBytes = 400
	// perAggregate is how many events of one order a drain sends.
	perAggregate = 10
)

// RelayOptions say what to measure and how hard to press.
type RelayOptions struct {
	// Dir is where the private Postgres and the broker keep their data; empty.
	Dir string
	// Kafka are brokers to measure with instead of the embedded one. Topics named
	// tidemark.* there are deleted and made again.
	Kafka string
	// Drain is how many unsent rows a drain sends; Pairs how many pairs of our
	// relay and the bare loop are run, in A B B A order.
	Drain, Pairs int
	// Sabotage spoils every drain, so that a benchmark that checks nothing shows:
	// "lose", "double" or "reorder".
	Sabotage string
	// CommitRate and Latency are the open loop of the latency measurement.
	CommitRate float64
	Latency    time.Duration
	// Commits is how long each closed loop of commits runs, Clients how many
	// commit at once, Rounds how often each kind runs.
	Commits         time.Duration
	Clients, Rounds int
	// Idle is how long nothing happens.
	Idle time.Duration
	// Memory is how many rows are drained while memory is watched.
	Memory int
	// Progress is told what is measured now.
	Progress func(string)
}

// RelayResult is what RunRelay measured.
type RelayResult struct {
	Machine  Machine       `json:"machine"`
	Versions Versions      `json:"versions"`
	Drain    *DrainResult  `json:"drain,omitempty"`
	Latency  *ReadableTime `json:"commit_to_readable,omitempty"`
	Commits  *CommitResult `json:"commits,omitempty"`
	Idle     *IdleResult   `json:"idle,omitempty"`
	Memory   *MemoryResult `json:"memory,omitempty"`
}

// Versions are those of what the figures depend on.
type Versions struct {
	Postgres   string `json:"postgres"`
	Broker     string `json:"broker"`
	Librdkafka string `json:"librdkafka"`
}

// bed is what all relay benchmarks run on.
type bed struct {
	opts    RelayOptions
	cluster *postgres.Cluster
	kafka   kafka.Config
	codec   *avro.Codec
	close   []func() error
	made    int
}

// RunRelay measures the relay: how fast it drains compared with a bare loop, how
// soon a commit is readable, what the journal costs a commit, what idling costs,
// and whether memory stays flat. A measurement whose size is zero is left out.
func RunRelay(ctx context.Context, opts RelayOptions) (result *RelayResult, err error) {
	b, err := makeBed(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := len(b.close) - 1; i >= 0; i-- {
			err = errors.Join(err, b.close[i]())
		}
	}()
	result = &RelayResult{Machine: ThisMachine()}
	if opts.Kafka != "" {
		result.Machine.Broker = "Kafka at " + opts.Kafka
	}
	if result.Versions, err = b.versions(ctx); err != nil {
		return nil, err
	}
	if opts.Drain > 0 && opts.Pairs > 0 {
		if result.Drain, err = b.drain(ctx); err != nil {
			return result, fmt.Errorf("drain: %w", err)
		}
	}
	if opts.CommitRate > 0 && opts.Latency > 0 {
		if result.Latency, err = b.latency(ctx); err != nil {
			return result, fmt.Errorf("latency: %w", err)
		}
	}
	if opts.Commits > 0 && opts.Rounds > 0 {
		if result.Commits, err = b.commits(ctx); err != nil {
			return result, fmt.Errorf("commits: %w", err)
		}
	}
	if opts.Idle > 0 {
		if result.Idle, err = b.idle(ctx); err != nil {
			return result, fmt.Errorf("idle: %w", err)
		}
	}
	if opts.Memory > 0 {
		if result.Memory, err = b.memory(ctx); err != nil {
			return result, fmt.Errorf("memory: %w", err)
		}
	}
	return result, nil
}

func makeBed(ctx context.Context, opts RelayOptions) (*bed, error) {
	b := &bed{opts: opts}
	bin, err := binaries.Ensure(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	b.cluster, err = postgres.StartCluster(ctx, postgres.ClusterConfig{Dir: filepath.Join(opts.Dir, "postgres"), Durable: true, BinDir: bin})
	if err != nil {
		return nil, err
	}
	b.close = append(b.close, func() error {
		bounded, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return b.cluster.Stop(bounded)
	})
	b.kafka = kafka.Config{Brokers: opts.Kafka, Partitions: kafka.DefaultPartitions, Replication: 1}
	if opts.Kafka == "" {
		broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{Dir: filepath.Join(opts.Dir, "broker")})
		if err != nil {
			return nil, errors.Join(err, b.close[0]())
		}
		b.close = append(b.close, func() error { broker.Close(); return nil })
		b.kafka.Brokers = broker.Addr()
	}
	if b.codec, err = avro.NewCodec(schemas.Catalog()); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bed) versions(ctx context.Context) (v Versions, err error) {
	if err := b.cluster.EnsureDatabases(ctx, "versions"); err != nil {
		return v, err
	}
	conn, err := pgx.Connect(ctx, b.cluster.URL("versions"))
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, v.Librdkafka = ck.LibraryVersion()
	v.Broker = "embedded (kfake)"
	if b.opts.Kafka != "" {
		v.Broker = "Kafka protocol at " + b.opts.Kafka
	}
	return v, conn.QueryRow(ctx, `SHOW server_version`).Scan(&v.Postgres)
}

// stage is one fresh database and fresh topics.
type stage struct {
	*bed
	pool    *pgxpool.Pool
	journal *journal.Journal
	name    string
}

// fresh makes new topics and a new database, as a copy of template if that is
// not "". The caller strikes it.
func (b *bed) fresh(ctx context.Context, template string) (s *stage, err error) {
	b.made++
	s = &stage{bed: b, name: fmt.Sprintf("bench_%d", b.made)}
	if err := b.freshTopics(ctx); err != nil {
		return nil, err
	}
	sql := "CREATE DATABASE " + s.name
	if template != "" {
		sql += " TEMPLATE " + template
	}
	if err := b.server(ctx, sql, "CHECKPOINT"); err != nil {
		return nil, err
	}
	if s.pool, err = postgres.Open(ctx, postgres.Config{URL: b.cluster.URL(s.name), MaxConns: int32(b.opts.Clients + 8)}, telemetry.Off()); err != nil {
		return nil, err
	}
	s.journal, err = journal.Open(ctx, s.pool, journal.Config{Source: relaySource, Partitions: b.kafka.PartitionCount(), Codec: b.codec, Log: quiet()})
	if err != nil {
		s.pool.Close()
		return nil, err
	}
	_, err = s.pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS things (
		id text PRIMARY KEY, version bigint NOT NULL, epoch text NOT NULL, event_id text NOT NULL, recorded_at timestamptz NOT NULL, state jsonb NOT NULL)`)
	return s, err
}

// strike drops the database.
func (s *stage) strike(ctx context.Context) error {
	s.pool.Close()
	return s.server(context.WithoutCancel(ctx), "DROP DATABASE "+s.name+" WITH (FORCE)")
}

// server runs statements on the server's maintenance database.
func (b *bed) server(ctx context.Context, statements ...string) (err error) {
	conn, err := pgx.Connect(ctx, b.cluster.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// freshTopics deletes the topics and makes them again.
func (b *bed) freshTopics(ctx context.Context) error {
	admin, err := kafka.NewAdmin(b.kafka, "tidemark-bench")
	if err != nil {
		return err
	}
	defer admin.Close()
	if _, err := admin.DeleteTopics(ctx, kafka.Topics(), ck.SetAdminOperationTimeout(20*time.Second)); err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, topic := range kafka.Topics() {
		for {
			if _, err := kafka.DescribeTopic(ctx, admin, topic); errors.Is(err, kafka.ErrTopicMissing) {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
	return kafka.CreateTopics(ctx, b.kafka)
}

// startRelay runs our relay until the returned function stops it.
func (s *stage) startRelay(ctx context.Context) (stop func() error, err error) {
	r, err := relay.New(relay.Config{
		Source: relaySource, Pool: s.pool, Kafka: s.kafka, Codec: s.codec, Wakes: s.journal.Wakes(), Log: quiet(),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() error { cancel(); return <-done }, nil
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// thing is the aggregate of these benchmarks.
type thing struct{ ID string }

func things() *journal.Table[thing] {
	return &journal.Table[thing]{
		Type: relaySource,
		New:  func(id string) *thing { return &thing{ID: id} },
		Key:  func(s *thing) string { return s.ID },
		Lock: `SELECT version, epoch, event_id, recorded_at, state FROM things WHERE id = $1 FOR UPDATE`,
		Save: func(batch *pgx.Batch, s *thing, h journal.Head, isNew bool) {
			batch.Queue(`INSERT INTO things (id, version, epoch, event_id, recorded_at, state) VALUES ($1, $2, $3, $4, $5, $6)`,
				s.ID, h.Version, h.Epoch, h.EventID, h.RecordedAt, s)
		},
	}
}

// payload is the content of every event: about 400 bytes of Avro.
func payload(id string) event.Body {
	filler := make([]byte, payloadBytes-len(id)-60)
	for i := range filler {
		filler[i] = 'a' + byte(i%26)
	}
	return &facts.OrderHeld{OrderID: id, CustomerID: uuid.NewString(), Actor: "bench", Reason: "measured", Note: string(filler)}
}
