package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/relay"
)

// leastBareRate is what the bare loop must reach for a run to count: below it
// the machine was busy with something else.
const leastBareRate = 60_000

// DrainResult compares our relay with a bare loop.
type DrainResult struct {
	Rows  int         `json:"rows"`
	Pairs []DrainPair `json:"pairs"`
	// Relay, Bare and Ratio are medians; rates are rows a second.
	Relay float64 `json:"relay_rows_per_second"`
	Bare  float64 `json:"bare_rows_per_second"`
	Ratio float64 `json:"ratio"`
	// CPU are seconds of this process per million rows, broker included if it is
	// the embedded one.
	RelayCPU float64 `json:"relay_cpu_seconds_per_million"`
	BareCPU  float64 `json:"bare_cpu_seconds_per_million"`
	// Valid says that the bare loop reached the least rate.
	Valid bool `json:"valid"`
}

// DrainPair is one pair of runs.
type DrainPair struct {
	Relay float64 `json:"relay"`
	Bare  float64 `json:"bare"`
	Ratio float64 `json:"ratio"`
}

type drained struct{ rate, cpu float64 }

func (b *bed) drain(ctx context.Context) (*DrainResult, error) {
	b.opts.Progress(fmt.Sprintf("filling %d rows", b.opts.Drain))
	if err := b.fillTemplate(ctx, b.opts.Drain); err != nil {
		return nil, err
	}
	result := &DrainResult{Rows: b.opts.Drain}
	var ours, bare []drained
	for pair := range b.opts.Pairs {
		order := []string{"relay", "bare"}
		if pair%2 == 1 {
			slices.Reverse(order)
		}
		for _, what := range order {
			b.opts.Progress(fmt.Sprintf("drain %d of %d: %s", pair+1, b.opts.Pairs, what))
			run, into := b.drainRelay, &ours
			if what == "bare" {
				run, into = b.drainBare, &bare
			}
			one, err := b.drainOnce(ctx, run)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			*into = append(*into, one)
		}
		o, n := ours[pair], bare[pair]
		result.Pairs = append(result.Pairs, DrainPair{Relay: o.rate, Bare: n.rate, Ratio: o.rate / n.rate})
	}
	million := 1e6 / float64(b.opts.Drain)
	result.Relay = median(ours, func(d drained) float64 { return d.rate })
	result.Bare = median(bare, func(d drained) float64 { return d.rate })
	result.Ratio = median(result.Pairs, func(p DrainPair) float64 { return p.Ratio })
	result.RelayCPU = median(ours, func(d drained) float64 { return d.cpu }) * million
	result.BareCPU = median(bare, func(d drained) float64 { return d.cpu }) * million
	result.Valid = result.Bare >= leastBareRate
	return result, b.server(ctx, "DROP DATABASE "+relayKey)
}

// drainOnce lets run send everything that a fresh copy of the template holds
// unsent, then counts and checks what arrived.
func (b *bed) drainOnce(ctx context.Context, run func(context.Context, *stage) error) (d drained, err error) {
	s, err := b.fresh(ctx, relayKey)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, s.strike(ctx)) }()
	if err := s.sabotage(ctx); err != nil {
		return d, err
	}
	// Neither of the two is to pay for reading the copy from disk.
	if _, err := s.pool.Exec(ctx, `SELECT count(*), sum(octet_length(payload)) FROM journal JOIN outbox USING (sequence)`); err != nil {
		return d, err
	}
	cpu, start := cpuSeconds(), time.Now()
	if err := run(ctx, s); err != nil {
		return d, err
	}
	d = drained{rate: float64(b.opts.Drain) / time.Since(start).Seconds(), cpu: cpuSeconds() - cpu}
	return d, b.check(ctx, b.opts.Drain)
}

func (b *bed) drainRelay(ctx context.Context, s *stage) error {
	stop, err := s.startRelay(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.marked(ctx), stop())
}

