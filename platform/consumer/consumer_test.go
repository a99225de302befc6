package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// store is the database of these tests: positions with terms, and what was
// handled, in order.
type store struct {
	mu      sync.Mutex
	terms   map[int32]int
	offsets map[int32]map[string]int64
	handled map[string][]int64 // topic/partition → offsets
	fail    func() error       // asked once per batch
	given   int                // records handed over, those before the position included
	changed chan struct{}      // closed and renewed by every commit
}

func newStore() *store {
	return &store{terms: map[int32]int{}, offsets: map[int32]map[string]int64{}, handled: map[string][]int64{}, changed: make(chan struct{})}
}

// member is one process's view of the store.
type member struct {
	*store
	mine map[int32]int
}

func (s *store) member() *member { return &member{s, map[int32]int{}} }

func (m *member) Claim(_ context.Context, partition int32, _ map[string]string) (map[string]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.terms[partition]++
	m.mine[partition] = m.terms[partition]
	offsets := map[string]int64{}
	for topic, o := range m.offsets[partition] {
		offsets[topic] = o
	}
	return offsets, nil
}

func (m *member) Handle(_ context.Context, partition int32, records []consumer.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return err
		}
	}
	if m.terms[partition] != m.mine[partition] {
		return consumer.ErrFenced
	}
	if m.offsets[partition] == nil {
		m.offsets[partition] = map[string]int64{}
	}
	m.given += len(records)
	for _, r := range records {
		if r.Offset < m.offsets[partition][r.Topic] {
			continue
		}
		key := fmt.Sprintf("%s/%d", r.Topic, partition)
		m.handled[key] = append(m.handled[key], r.Offset)
		m.offsets[partition][r.Topic] = r.Offset + 1
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

// until waits until n records were handled, without a hole and once each.
func (s *store) until(t *testing.T, n int) {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		total, changed := 0, s.changed
		for key, offsets := range s.handled {
			total += len(offsets)
			for i, o := range offsets {
				if int64(i) != o {
					t.Fatalf("%s: offset %d was handled in place %d: %v", key, o, i, offsets)
				}
			}
		}
		s.mu.Unlock()
		if total >= n {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%d of %d records were handled within a minute", total, n)
		}
	}
}

type process struct {
	*consumer.Consumer
	stop func()
}

func start(t *testing.T, cfg kafka.Config, h consumer.Handler, tweaks ...func(*consumer.Config)) *process {
	t.Helper()
	config := consumer.Config{
		Kafka: cfg, Group: "g", Topics: kafka.Topics(), Telemetry: telemetry.Off(), Log: slog.New(slog.DiscardHandler), MaxBatch: 7,
	}
	for _, tweak := range tweaks {
		tweak(&config)
	}
	c, err := consumer.New(config, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	p := &process{c, func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}}
	t.Cleanup(p.stop)
	return p
}

// producer writes records round robin over topics and partitions.
type producer struct {
	t    *testing.T
	p    *ck.Producer
	sent int
}

