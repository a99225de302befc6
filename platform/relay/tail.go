package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// stoppedError says that the source stands still until an operator decides.
type stoppedError struct{ stop journal.Stop }

func (e *stoppedError) Error() string {
	return fmt.Sprintf("the source stands still: %s: %s", e.stop.State, e.stop.Reason)
}

// stop lets the source stand still.
func (o *owner) stop(ctx context.Context, s journal.Stop) error {
	if err := journal.StopSource(ctx, o.cfg.Pool, s); err != nil {
		return err
	}
	return &stoppedError{s}
}

// mayWork checks, before a partition is taken over, that an operator did not
// stop the source, that the database is the one that the epoch began in, and
// that the topic is the one that was sent to before.
func (o *owner) mayWork(ctx context.Context, topic kafka.Topic) error {
	stopped, err := journal.ReadStop(ctx, o.cfg.Pool)
	if err != nil {
		return err
	}
	if stopped != nil {
		return &stoppedError{*stopped}
	}
	difference, err := journal.CheckIdentity(ctx, o.cfg.Pool)
	if err != nil {
		return err
	}
	if difference != "" {
		return o.stop(ctx, journal.Stop{State: journal.WentBack, Reason: difference})
	}
	var known string
	if err := o.cfg.Pool.QueryRow(ctx, `
		WITH noted AS (INSERT INTO source_topic (topic, topic_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING topic_id)
		SELECT topic_id FROM noted UNION ALL SELECT topic_id FROM source_topic WHERE topic = $1 LIMIT 1`, topic.Name, topic.ID).Scan(&known); err != nil {
		return fmt.Errorf("compare the topic's identity: %w", err)
	}
	if known != topic.ID {
		return o.stop(ctx, journal.Stop{State: journal.TopicReplaced,
			Reason: fmt.Sprintf("topic %s has the id %s, events were sent to %s: it was deleted and made again", topic.Name, topic.ID, known)})
	}
	return nil
}

// watchTopic asks the broker now and then, until ctx ends, which topic it has
// under the name, and hands the answers to the turns.
func (o *owner) watchTopic(ctx context.Context) {
	admin, err := ck.NewAdminClientFromProducer(o.producer)
	if err != nil {
		o.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the topic is not watched", slog.String("topic", o.topic), slog.Any("error", err))
		return
	}
	defer admin.Close()
	tick := time.NewTicker(2 * o.tuning.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		topic, err := kafka.DescribeTopic(ctx, admin, o.topic)
		if err != nil {
			o.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "the topic is not described", slog.Any("error", err)) // next time
			continue
		}
		select {
		case o.topicIDs <- topic.ID:
		case <-ctx.Done():
		}
	}
}

// stillSameTopic looks at the watch's last answer: a topic that is deleted and
// made again under a running relay takes everything it is sent, and is empty. The
// take-over that follows its error finds out what is there now.
func (o *owner) stillSameTopic() error {
	select {
	case id := <-o.topicIDs:
		if o.topicID != "" && id != o.topicID {
			return fmt.Errorf("topic %s has the id %s and had %s", o.topic, id, o.topicID)
		}
	default:
	}
	return nil
}

// tail is what a relay that takes over knows of a partition's end.
type tail struct {
	shard *shard
	from  int64 // the last control record that was noted, or the start
	facts []event.Envelope
}

// checkTails reads what stands in the topic behind the last control record that
// the database knows of. A database that did not go back knows all of it: every
// event stands in its journal, and no control record has a higher number, more
// events, or a newer epoch. Otherwise the source stops.
func (o *owner) checkTails(ctx context.Context, taken map[int32]*shard) error {
	tails := map[int32]*tail{}
	var assignment []ck.TopicPartition
	for p, s := range taken {
		low, end, err := o.producer.QueryWatermarkOffsets(o.topic, p, watermarkTimeout)
		if err != nil {
			return fmt.Errorf("ask for the end of %s/%d: %w", o.topic, p, err)
		}
		s.end = end
		if from := max(low, s.noted); from < end {
			tails[p] = &tail{shard: s, from: from}
			assignment = append(assignment, ck.TopicPartition{Topic: &o.topic, Partition: p, Offset: ck.Offset(from)})
		}
	}
	if len(tails) == 0 {
		return nil
	}
	consumer, err := kafka.NewConsumer(o.cfg.Kafka, kafka.ConsumerOptions{
		Group: "tidemark-relay-" + o.cfg.Source, ClientID: "tidemark-relay-" + o.cfg.Source,
		// The last offset need not be a record's: a foreign transaction leaves a marker.
		Overrides: map[string]any{"enable.partition.eof": true},
	})
	if err != nil {
		return err
	}
	defer func() { _ = consumer.Close() }()
	if err := consumer.Assign(assignment); err != nil {
		return fmt.Errorf("read the ends of %s: %w", o.topic, err)
	}
	for len(tails) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.leases.due(o.trusted) {
			if err := o.renew(ctx); err != nil {
				return err
			}
		}
		switch e := consumer.Poll(100).(type) {
		case *ck.Message:
			t := tails[e.TopicPartition.Partition]
			if t == nil {
				continue
			}
			if err := o.checkRecord(ctx, t, e); err != nil {
				return err
			}
		case ck.PartitionEOF:
			if t := tails[e.Partition]; t != nil {
				delete(tails, e.Partition)
				if err := o.checkFacts(ctx, t); err != nil {
					return err
				}
			}
		case ck.Error:
			if e.IsFatal() || e.Code() == ck.ErrAutoOffsetReset {
				return fmt.Errorf("read the ends of %s: %w", o.topic, e)
			}
		}
	}
	return nil
}