// marked waits until nothing is unsent. It asks the small table of totals.
func (s *stage) marked(ctx context.Context) error {
	want := 0
	if err := s.pool.QueryRow(ctx, `SELECT count(*) FROM outbox`).Scan(&want); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var count int
		if err := s.pool.QueryRow(ctx, `SELECT coalesce(sum(count), 0) FROM control_totals`).Scan(&count); err != nil {
			return err
		}
		if count >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// drainBare is the least that sends an outbox: read, produce, await, delete. It
// has the relay's batch size, producer, keys, values and headers, and nothing of
// its bookkeeping: no lease, no totals, no control records, no telemetry.
func (b *bed) drainBare(ctx context.Context, s *stage) error {
	producer, err := kafka.NewProducer(b.kafka, "tidemark-bench")
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range producer.Events() { //nolint:revive // drained, as the library asks
		}
	}()
	defer func() { producer.Close(); <-done }()
	topic, reports := kafka.EventsTopic(relaySource), make(chan ck.Event, 1<<15)
	for {
		rows, err := s.pool.Query(ctx, `
			SELECT o.partition, o.sequence, j.aggregate_type, j.aggregate_id, j.version, j.epoch, j.event_id::text, j.name, j.schema_version, j.key,
			       j.occurred_at, j.recorded_at, j.causation_id, j.correlation_id, j.traceparent, j.tracestate, j.payload
			  FROM generate_series(0, $1::integer - 1) AS p (partition)
			 CROSS JOIN LATERAL (SELECT partition, sequence FROM outbox WHERE partition = p.partition ORDER BY sequence LIMIT $2) o
			  JOIN journal j ON j.sequence = o.sequence ORDER BY o.partition, o.sequence`, b.kafka.PartitionCount(), relay.DefaultBatch)
		if err != nil {
			return err
		}
		var partitions []int32
		var sequences []int64
		e := event.Envelope{Source: relaySource}
		var body []byte
		sent := 0
		_, err = pgx.ForEachRow(rows, []any{&e.Partition, &e.Sequence, &e.Aggregate.Type, &e.Aggregate.ID, &e.Version, &e.Epoch, &e.ID, &e.Type, &e.SchemaVersion, &e.Key,
			&e.OccurredAt, &e.RecordedAt, &e.CausationID, &e.CorrelationID, &e.TraceParent, &e.TraceState, &body}, func() error {
			id, _ := s.codec.ID(e.Type, e.SchemaVersion)
			in := e.Headers()
			headers := make([]ck.Header, len(in))
			for i, h := range in {
				headers[i] = ck.Header{Key: h.Key, Value: h.Value}
			}
			partitions, sequences = append(partitions, e.Partition), append(sequences, e.Sequence)
			sent++
			return producer.Produce(&ck.Message{
				TopicPartition: ck.TopicPartition{Topic: &topic, Partition: e.Partition}, Key: []byte(e.Key), Value: avro.Frame(id, body), Headers: headers,
			}, reports)
		})
		if err != nil || sent == 0 {
			return err
		}
		for range sent {
			m, ok := (<-reports).(*ck.Message)
			if !ok || m.TopicPartition.Error != nil {
				return fmt.Errorf("not delivered: %v", m)
			}
		}
		if _, err := s.pool.Exec(ctx, `DELETE FROM outbox o USING unnest($1::integer[], $2::bigint[]) AS s (partition, sequence)
			WHERE o.partition = s.partition AND o.sequence = s.sequence`, partitions, sequences); err != nil {
			return err
		}
	}
}

// fillTemplate makes a database with rows unsent events, of many orders in turn.
func (b *bed) fillTemplate(ctx context.Context, rows int) error {
	s, err := b.fresh(ctx, "")
	if err != nil {
		return err
	}
	err = s.fill(ctx, rows)
	s.pool.Close()
	return errors.Join(err, b.server(ctx, "ALTER DATABASE "+s.name+" RENAME TO "+relayKey))
}

