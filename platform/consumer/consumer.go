// Package consumer reads topics with a consumer group and hands records to a
// handler that stores effects and position in one transaction. The handler's
// database says where to go on; the offsets committed to Kafka are for lag
// tools only.
//
// The same partition number of all topics is one unit of work: one worker
// handles it, one position row covers it.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// Record is one Kafka record.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	Headers   []event.Header

	message *ck.Message
}

// Handler keeps effects and positions. It is called for different partition
// numbers at the same time, for one number never.
type Handler interface {
	// Claim makes the caller the owner of a partition number, so that a former
	// owner's writes fail, and answers the next offset to read per topic; a
	// topic without an answer is read from offset 0. ids are the topics' ids: a
	// topic that was deleted and created again has another one.
	Claim(ctx context.Context, partition int32, ids map[string]string) (map[string]int64, error)
	// Handle stores the effects of the records and the position behind them,
	// all or nothing. It skips what is before its stored position. An error
	// means nothing is stored, or that nobody knows; the same records come
	// again. ErrFenced means that somebody else claimed the partition number.
	Handle(ctx context.Context, partition int32, records []Record) error
}

// ErrFenced is returned by a handler whose partition number was claimed by
// another process.
var ErrFenced = errors.New("partition number was claimed by another process")

// Config says what to read.
type Config struct {
	Kafka kafka.Config
	// Group is the consumer group.
	Group string
	// InstanceID makes the member static; may be empty.
	InstanceID string
	// Topics must all have the configured number of partitions.
	Topics []string
	// MaxBatch bounds the records of one Handle; 0 means 1,000.
	MaxBatch int
	// Hurry reports whether somebody waits for what is read. Small batches then
	// follow each other without a rest. Nil: nobody ever does.
	Hurry func() bool
	// Reassigned is called after the partition numbers that this process owns
	// have changed. It must not block. May be nil.
	Reassigned func()
	// Telemetry takes spans and counts of batches; required.
	Telemetry *telemetry.Telemetry
	// Log takes one line per failure that is retried.
	Log *slog.Logger
}

// Status is how a consumer stands. Lag is not failure; to own nothing is.
type Status struct {
	// Assigned are the partition numbers this process owns.
	Assigned []int32
	// Err is why it stands still, or nil.
	Err error
}

// Consumer reads for one handler. Make it with [New].
type Consumer struct {
	cfg       Config
	handler   Handler
	telemetry *kafkaotel.Telemetry

	mu     sync.Mutex
	status Status
}

// New returns a consumer that does nothing until Run.
func New(cfg Config, h Handler) (*Consumer, error) {
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = 1000
	}
	tel, err := kafkaotel.New(cfg.Telemetry.TracerProvider, cfg.Telemetry.MeterProvider)
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", cfg.Group, err)
	}
	return &Consumer{cfg: cfg, handler: h, telemetry: tel}, nil
}

// Status returns how the consumer stands now.
func (c *Consumer) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{Assigned: slices.Clone(c.status.Assigned), Err: c.status.Err}
}

func (c *Consumer) note(change func(*Status)) {
	c.mu.Lock()
	before := c.status.Assigned
	change(&c.status)
	moved := !slices.Equal(before, c.status.Assigned)
	c.mu.Unlock()
	if moved && c.cfg.Reassigned != nil {
		c.cfg.Reassigned()
	}
}

const (
	firstPause = 20 * time.Millisecond
	longPause  = 5 * time.Second
)

// Run reads until the context ends, and then returns nil. Whatever goes wrong
// meanwhile, a broker that is away or a position outside the log, is retried
// with growing pauses and shown by Status: what is already copied stays
// readable.
func (c *Consumer) Run(ctx context.Context) error {
	pause := firstPause
	for {
		started := time.Now()
		err := c.session(ctx)
		c.note(func(s *Status) { s.Assigned = nil })
		if ctx.Err() != nil {
			return nil
		}
		c.note(func(s *Status) { s.Err = err })
		c.cfg.Log.Warn("consumer stopped and will start again", "group", c.cfg.Group, "error", err, "pause", pause)
		if time.Since(started) > time.Minute {
			pause = firstPause
		}
		if !wait(ctx, pause) {
			return nil
		}
		pause = min(2*pause, longPause)
	}
}

// wait returns false if the context ended before the time was over.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// topicIDs checks that all topics are as configured, and returns their ids.
func (c *Consumer) topicIDs(ctx context.Context, admin *ck.AdminClient) (map[string]string, error) {
	ids := map[string]string{}
	for _, name := range c.cfg.Topics {
		topic, err := kafka.CheckTopic(ctx, c.cfg.Kafka, admin, name)
		if err != nil {
			return nil, err
		}
		ids[name] = topic.ID
	}
	return ids, nil
}

// Bounds are the offset of the first record that a log still has, and the one
// behind its last.
type Bounds struct{ Start, End int64 }

// LogBounds returns, per topic and partition number, where the logs begin and
// end now.
func LogBounds(ctx context.Context, cfg kafka.Config, topics []string) (map[string]map[int32]Bounds, error) {
	admin, err := kafka.NewAdmin(cfg, "tidemark-log-bounds")
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	bounds := map[string]map[int32]Bounds{}
	for _, spec := range []ck.OffsetSpec{ck.EarliestOffsetSpec, ck.LatestOffsetSpec} {
		wanted := map[ck.TopicPartition]ck.OffsetSpec{}
		for _, topic := range topics {
			for number := range cfg.PartitionCount() {
				wanted[ck.TopicPartition{Topic: &topic, Partition: number}] = spec
			}
		}
		found, err := admin.ListOffsets(ctx, wanted, ck.SetAdminRequestTimeout(10*time.Second))
		if err != nil {
			return nil, fmt.Errorf("list offsets: %w", err)
		}
		for tp, info := range found.ResultInfos {
			if info.Error.Code() != ck.ErrNoError {
				return nil, fmt.Errorf("bounds of %s/%d: %w", *tp.Topic, tp.Partition, info.Error)
			}
			if bounds[*tp.Topic] == nil {
				bounds[*tp.Topic] = map[int32]Bounds{}
			}
			log := bounds[*tp.Topic][tp.Partition]
			if spec == ck.EarliestOffsetSpec {
				log.Start = int64(info.Offset)
			} else {
				log.End = int64(info.Offset)
			}
			bounds[*tp.Topic][tp.Partition] = log
		}
	}
	return bounds, nil
}
