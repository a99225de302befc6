package relay

import (
	"context"
	"fmt"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// maxBlockedNames is how many blocked aggregates a control record names.
const maxBlockedNames = 32

// epoch is the source epoch that the owner sends in.
type epoch struct {
	id          string
	predecessor *string
	minted      time.Time
}

// takeOver learns where a predecessor left off: the topic's identity and ends,
// the epoch, the totals. A partition without a control record in this epoch
// gets its opening record before any event.
func (o *owner) takeOver(ctx context.Context) error {
	admin, err := ck.NewAdminClientFromProducer(o.producer)
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	defer admin.Close()
	topic, err := kafka.CheckTopic(ctx, o.cfg.Kafka, admin, o.topic)
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if _, err := kafka.CheckTopic(ctx, o.cfg.Kafka, admin, kafka.TopicControl); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	o.topicID = topic.ID
	for p := range topic.Partitions {
		_, end, err := o.producer.QueryWatermarkOffsets(o.topic, p, 10_000)
		if err != nil {
			return fmt.Errorf("take over: ask for the end of %s/%d: %w", o.topic, p, err)
		}
		o.shards = append(o.shards, &shard{partition: p, end: end, changed: true})
	}
	if err := o.loadTotals(ctx); err != nil {
		return err
	}
	if err := o.loadBlocked(ctx); err != nil {
		return err
	}
	return o.open(ctx)
}

func (o *owner) loadTotals(ctx context.Context) error {
	var predecessor string
	err := o.cfg.Pool.QueryRow(ctx, `SELECT epoch, predecessor, minted_at FROM source_epoch ORDER BY ordinal DESC LIMIT 1`).
		Scan(&o.epoch.id, &predecessor, &o.epoch.minted)
	if err != nil {
		return fmt.Errorf("take over: read the epoch: %w", err)
	}
	o.epoch.predecessor = nil
	if predecessor != "" {
		o.epoch.predecessor = &predecessor
	}
	zero := event.Sum{}
	if _, err := o.cfg.Pool.Exec(ctx, `INSERT INTO control_totals (epoch, partition, hash) SELECT $1, p, $3 FROM generate_series(0, $2 - 1) p
		ON CONFLICT DO NOTHING`, o.epoch.id, len(o.shards), zero[:]); err != nil {
		return fmt.Errorf("take over: start totals: %w", err)
	}
	rows, err := o.cfg.Pool.Query(ctx, `SELECT partition, number, opened, count, hash, min_sequence, max_sequence FROM control_totals WHERE epoch = $1`, o.epoch.id)
	if err != nil {
		return fmt.Errorf("take over: read totals: %w", err)
	}
	var p int32
	var opened bool
	var t totals
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&p, &t.number, &opened, &t.count, &hash, &t.min, &t.max}, func() error {
		if int(p) >= len(o.shards) || len(hash) != len(t.hash) {
			return fmt.Errorf("totals of partition %d do not fit a topic of %d", p, len(o.shards))
		}
		t.hash = event.Sum(hash)
		o.shards[p].totals, o.shards[p].opened = t, opened
		return nil
	})
	if err != nil {
		return fmt.Errorf("take over: read totals: %w", err)
	}
	return nil
}