func newProducer(t *testing.T, cfg kafka.Config) *producer {
	t.Helper()
	p, err := kafka.NewProducer(cfg, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &producer{t: t, p: p}
}

func (p *producer) put(n int) {
	p.t.Helper()
	acks := make(chan ck.Event, n)
	for range n {
		topic := kafka.Topics()[p.sent%4]
		m := &ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: int32(p.sent / 4 % 8)}, Value: []byte("x"),
			Headers: []ck.Header{{Key: "traceparent", Value: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")}}}
		if err := p.p.Produce(m, acks); err != nil {
			p.t.Fatal(err)
		}
		p.sent++
	}
	for range n {
		if m, ok := (<-acks).(*ck.Message); !ok || m.TopicPartition.Error != nil {
			p.t.Fatalf("produce: %v", m)
		}
	}
}

// await waits until the condition on a status holds.
func await(t *testing.T, p *process, what string, holds func(consumer.Status) bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(60 * time.Second)
	for !holds(p.Status()) {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatalf("not within a minute: %s; status %+v", what, p.Status())
		}
	}
}

func TestReadsFromStoredPositions(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	put := newProducer(t, cfg)
	put.put(200)
	first := start(t, cfg, s.member())
	s.until(t, 200)
	first.stop()
	put.put(200)
	second := start(t, cfg, s.member())
	s.until(t, 400)
	if s.given != 400 {
		t.Errorf("%d records were read for 400: reading does not start at the stored positions", s.given)
	}
	await(t, second, "owns all partitions", func(st consumer.Status) bool { return len(st.Assigned) == 8 && st.Err == nil })
}

func TestAFailedBatchComesAgain(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	n := 0
	s.fail = func() error {
		if n++; n%3 != 0 {
			return errors.New("database is away")
		}
		return nil
	}
	put := newProducer(t, cfg)
	put.put(300)
	start(t, cfg, s.member())
	s.until(t, 300)
}

func TestAFencedMemberClaimsAgain(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	put := newProducer(t, cfg)
	put.put(100)
	start(t, cfg, s.member())
	s.until(t, 100)
	foreign := s.member()
	for p := range int32(8) {
		if _, err := foreign.Claim(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	put.put(100)
	s.until(t, 200)
	// The other one moved the position on before it went: what it did is not done again.
	for p := range int32(8) {
		if _, err := foreign.Claim(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	put.put(64)
	done := s.offsets[3][kafka.TopicOrder]
	s.until(t, 264)
	s.mu.Lock()
	if s.offsets[3][kafka.TopicOrder] < done {
		t.Error("a position went back")
	}
	s.mu.Unlock()
}

func TestScalingHandlesEveryRecordOnce(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	put := newProducer(t, cfg)
	var members []*process
	for _, size := range []int{4, 2, 1, 4} {
		for len(members) > size {
			members[0].stop()
			members = members[1:]
			put.put(40)
		}
		for len(members) < size {
			members = append(members, start(t, cfg, s.member()))
			put.put(40)
		}
		put.put(200)
		s.until(t, put.sent)
	}
	// The group settles: everybody owns something, and nothing twice.
	await(t, members[0], "eight partition numbers are owned by four members", func(consumer.Status) bool {
		total := 0
		for _, m := range members {
			own := len(m.Status().Assigned)
			if own == 0 {
				return false
			}
			total += own
		}
		return total == 8
	})
}

// Whoever leans on what this process owns is told when that changes: by the
// first assignment, and by one that another member brings about.
func TestReassigned(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	told := make(chan struct{}, 100)
	first := start(t, cfg, s.member(), func(c *consumer.Config) { c.Reassigned = func() { told <- struct{}{} } })
	<-told
	await(t, first, "owns everything", func(st consumer.Status) bool { return len(st.Assigned) == 8 })
	for len(told) > 0 {
		<-told
	}
	start(t, cfg, s.member())
	<-told
	await(t, first, "owns a part", func(st consumer.Status) bool { return len(st.Assigned) == 4 })
}

func TestAPositionOutsideTheLogIsAnError(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	s.offsets[5] = map[string]int64{kafka.TopicPayment: 1000}
	put := newProducer(t, cfg)
	p := start(t, cfg, s.member())
	put.put(100)
	await(t, p, "an error", func(st consumer.Status) bool { return st.Err != nil })
}

func TestAnotherPartitionCountIsAnError(t *testing.T) {
	broker := testkit.Broker(t)
	p := start(t, kafka.Config{Brokers: broker.Addr(), Partitions: 4}, newStore().member())
	await(t, p, "an error", func(st consumer.Status) bool { return st.Err != nil })
}

func TestLogBounds(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	newProducer(t, cfg).put(64)
	logs, err := consumer.LogBounds(t.Context(), cfg, kafka.Topics())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range kafka.Topics() {
		for p := range int32(8) {
			if logs[topic][p] != (consumer.Bounds{End: 2}) {
				t.Errorf("%s/%d has the bounds %v, want 0 to 2", topic, p, logs[topic][p])
			}
		}
	}
}

// A scan reads every log from its start to its end, and no further, without a
// group.
func TestScan(t *testing.T) {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	put := newProducer(t, cfg)
	put.put(32 * 20) // 20 records of each partition of each topic
	logs := map[string]consumer.Bounds{kafka.TopicOrder: {Start: 3, End: 17}, kafka.TopicPayment: {Start: 0, End: 20}, kafka.TopicShipment: {Start: 5, End: 5}}
	next := map[string]int64{kafka.TopicOrder: 3}
	if err := consumer.Scan(t.Context(), cfg, "scan", 2, logs, func(ids map[string]string, records []consumer.Record) error {
		for _, r := range records {
			if r.Partition != 2 || r.Offset != next[r.Topic] || ids[r.Topic] == "" {
				t.Errorf("%s/%d at %d, want %d; topic id %q", r.Topic, r.Partition, r.Offset, next[r.Topic], ids[r.Topic])
			}
			next[r.Topic]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if next[kafka.TopicOrder] != 17 || next[kafka.TopicPayment] != 20 || next[kafka.TopicShipment] != 0 {
		t.Errorf("read up to %v", next)
	}
	if err := consumer.Scan(t.Context(), cfg, "scan", 2, map[string]consumer.Bounds{kafka.TopicOrder: {Start: 40, End: 50}}, nil); !errors.Is(err, consumer.ErrOutsideLog) {
		t.Errorf("behind the end: %v", err)
	}
	stop := errors.New("stop")
	if err := consumer.Scan(t.Context(), cfg, "scan", 2, logs, func(map[string]string, []consumer.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}
