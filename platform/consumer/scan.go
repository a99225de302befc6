package consumer

import (
	"context"
	"errors"
	"fmt"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// scanBatch is how many records a scan hands over at once at most.
const scanBatch = 1000

// ErrOutsideLog says that a log no longer has what a scan was to read.
var ErrOutsideLog = errors.New("the log does not have these offsets")

// Scan reads one partition number of some topics, from each log's Start up to its
// End, without a group and as fast as it can. take is given records in the order
// of their logs, and the ids of the topics they are of; the slice is
// its to keep. Records that the broker no longer has are passed over; whoever counts
// will miss them. Scan returns when all were taken, at the first error of take,
// [ErrOutsideLog], or when the broker cannot be read.
func Scan(ctx context.Context, cfg kafka.Config, client string, partition int32, logs map[string]Bounds, take func(ids map[string]string, records []Record) error) (err error) {
	admin, err := kafka.NewAdmin(cfg, client)
	if err != nil {
		return err
	}
	defer admin.Close()
	ids, left := map[string]string{}, map[string]int64{}
	var start []ck.TopicPartition
	for name, log := range logs {
		topic, err := kafka.CheckTopic(ctx, cfg, admin, name)
		if err != nil {
			return err
		}
		ids[name] = topic.ID
		if log.Start < log.End {
			left[name] = log.End
			start = append(start, ck.TopicPartition{Topic: &name, Partition: partition, Offset: ck.Offset(log.Start)})
		}
	}
	if len(start) == 0 {
		return nil
	}
	reader, err := kafka.NewConsumer(cfg, kafka.ConsumerOptions{Group: client, ClientID: client, Overrides: map[string]any{
		// What is read ahead is memory that several scans at once take several times.
		"enable.partition.eof": true, "queued.min.messages": 5_000, "queued.max.messages.kbytes": 8 << 10, "fetch.error.backoff.ms": 20,
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	if err := reader.Assign(start); err != nil {
		return fmt.Errorf("assign: %w", err)
	}
	var batch []Record
	var headers []event.Header // of a batch: one piece of memory instead of many
	for len(left) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		over := ""
		switch ev := reader.Poll(100).(type) {
		case *ck.Message:
			if ev.TopicPartition.Error != nil {
				return fmt.Errorf("scan: %w", ev.TopicPartition.Error)
			}
			var r Record
			r, headers = scannedOf(ev, headers)
			end, wanted := left[r.Topic]
			if wanted && r.Offset < end {
				batch = append(batch, r)
			}
			if wanted && r.Offset >= end-1 {
				over = r.Topic
			}
		case ck.PartitionEOF:
			if ev.Offset >= ck.Offset(left[*ev.Topic]) {
				over = *ev.Topic
			}
		case ck.Error:
			if ev.Code() == ck.ErrAutoOffsetReset || ev.Code() == ck.ErrOffsetOutOfRange {
				return fmt.Errorf("%w: %w", ErrOutsideLog, ev)
			}
			if ev.IsFatal() || ev.Code() == ck.ErrAllBrokersDown {
				return fmt.Errorf("scan: %w", ev)
			}
		}
		if over != "" {
			delete(left, over)
			if err := reader.Pause([]ck.TopicPartition{{Topic: &over, Partition: partition}}); err != nil {
				return fmt.Errorf("pause: %w", err)
			}
		}
		if len(batch) >= scanBatch || len(left) == 0 && len(batch) > 0 {
			if err := take(ids, batch); err != nil {
				return err
			}
			batch, headers = make([]Record, 0, scanBatch), make([]event.Header, 0, len(headers)+len(headers)/8)
		}
	}
	return nil
}

// scannedOf is recordOf for a record whose message nobody asks for, with its headers
// behind those of others.
func scannedOf(m *ck.Message, all []event.Header) (Record, []event.Header) {
	from := len(all)
	for _, h := range m.Headers {
		all = append(all, event.Header{Key: h.Key, Value: h.Value})
	}
	return Record{
		Topic: *m.TopicPartition.Topic, Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset),
		Key: m.Key, Value: m.Value, Headers: all[from:len(all):len(all)],
	}, all
}