// loadBlocked reads how many aggregates of each partition are blocked, since
// when, and the names of the first.
func (o *owner) loadBlocked(ctx context.Context) error {
	rows, err := o.cfg.Pool.Query(ctx, `
		SELECT partition, count(*), min(since), (array_agg(aggregate ORDER BY since, aggregate))[1:$1]
		  FROM (SELECT partition, aggregate_type || '/' || aggregate_id AS aggregate, min(blocked_at) AS since
		          FROM blocked GROUP BY 1, 2) b
		 GROUP BY partition`, maxBlockedNames)
	if err != nil {
		return fmt.Errorf("read what is blocked: %w", err)
	}
	for _, s := range o.shards {
		s.blocked = blockedState{}
	}
	var p int32
	var b blockedState
	_, err = pgx.ForEachRow(rows, []any{&p, &b.count, &b.since, &b.names}, func() error {
		o.shards[p].blocked = b
		b = blockedState{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read what is blocked: %w", err)
	}
	return nil
}

// open writes the first record of the epoch to every partition without one. If
// the relay dies before it has noted that, the partition gets a second one;
// still no event was sent before it.
func (o *owner) open(ctx context.Context) error {
	var unopened []*shard
	var partitions []int32
	for _, s := range o.shards {
		if !s.opened {
			s.asOf = o.epoch.minted // nothing of this epoch was acknowledged before
			unopened, partitions = append(unopened, s), append(partitions, s.partition)
		}
	}
	if len(unopened) == 0 {
		return nil
	}
	if err := o.inBand(ctx, unopened, control.ControlKindOpening); err != nil {
		return err
	}
	if _, err := o.cfg.Pool.Exec(ctx, `UPDATE control_totals SET opened = true WHERE epoch = $1 AND partition = ANY ($2::integer[])`,
		o.epoch.id, partitions); err != nil {
		return fmt.Errorf("note the opening of the epoch: %w", err)
	}
	for _, s := range unopened {
		s.inBand = time.Time{} // the first totals need not wait
	}
	return nil
}

// control writes the control records that are due. It runs at a barrier: all
// that was produced before is acknowledged and marked, and nothing is in flight.
func (o *owner) control(ctx context.Context) error {
	now := time.Now()
	var inBand, idle []*shard
	for _, s := range o.shards {
		switch {
		case s.asOf.IsZero():
		case s.changed:
			if now.Sub(s.inBand) >= o.tuning.ControlEvery {
				inBand = append(inBand, s)
			}
		case now.Sub(s.spoke()) >= o.tuning.Poll*9/10:
			idle = append(idle, s)
		}
	}
	if err := o.inBand(ctx, inBand, control.ControlKindTotals); err != nil {
		return err
	}
	return o.idle(ctx, idle)
}

// spoke is when the shard's last control record was written.
func (s *shard) spoke() time.Time {
	if s.idle.After(s.inBand) {
		return s.idle
	}
	return s.inBand
}

// untilControl is how long the owner may sleep.
func (o *owner) untilControl() time.Duration {
	wait := o.tuning.Poll
	for _, s := range o.shards {
		if s.changed && !s.asOf.IsZero() {
			wait = min(wait, max(o.tuning.ControlEvery-time.Since(s.inBand), time.Millisecond))
		}
	}
	return wait
}

// numberControl draws the next numbers and starts the next interval, only while
// the term is ours. A record that is lost after its number was drawn leaves a
// hole, which makes readers look closer; a number is never used twice.
const numberControl = `
	WITH held AS (SELECT term FROM lease WHERE name = $1 AND term = $2 FOR UPDATE)
	UPDATE control_totals t SET number = t.number + 1, min_sequence = 0, max_sequence = 0
	  FROM held WHERE t.epoch = $3 AND t.partition = ANY ($4::integer[])
	RETURNING t.partition, t.number`

func (o *owner) inBand(ctx context.Context, shards []*shard, kind control.ControlKind) error {
	if len(shards) == 0 {
		return nil
	}
	partitions := make([]int32, len(shards))
	for i, s := range shards {
		partitions[i] = s.partition
	}
	rows, err := o.cfg.Pool.Query(ctx, numberControl, o.lease.name, o.term.number, o.epoch.id, partitions)
	if err != nil {
		return fmt.Errorf("number control records: %w", err)
	}
	numbered := 0
	var p int32
	var number int64
	if _, err := pgx.ForEachRow(rows, []any{&p, &number}, func() error {
		o.shards[p].totals.number = number
		numbered++
		return nil
	}); err != nil {
		return fmt.Errorf("number control records: %w", err)
	}
	if numbered == 0 {
		return errFenced
	}
	if err := o.write(ctx, shards, func(s *shard) (string, *control.ControlRecord) {
		r := o.record(s, kind)
		r.MinSequence, r.MaxSequence, r.DataEndOffset = s.totals.min, s.totals.max, -1
		return o.topic, r
	}); err != nil {
		return err
	}
	now := time.Now()
	for _, s := range shards {
		s.totals.min, s.totals.max = 0, 0
		s.changed, s.inBand = false, now
	}
	return nil
}

func (o *owner) idle(ctx context.Context, shards []*shard) error {
	err := o.write(ctx, shards, func(s *shard) (string, *control.ControlRecord) {
		r := o.record(s, control.ControlKindTotals)
		r.DataTopicID, r.DataEndOffset = o.topicID, s.end
		return kafka.TopicControl, r
	})
	now := time.Now()
	for _, s := range shards {
		s.idle = now
	}
	return err
}

func (o *owner) record(s *shard, kind control.ControlKind) *control.ControlRecord {
	return &control.ControlRecord{
		Source: o.cfg.Source, Epoch: o.epoch.id, PredecessorEpoch: o.epoch.predecessor, Partition: s.partition,
		Number: s.totals.number, Term: o.term.number, Kind: kind,
		Count: s.totals.count, Hash: control.Sum(s.totals.hash), AsOf: s.asOf,
		BlockedCount: s.blocked.count, BlockedSince: s.blocked.since, Blocked: s.blocked.names,
	}
}

// write produces one control record per shard and waits for them.
func (o *owner) write(ctx context.Context, shards []*shard, build func(*shard) (string, *control.ControlRecord)) error {
	if len(shards) == 0 {
		return nil
	}
	if time.Now().After(o.term.trusted) {
		if err := o.lease.renew(ctx, &o.term); err != nil {
			return err
		}
	}
	pending := 0
	for _, s := range shards {
		topic, record := build(s)
		head, key, value, err := o.cfg.Codec.EncodeControl(record)
		if err != nil {
			return fmt.Errorf("encode control record: %w", err)
		}
		m := &ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: s.partition}, Key: key, Value: value, Headers: headers(head)}
		if err := o.producer.Produce(m, o.reports); err != nil {
			return fmt.Errorf("produce control record: %w", err)
		}
		pending++
	}
	return o.await(ctx, &pending, 0)
}