const (
	watermarkTimeout = 10_000 // ms
	factsAtOnce      = 2_000
)

// checkRecord looks at one record of the tail. Those of an older epoch are
// history, also what a relay of that epoch wrote too late; those that nobody
// can read are not ours.
func (o *owner) checkRecord(ctx context.Context, t *tail, m *ck.Message) error {
	in := make([]event.Header, len(m.Headers))
	for i, h := range m.Headers {
		in[i] = event.Header{Key: h.Key, Value: h.Value}
	}
	where := fmt.Sprintf("%s/%d offset %d", o.topic, t.shard.partition, m.TopicPartition.Offset)
	if event.IsControl(in) {
		c, err := o.cfg.Codec.DecodeControl(in, m.Key, m.Value)
		switch {
		case err != nil || c.Source != o.cfg.Source:
			return nil
		case c.Epoch > o.epoch.id:
			return o.stop(ctx, journal.Stop{State: journal.WentBack, NewestEpoch: c.Epoch,
				Reason: fmt.Sprintf("%s is a control record of epoch %s, the database is in %s", where, c.Epoch, o.epoch.id)})
		case c.Epoch == o.epoch.id && (c.Number > t.shard.totals.number || c.Count > t.shard.totals.count):
			return o.stop(ctx, journal.Stop{State: journal.WentBack, Reason: fmt.Sprintf("%s is control record %d of %d events, the database knows of %d of %d events",
				where, c.Number, c.Count, t.shard.totals.number, t.shard.totals.count)})
		}
		return nil
	}
	e, err := event.ParseHeaders(in)
	switch {
	case err != nil || e.Source != o.cfg.Source || e.Epoch < o.epoch.id:
		return nil
	case e.Epoch > o.epoch.id:
		return o.stop(ctx, journal.Stop{State: journal.WentBack, NewestEpoch: e.Epoch,
			Reason: fmt.Sprintf("%s is an event of epoch %s, the database is in %s", where, e.Epoch, o.epoch.id)})
	}
	if t.facts = append(t.facts, e); len(t.facts) == factsAtOnce {
		return o.checkFacts(ctx, t)
	}
	return nil
}

// checkFacts looks the tail's events up in the journal.
func (o *owner) checkFacts(ctx context.Context, t *tail) error {
	n := len(t.facts)
	if n == 0 {
		return nil
	}
	kinds, ids, versions, events := make([]string, n), make([]string, n), make([]int64, n), make([]string, n)
	for i, e := range t.facts {
		kinds[i], ids[i], versions[i], events[i] = e.Aggregate.Type, e.Aggregate.ID, e.Version, e.ID
	}
	t.facts = t.facts[:0]
	var count int
	var first *string
	err := o.cfg.Pool.QueryRow(ctx, `
		SELECT count(*), min(e.kind || '/' || e.id || ' version ' || e.version)
		  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS e (kind, id, version, event_id)
		 WHERE NOT EXISTS (SELECT FROM journal j WHERE j.aggregate_type = e.kind AND j.aggregate_id = e.id AND j.version = e.version
		                      AND j.event_id::text = e.event_id)`, kinds, ids, versions, events).Scan(&count, &first)
	if err != nil {
		return fmt.Errorf("look the events of the tail up: %w", err)
	}
	if count > 0 {
		return o.stop(ctx, journal.Stop{State: journal.WentBack,
			Reason: fmt.Sprintf("%s/%d holds %d events after the last control record that the journal lacks, for instance %s", o.topic, t.shard.partition, count, *first)})
	}
	return nil
}

// standStill waits while the source is stopped, and says so once.
func (r *Relay) standStill(ctx context.Context, err error, said *string) bool {
	var stopped *stoppedError
	if !errors.As(err, &stopped) {
		*said = ""
		return false
	}
	if *said != stopped.stop.Reason {
		*said = stopped.stop.Reason
		next := "tidemark source new-epoch " + r.cfg.Source
		if stopped.stop.State == journal.TopicReplaced {
			next = "tidemark source republish " + r.cfg.Source
		}
		r.cfg.Log.ErrorContext(ctx, "relay stands still until an operator decides", "source", r.cfg.Source, "state", stopped.stop.State,
			"reason", stopped.stop.Reason, "next", next)
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return true
		case <-r.cfg.Wakes:
		case <-time.After(r.tuning.Poll):
		}
		if s, err := journal.ReadStop(ctx, r.cfg.Pool); err == nil && s == nil {
			return true
		}
	}
	return true
}