func (s *stage) fill(ctx context.Context, rows int) error {
	var epoch string
	if err := s.pool.QueryRow(ctx, `SELECT epoch FROM source_epoch`).Scan(&epoch); err != nil {
		return err
	}
	aggregates := max(1, rows/perAggregate)
	ids := make([]string, aggregates)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	name, schema, body, err := s.codec.Encode(payload(ids[0]))
	if err != nil {
		return err
	}
	now := time.Now()
	columns := []string{"sequence", "partition", "aggregate_type", "aggregate_id", "version", "epoch", "event_id", "name", "schema_version",
		"key", "occurred_at", "recorded_at", "causation_id", "correlation_id", "traceparent", "tracestate", "payload"}
	if _, err := s.pool.CopyFrom(ctx, pgx.Identifier{"journal"}, columns, pgx.CopyFromSlice(rows, func(i int) ([]any, error) {
		id, version := ids[i%aggregates], int64(i/aggregates+1)
		eventID, err := uuid.NewV7()
		return []any{int64(i + 1), event.PartitionOf(id, s.kafka.PartitionCount()), relaySource, id, version, epoch, eventID, name, schema,
			id, now, now, id, id, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "", body}, err
	})); err != nil {
		return fmt.Errorf("fill the journal: %w", err)
	}
	for _, sql := range []string{
		`INSERT INTO outbox (partition, sequence) SELECT partition, sequence FROM journal`,
		`SELECT setval('journal_sequence', (SELECT max(sequence) FROM journal))`, `VACUUM (ANALYZE, FREEZE) journal`, `VACUUM (ANALYZE, FREEZE) outbox`,
	} {
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("fill the outbox: %w", err)
		}
	}
	return nil
}

// sabotage spoils what is about to be drained.
func (s *stage) sabotage(ctx context.Context) error {
	sql := map[string]string{
		"lose":    `DELETE FROM outbox WHERE sequence = (SELECT max(sequence) / 2 FROM outbox)`,
		"double":  `UPDATE journal SET version = version - 1, aggregate_id = aggregate_id || 'x' WHERE sequence = (SELECT max(sequence) FROM outbox)`,
		"reorder": `UPDATE journal SET version = CASE version WHEN 1 THEN 100002 ELSE 100001 END WHERE version <= 2 AND aggregate_id = (SELECT aggregate_id FROM journal LIMIT 1)`,
	}[s.opts.Sabotage]
	if sql == "" {
		return nil
	}
	_, err := s.pool.Exec(ctx, sql)
	return err
}

// check reads the topic and returns an error unless exactly want events arrived,
// each once, in the order of its aggregate's versions.
func (b *bed) check(ctx context.Context, want int) error {
	next, got := map[string]int64{}, 0
	err := b.consume(ctx, func() bool { return true }, func(m *ck.Message, e event.Envelope) error {
		got++
		id := e.Aggregate.String()
		if next[id]++; e.Version != next[id] {
			return fmt.Errorf("%s arrived as version %d, want %d: lost, doubled or out of order", id, e.Version, next[id])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%d of %d events arrived", got, want)
	}
	return nil
}

// consume hands every event of the topic to handle, from the start, until all
// that is there was read and enough says so.
func (b *bed) consume(ctx context.Context, enough func() bool, handle func(*ck.Message, event.Envelope) error) error {
	consumer, err := kafka.NewConsumer(b.kafka, kafka.ConsumerOptions{Group: "tidemark-bench", ClientID: "tidemark-bench", Overrides: map[string]any{"enable.partition.eof": true}})
	if err != nil {
		return err
	}
	defer func() { _ = consumer.Close() }()
	topic := kafka.EventsTopic(relaySource)
	var all []ck.TopicPartition
	for p := range b.kafka.PartitionCount() {
		all = append(all, ck.TopicPartition{Topic: &topic, Partition: p, Offset: ck.OffsetBeginning})
	}
	if err := consumer.Assign(all); err != nil {
		return err
	}
	ended := map[int32]bool{}
	for len(ended) < len(all) || !enough() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch e := consumer.Poll(100).(type) {
		case *ck.Message:
			delete(ended, e.TopicPartition.Partition)
			headers := make([]event.Header, len(e.Headers))
			for i, h := range e.Headers {
				headers[i] = event.Header{Key: h.Key, Value: h.Value}
			}
			if event.IsControl(headers) {
				continue
			}
			envelope, err := event.ParseHeaders(headers)
			if err != nil {
				return err
			}
			if err := handle(e, envelope); err != nil {
				return err
			}
		case ck.PartitionEOF:
			ended[e.Partition] = true
		case ck.Error:
			if e.IsFatal() {
				return e
			}
		}
	}
	return nil
}

// cpuSeconds is what this process has used.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func median[T any](values []T, of func(T) float64) float64 {
	all := make([]float64, len(values))
	for i, v := range values {
		all[i] = of(v)
	}
	slices.Sort(all)
	if n := len(all); n%2 == 0 && n > 0 {
		return (all[n/2-1] + all[n/2]) / 2
	} else if n > 0 {
		return all[n/2]
	}
	return 0
}
