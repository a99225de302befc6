package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// markSoon spares a mark the wait for the disk. A crash of the server may then
// forget the newest marks: their events are still unsent and are sent again, and
// the totals do not hold them. What was announced is never forgotten, because a
// control record is numbered by a transaction that waits, and with it the log
// before it is on disk.
const markSoon = `SET LOCAL synchronous_commit = off`

// The leases are locked by the statement before these, so what they find held
// stays held until the transaction ends.
const (
	deleteSent = `
		DELETE FROM outbox o USING unnest($3::integer[], $4::bigint[]) AS s (partition, sequence),
		       unnest($1::integer[], $2::bigint[]) AS m (partition, term), relay_shard l
		 WHERE l.partition = m.partition AND l.term = m.term AND s.partition = m.partition
		   AND o.partition = s.partition AND o.sequence = s.sequence RETURNING o.sequence`
	moveBlocked = `
		WITH moved AS (
			DELETE FROM outbox o USING unnest($3::integer[], $4::bigint[], $5::text[]) AS s (partition, sequence, reason),
			       unnest($1::integer[], $2::bigint[]) AS m (partition, term), relay_shard l
			 WHERE l.partition = m.partition AND l.term = m.term AND s.partition = m.partition
			   AND o.partition = s.partition AND o.sequence = s.sequence RETURNING o.partition, o.sequence, s.reason)
		INSERT INTO blocked (sequence, partition, aggregate_type, aggregate_id, reason)
		SELECT m.sequence, m.partition, j.aggregate_type, j.aggregate_id, m.reason FROM moved m JOIN journal j USING (sequence)`
	saveTotals = `
		UPDATE control_totals t SET count = s.count, hash = s.hash, min_sequence = s.min_sequence, max_sequence = s.max_sequence
		  FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[]) AS s (partition, count, hash, min_sequence, max_sequence)
		 WHERE t.epoch = $6 AND t.partition = s.partition`
	readCounts = `SELECT partition, number, count FROM control_totals WHERE epoch = $1 AND partition = ANY ($2::integer[])`
)

// markExpected is the usual mark, all of it in one statement and so in one
// transaction: what was sent stands unsent, the totals stand as they were left,
// so what they will be is known beforehand. Were any of that not so, the
// division by zero takes all of it back, and markFound looks closer. Terms never
// repeat, so a lease that still has ours after the wait for its lock was nobody
// else's meanwhile, and the snapshot, which is older than the lock, is of
// ourselves.
const markExpected = `
	WITH mine AS MATERIALIZED (` + lockMine + `),
	deleted AS (
		DELETE FROM outbox o USING mine, unnest($3::integer[], $4::bigint[]) AS s (partition, sequence)
		 WHERE s.partition = mine.partition AND o.partition = s.partition AND o.sequence = s.sequence RETURNING o.partition),
	saved AS (
		UPDATE control_totals t SET count = s.count, hash = s.hash, min_sequence = s.min_sequence, max_sequence = s.max_sequence
		  FROM unnest($1::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bigint[], $10::bigint[])
		         AS s (partition, number, sent, count, hash, min_sequence, max_sequence),
		       (SELECT partition, count(*) AS rows FROM deleted GROUP BY partition) d
		 WHERE t.epoch = $11 AND t.partition = s.partition AND d.partition = s.partition
		   AND d.rows = s.sent AND t.number = s.number AND t.count = s.count - s.sent
		RETURNING t.partition)
	SELECT set_config('synchronous_commit', 'off', true), 1 / (count(*) = cardinality($1::integer[]))::integer FROM saved`

// errTotalsMoved says that the totals in the database are not those that this
// relay left there under its own term: the database was changed or set back
// under it.
var errTotalsMoved = errors.New("the totals in the database are not what this relay left there")

// expected is a mark that goes as it should.
type expected struct {
	rows  []*row
	after map[int32]totals
	args  []any
}

// expect prepares the usual mark of what was sent and not marked yet; nil if
// there is nothing.
func (o *owner) expect() *expected {
	o.unmarked = slices.DeleteFunc(o.unmarked, func(r *row) bool { return o.shards[r.Partition] == nil }) // taken over meanwhile
	if len(o.unmarked) == 0 {
		return nil
	}
	e := &expected{rows: o.unmarked, after: o.count(o.unmarked)}
	n := len(e.after)
	partitions, terms, numbers, sent := make([]int32, 0, n), make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n)
	for p, t := range e.after {
		s := o.shards[p]
		partitions, terms, numbers = append(partitions, p), append(terms, s.term), append(numbers, s.totals.number)
		sent = append(sent, t.count-s.totals.count)
	}
	sentIn, sequences := sequencesOf(e.rows)
	counts, hashes, lows, highs := columnsOf(partitions, e.after)
	e.args = []any{partitions, terms, sentIn, sequences, numbers, sent, counts, hashes, lows, highs, o.epoch.id}
	return e
}

// marked takes over what a mark changed.
func (o *owner) marked(after map[int32]totals) {
	for p, t := range after {
		o.shards[p].totals, o.shards[p].changed = t, true
	}
	o.unmarked = nil
}

// mark takes sent rows out of the unsent set and bad ones to the blocked table,
// and adds to the totals exactly what it took out. The leases are locked first,
// with our terms: of a partition that was taken over nothing of this happens.
func (o *owner) mark(ctx context.Context, bad []*row) error {
	if e := o.expect(); e != nil && len(bad) == 0 {
		_, err := o.cfg.Pool.Exec(ctx, markExpected, e.args...)
		if err == nil {
			o.marked(e.after)
			return nil
		}
		if !postgres.WasRefused(err) {
			return fmt.Errorf("mark: %w", err)
		}
	}
	return o.markFound(ctx, bad)
}

