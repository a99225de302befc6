package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

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

// errTotalsMoved says that the totals in the database are not those that this
// relay left there under its own term: the database was changed or set back
// under it.
var errTotalsMoved = errors.New("the totals in the database are not what this relay left there")

// mark takes sent rows out of the unsent set and bad ones to the blocked table,
// and adds to the totals exactly what it took out. The leases are locked first,
// with our terms: of a partition that was taken over nothing of this happens.
func (o *owner) mark(ctx context.Context, good, bad []*row) error {
	if len(good) == 0 && len(bad) == 0 {
		return nil
	}
	bySequence := make(map[int64]*row, len(good))
	sentIn, sent := make([]int32, len(good)), make([]int64, len(good))
	for i, r := range good {
		bySequence[r.Sequence], sentIn[i], sent[i] = r, r.Partition, r.Sequence
	}
	badIn, badSequences, reasons := make([]int32, len(bad)), make([]int64, len(bad)), make([]string, len(bad))
	for i, r := range bad {
		badIn[i], badSequences[i], reasons[i] = r.Partition, r.Sequence, r.bad
	}
	partitions, terms := o.held()
	var ours map[int32]bool
	var after map[int32]totals
	err := postgres.InBatches(ctx, o.cfg.Pool, func(tx *postgres.BatchTx) error {
		ours = map[int32]bool{}
		var deleted []int64
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
			deleted, err = pgx.CollectRows(rows, pgx.RowTo[int64])
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
		after = o.count(deleted, bySequence)
		return o.saveTotals(ctx, tx, after)
	})
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	for p, t := range after {
		o.shards[p].totals, o.shards[p].changed = t, true
	}
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

// count returns the totals of the partitions that change: what the DELETE
// returned, not what was produced.
func (o *owner) count(deleted []int64, rows map[int64]*row) map[int32]totals {
	after := map[int32]totals{}
	for _, sequence := range deleted {
		r := rows[sequence]
		t, ok := after[r.Partition]
		if !ok {
			t = o.shards[r.Partition].totals
		}
		t.count++
		t.hash = t.hash.Add(r.Envelope)
		if t.min == 0 || sequence < t.min {
			t.min = sequence
		}
		t.max = max(t.max, sequence)
		after[r.Partition] = t
	}
	return after
}

// saveTotals stores the totals and commits.
func (o *owner) saveTotals(ctx context.Context, tx *postgres.BatchTx, after map[int32]totals) error {
	n := len(after)
	partitions, counts, hashes := make([]int32, 0, n), make([]int64, 0, n), make([][]byte, 0, n)
	lows, highs := make([]int64, 0, n), make([]int64, 0, n)
	for partition, t := range after {
		hash := t.hash
		partitions, counts, hashes = append(partitions, partition), append(counts, t.count), append(hashes, hash[:])
		lows, highs = append(lows, t.min), append(highs, t.max)
	}
	var batch pgx.Batch
	batch.Queue(saveTotals, partitions, counts, hashes, lows, highs, o.epoch.id)
	return tx.Commit(ctx, &batch)
}
