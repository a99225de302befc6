package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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

// takeOver learns where the predecessor in these partitions left off: the
// topic's identity and ends, the epoch, the totals. A partition without a
// control record in this epoch gets its opening record before any event.
func (o *owner) takeOver(ctx context.Context, terms map[int32]int64) error {
	admin, err := ck.NewAdminClientFromProducer(o.producer)
	if err != nil {
		return err
	}
	defer admin.Close()
	topic, err := kafka.CheckTopic(ctx, o.cfg.Kafka, admin, o.topic)
	if err != nil {
		return err
	}
	if _, err := kafka.CheckTopic(ctx, o.cfg.Kafka, admin, kafka.TopicControl); err != nil {
		return err
	}
	o.topicID = topic.ID
	if err := o.mayWork(ctx, topic); err != nil {
		return err
	}
	taken := make(map[int32]*shard, len(terms))
	for p, term := range terms {
		taken[p] = &shard{partition: p, term: term, noted: -1, changed: true}
	}
	if err := o.loadTotals(ctx, taken); err != nil {
		return err
	}
	if err := o.checkTails(ctx, taken); err != nil {
		return err
	}
	maps.Copy(o.shards, taken)
	if err := o.loadBlocked(ctx); err != nil {
		return err
	}
	o.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "relay took partitions over", slog.String("source", o.cfg.Source),
		slog.Any("partitions", slices.Sorted(maps.Keys(taken))))
	return o.open(ctx)
}

func (o *owner) loadTotals(ctx context.Context, taken map[int32]*shard) error {
	var predecessor string
	before := o.epoch.id
	err := o.cfg.Pool.QueryRow(ctx, `SELECT epoch, predecessor, minted_at FROM source_epoch ORDER BY ordinal DESC LIMIT 1`).
		Scan(&o.epoch.id, &predecessor, &o.epoch.minted)
	if err != nil {
		return fmt.Errorf("read the epoch: %w", err)
	}
	if before != o.epoch.id && len(o.shards) > 0 {
		return errors.New("a new epoch began")
	}
	o.epoch.predecessor = nil
	if predecessor != "" {
		o.epoch.predecessor = &predecessor
	}
	zero := event.Sum{}
	if _, err := o.cfg.Pool.Exec(ctx, `INSERT INTO control_totals (epoch, partition, hash) SELECT $1, p, $3 FROM unnest($2::integer[]) p
		ON CONFLICT DO NOTHING`, o.epoch.id, slices.Collect(maps.Keys(taken)), zero[:]); err != nil {
		return fmt.Errorf("start totals: %w", err)
	}
	rows, err := o.cfg.Pool.Query(ctx, `SELECT partition, number, opened, count, hash, min_sequence, max_sequence,
		       (SELECT max(control_offset) FROM control_totals n WHERE n.partition = t.partition)
		  FROM control_totals t WHERE epoch = $1`, o.epoch.id)
	if err != nil {
		return fmt.Errorf("read totals: %w", err)
	}
	var p int32
	var opened bool
	var t totals
	var hash []byte
	var noted int64
	_, err = pgx.ForEachRow(rows, []any{&p, &t.number, &opened, &t.count, &hash, &t.min, &t.max, &noted}, func() error {
		if len(hash) != len(t.hash) {
			return fmt.Errorf("hash of partition %d has %d bytes", p, len(hash))
		}
		t.hash = event.Sum(hash)
		if s := taken[p]; s != nil {
			s.totals, s.opened, s.noted = t, opened, noted
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read totals: %w", err)
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
		if s := o.shards[p]; s != nil {
			s.blocked = b
		}
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
	partitions = slices.DeleteFunc(partitions, func(p int32) bool { return o.shards[p] == nil }) // lost before they were written
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
	inBand, idle := o.due(time.Now())
	if err := o.inBand(ctx, inBand, control.ControlKindTotals); err != nil {
		return err
	}
	return o.idle(ctx, idle)
}

// due returns of which partitions a control record is due, in the data topic and
// in the one for what idles.
func (o *owner) due(now time.Time) (inBand, idle []*shard) {
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
	return inBand, idle
}

func (o *owner) controlDue(now time.Time) bool {
	inBand, idle := o.due(now)
	return len(inBand)+len(idle) > 0
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
	WITH mine AS MATERIALIZED (` + lockMine + `)
	UPDATE control_totals t SET number = t.number + 1, min_sequence = 0, max_sequence = 0, control_offset = greatest(control_offset, noted.control)
	  FROM mine, unnest($1::integer[], $4::bigint[]) AS noted (partition, control)
	 WHERE t.epoch = $3 AND t.partition = mine.partition AND noted.partition = mine.partition
	RETURNING t.partition, t.number, t.count`

func (o *owner) inBand(ctx context.Context, shards []*shard, kind control.ControlKind) error {
	if len(shards) == 0 {
		return nil
	}
	partitions, terms, noted := make([]int32, len(shards)), make([]int64, len(shards)), make([]int64, len(shards))
	for i, s := range shards {
		partitions[i], terms[i], noted[i] = s.partition, s.term, s.noted
	}
	rows, err := o.cfg.Pool.Query(ctx, numberControl, partitions, terms, o.epoch.id, noted)
	if err != nil {
		return fmt.Errorf("number control records: %w", err)
	}
	numbered := map[int32]bool{}
	var p int32
	var number, count int64
	if _, err := pgx.ForEachRow(rows, []any{&p, &number, &count}, func() error {
		t := &o.shards[p].totals
		if t.number++; t.number != number || t.count != count {
			return errTotalsMoved
		}
		numbered[p] = true
		return nil
	}); err != nil {
		return fmt.Errorf("number control records: %w", err)
	}
	if len(numbered) < len(shards) {
		asked := map[int32]bool{}
		for _, p := range partitions {
			asked[p] = true
		}
		o.keep(ctx, func(p int32) bool { return numbered[p] || !asked[p] })
		shards = slices.DeleteFunc(shards, func(s *shard) bool { return !numbered[s.partition] })
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
		s.noted = s.end - 1 // it is the last record: nothing else is in flight
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
		Number: s.totals.number, Term: s.term, Kind: kind,
		Count: s.totals.count, Hash: control.Sum(s.totals.hash), AsOf: s.asOf,
		BlockedCount: s.blocked.count, BlockedSince: s.blocked.since, Blocked: s.blocked.names,
	}
}

// write produces one control record per shard and waits for them.
func (o *owner) write(ctx context.Context, shards []*shard, build func(*shard) (string, *control.ControlRecord)) error {
	if len(shards) == 0 {
		return nil
	}
	if err := o.trust(ctx); err != nil {
		return err
	}
	pending := 0
	for _, s := range shards {
		if o.shards[s.partition] != s {
			continue // taken over meanwhile
		}
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