// markFound marks whatever of the sent rows is still there to be marked.
func (o *owner) markFound(ctx context.Context, bad []*row) error {
	if len(o.unmarked) == 0 && len(bad) == 0 {
		return nil
	}
	bySequence := make(map[int64]*row, len(o.unmarked))
	for _, r := range o.unmarked {
		bySequence[r.Sequence] = r
	}
	sentIn, sent := sequencesOf(o.unmarked)
	badIn, badSequences := sequencesOf(bad)
	reasons := make([]string, len(bad))
	for i, r := range bad {
		reasons[i] = r.bad
	}
	partitions, terms := o.held()
	var ours map[int32]bool
	var after map[int32]totals
	err := postgres.InBatches(ctx, o.cfg.Pool, func(tx *postgres.BatchTx) error {
		ours = map[int32]bool{}
		var deleted []*row
		var batch pgx.Batch
		batch.Queue(markSoon)
		batch.Queue(lockMine, partitions, terms).Query(func(rows pgx.Rows) error {
			held, err := pgx.CollectRows(rows, pgx.RowTo[int32])
			for _, p := range held {
				ours[p] = true
			}
			return err
		})
		batch.Queue(deleteSent, partitions, terms, sentIn, sent).Query(func(rows pgx.Rows) (err error) {
			deleted, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (*row, error) {
				sequence, err := pgx.RowTo[int64](r)
				return bySequence[sequence], err
			})
			return err
		})
		batch.Queue(readCounts, o.epoch.id, partitions).Query(func(rows pgx.Rows) error {
			return o.unmoved(rows, ours)
		})
		if len(bad) > 0 {
			batch.Queue(moveBlocked, partitions, terms, badIn, badSequences, reasons)
		}
		if err := tx.Send(ctx, &batch); err != nil {
			return err
		}
		after = o.count(deleted)
		return o.saveTotals(ctx, tx, after)
	})
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	o.marked(after)
	o.keep(ctx, func(p int32) bool { return ours[p] })
	return o.alarm(ctx, bad)
}

// unmoved checks that the totals of the partitions that are ours stand as we
// left them.
func (o *owner) unmoved(rows pgx.Rows, ours map[int32]bool) error {
	found := 0
	var p int32
	var number, count int64
	_, err := pgx.ForEachRow(rows, []any{&p, &number, &count}, func() error {
		if !ours[p] {
			return nil
		}
		found++
		if t := o.shards[p].totals; t.number != number || t.count != count {
			return fmt.Errorf("partition %d has %d events in %d records, left were %d in %d: %w", p, count, number, t.count, t.number, errTotalsMoved)
		}
		return nil
	})
	if err == nil && found != len(ours) {
		return errTotalsMoved
	}
	return err
}

// alarm says aloud which aggregates are blocked now, and puts them into the
// next control records.
func (o *owner) alarm(ctx context.Context, bad []*row) error {
	if len(bad) == 0 {
		return nil
	}
	for _, r := range bad {
		s, ours := o.shards[r.Partition]
		if !ours {
			continue
		}
		s.changed = true
		if r.bad != "" {
			o.cfg.Log.LogAttrs(ctx, slog.LevelError, "event cannot be sent; its aggregate is blocked", slog.String("aggregate", r.Aggregate.String()),
				slog.Int64("version", r.Version), slog.Int64("sequence", r.Sequence), slog.String("reason", r.bad))
		}
	}
	return o.loadBlocked(ctx)
}

// count returns the totals of the partitions that change when these rows are
// taken out of the unsent set.
func (o *owner) count(rows []*row) map[int32]totals {
	after := map[int32]totals{}
	for _, r := range rows {
		t, ok := after[r.Partition]
		if !ok {
			t = o.shards[r.Partition].totals
		}
		t.count++
		t.hash = t.hash.Add(r.Envelope)
		if t.min == 0 || r.Sequence < t.min {
			t.min = r.Sequence
		}
		t.max = max(t.max, r.Sequence)
		after[r.Partition] = t
	}
	return after
}

// sequencesOf returns where rows stand in the unsent set, as columns.
func sequencesOf(rows []*row) (partitions []int32, sequences []int64) {
	partitions, sequences = make([]int32, len(rows)), make([]int64, len(rows))
	for i, r := range rows {
		partitions[i], sequences[i] = r.Partition, r.Sequence
	}
	return partitions, sequences
}

// columnsOf returns the totals of these partitions as columns.
func columnsOf(partitions []int32, of map[int32]totals) (counts []int64, hashes [][]byte, lows, highs []int64) {
	n := len(partitions)
	counts, hashes, lows, highs = make([]int64, n), make([][]byte, n), make([]int64, n), make([]int64, n)
	for i, p := range partitions {
		t := of[p]
		counts[i], hashes[i], lows[i], highs[i] = t.count, t.hash[:], t.min, t.max
	}
	return counts, hashes, lows, highs
}

// saveTotals stores the totals and commits.
func (o *owner) saveTotals(ctx context.Context, tx *postgres.BatchTx, after map[int32]totals) error {
	partitions := slices.Collect(maps.Keys(after))
	counts, hashes, lows, highs := columnsOf(partitions, after)
	var batch pgx.Batch
	batch.Queue(saveTotals, partitions, counts, hashes, lows, highs, o.epoch.id)
	return tx.Commit(ctx, &batch)
}
