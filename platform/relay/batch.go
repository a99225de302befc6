package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
)

// row is one unsent event.
type row struct {
	event.Envelope
	payload []byte
	follows bool   // its aggregate is blocked
	bad     string // why it can never be sent
	value   []byte // framed
}

// unsentSet is one read of the unsent set.
type unsentSet struct {
	at     time.Time // transaction_timestamp() of the read: not after its snapshot
	rows   []*row    // by partition and sequence; of each partition the first few
	shards []seen    // by partition
	full   bool      // some partition has more
}

// seen is one partition in one read: head is the highest sequence of its entire
// unsent set, last the highest that was read; 0 if there is none.
type seen struct{ head, last int64 }

// The read checks lease and term in the same statement: for a relay that was
// fenced it returns no row at all, which is not the same as nothing unsent. It
// runs in an implicit transaction, so transaction_timestamp() is the start of
// this very statement and not after its snapshot.
const (
	heldLease  = `WITH held AS (SELECT term FROM lease WHERE name = $1 AND term = $2 AND expires_at > clock_timestamp() AND $5::interval IS NOT NULL)`
	renewLease = `WITH held AS (UPDATE lease SET expires_at = clock_timestamp() + $5::interval WHERE name = $1 AND term = $2 RETURNING term)`
	readUnsent = `
		SELECT transaction_timestamp(), p.partition, coalesce(h.head, 0), j.sequence, j.aggregate_type, j.aggregate_id, j.version, j.epoch,
		       j.event_id::text, j.name, j.schema_version, j.key, j.occurred_at, j.recorded_at,
		       j.causation_id, j.correlation_id, j.traceparent, j.tracestate, j.payload,
		       EXISTS (SELECT FROM blocked b WHERE b.aggregate_type = j.aggregate_type AND b.aggregate_id = j.aggregate_id)
		  FROM held
		 CROSS JOIN unnest($3::integer[]) AS p (partition)
		 CROSS JOIN LATERAL (SELECT max(sequence) AS head FROM outbox WHERE partition = p.partition) h
		  LEFT JOIN LATERAL (SELECT sequence FROM outbox WHERE partition = p.partition ORDER BY sequence LIMIT $4) o ON true
		  LEFT JOIN journal j ON j.sequence = o.sequence
		 ORDER BY p.partition, o.sequence`
)

// readUnsent reads the unsent set in one statement, and renews the lease with
// it when that is due.
func (o *owner) readUnsent(ctx context.Context) (unsentSet, error) {
	sql, start := heldLease+readUnsent, time.Now()
	renewing := o.lease.due(o.term)
	if renewing {
		sql = renewLease + readUnsent
	}
	set := unsentSet{shards: make([]seen, len(o.shards))}
	partitions := make([]int32, len(o.shards))
	counts := make([]int, len(o.shards))
	for i := range partitions {
		partitions[i] = int32(i)
	}
	rows, err := o.cfg.Pool.Query(ctx, sql, o.lease.name, o.term.number, partitions, o.tuning.BatchPerPartition, o.lease.ttl)
	if err != nil {
		return set, fmt.Errorf("read the unsent set: %w", err)
	}
	defer rows.Close()
	held := false
	for rows.Next() {
		held = true
		var partition int32
		var head int64
		var sequence, version *int64
		var kind, id, epoch, eventID, name, key, causation, correlation, parent, state *string
		var schema *int
		var occurred, recorded *time.Time
		r := &row{}
		if err := rows.Scan(&set.at, &partition, &head, &sequence, &kind, &id, &version, &epoch, &eventID, &name, &schema,
			&key, &occurred, &recorded, &causation, &correlation, &parent, &state, &r.payload, &r.follows); err != nil {
			return set, fmt.Errorf("read the unsent set: %w", err)
		}
		set.shards[partition].head = head
		if sequence == nil {
			continue
		}
		r.Envelope = event.Envelope{
			ID: *eventID, Source: o.cfg.Source, Type: *name, SchemaVersion: *schema,
			Aggregate: event.Aggregate{Type: *kind, ID: *id}, Version: *version, Epoch: *epoch,
			Key: *key, Partition: partition, Sequence: *sequence, OccurredAt: occurred.UTC(), RecordedAt: recorded.UTC(),
			CausationID: *causation, CorrelationID: *correlation, TraceParent: *parent, TraceState: *state,
		}
		if *epoch != o.epoch.id {
			return set, fmt.Errorf("event %s is of epoch %s, the source is in %s", *eventID, *epoch, o.epoch.id)
		}
		set.rows = append(set.rows, r)
		set.shards[partition].last = *sequence
		if counts[partition]++; counts[partition] == o.tuning.BatchPerPartition {
			set.full = true
		}
	}
	if err := rows.Err(); err != nil {
		return set, fmt.Errorf("read the unsent set: %w", err)
	}
	if !held {
		return set, errFenced
	}
	set.at = set.at.UTC()
	if renewing {
		o.term.trusted = start.Add(o.lease.ttl - o.lease.margin())
	}
	return set, nil
}

// split separates what was acknowledged from what the broker refused.
func split(rows []*row) (good, bad []*row) {
	for _, r := range rows {
		if r.bad != "" {
			bad = append(bad, r)
		} else {
			good = append(good, r)
		}
	}
	return good, bad
}

// sort frames the rows and sets aside those that can never be sent, and those
// that follow one of them.
func (o *owner) sort(rows []*row) (good, bad []*row) {
	stopped := map[event.Aggregate]bool{}
	for _, r := range rows {
		if r.follows || stopped[r.Aggregate] {
			stopped[r.Aggregate] = true
			bad = append(bad, r)
			continue
		}
		id, known := o.cfg.Codec.ID(r.Type, r.SchemaVersion)
		switch {
		case !known:
			r.bad = fmt.Sprintf("no schema %s/%d", r.Type, r.SchemaVersion)
		case len(r.payload) > maxPayloadBytes:
			r.bad = fmt.Sprintf("%d bytes are more than the %d of a message", len(r.payload), maxPayloadBytes)
		default:
			if err := r.Validate(); err != nil {
				r.bad = err.Error()
			}
		}
		if r.bad != "" {
			stopped[r.Aggregate] = true
			bad = append(bad, r)
			continue
		}
		r.value = avro.Frame(id, r.payload)
		good = append(good, r)
	}
	return good, bad
}

const (
	lockLease  = `SELECT term FROM lease WHERE name = $1 AND term = $2 FOR UPDATE`
	deleteSent = `
		DELETE FROM outbox o USING unnest($1::integer[], $2::bigint[]) AS s (partition, sequence)
		 WHERE o.partition = s.partition AND o.sequence = s.sequence RETURNING o.sequence`
	moveBlocked = `
		WITH moved AS (
			DELETE FROM outbox o USING unnest($1::integer[], $2::bigint[], $3::text[]) AS s (partition, sequence, reason)
			 WHERE o.partition = s.partition AND o.sequence = s.sequence RETURNING o.partition, o.sequence, s.reason)
		INSERT INTO blocked (sequence, partition, aggregate_type, aggregate_id, reason)
		SELECT m.sequence, m.partition, j.aggregate_type, j.aggregate_id, m.reason FROM moved m JOIN journal j USING (sequence)`
	saveTotals = `
		UPDATE control_totals t SET count = s.count, hash = s.hash, min_sequence = s.min_sequence, max_sequence = s.max_sequence
		  FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[]) AS s (partition, count, hash, min_sequence, max_sequence)
		 WHERE t.epoch = $6 AND t.partition = s.partition`
)

// mark takes sent rows out of the unsent set and bad ones to the blocked table,
// and adds to the totals exactly what it took out. The lease row is locked
// first, with our term: after a takeover this finds no row and nothing of it
// happens.
func (o *owner) mark(ctx context.Context, good, bad []*row) error {
	if len(good) == 0 && len(bad) == 0 {
		return nil
	}
	conn, err := o.cfg.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()

	bySequence := make(map[int64]*row, len(good))
	partitions, sequences := make([]int32, len(good)), make([]int64, len(good))
	for i, r := range good {
		bySequence[r.Sequence], partitions[i], sequences[i] = r, r.Partition, r.Sequence
	}
	var batch pgx.Batch
	batch.Queue(lockLease, o.lease.name, o.term.number)
	batch.Queue(deleteSent, partitions, sequences)
	if len(bad) > 0 {
		partitions, sequences, reasons := make([]int32, len(bad)), make([]int64, len(bad)), make([]string, len(bad))
		for i, r := range bad {
			partitions[i], sequences[i], reasons[i] = r.Partition, r.Sequence, r.bad
		}
		batch.Queue(moveBlocked, partitions, sequences, reasons)
	}
	results := tx.SendBatch(ctx, &batch)
	var held int64
	if err := results.QueryRow().Scan(&held); err != nil {
		_ = results.Close()
		if errors.Is(err, pgx.ErrNoRows) {
			return errFenced
		}
		return fmt.Errorf("mark: lock the lease: %w", err)
	}
	gone, err := results.Query()
	if err != nil {
		_ = results.Close()
		return fmt.Errorf("mark: %w", err)
	}
	deleted, err := pgx.CollectRows(gone, pgx.RowTo[int64])
	if err == nil {
		err = results.Close()
	}
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	after := o.count(deleted, bySequence)
	if err := o.saveTotals(ctx, tx, after); err != nil {
		return err
	}
	for partition, t := range after {
		o.shards[partition].totals, o.shards[partition].changed = t, true
	}
	return o.alarm(ctx, bad)
}

// alarm says aloud which aggregates are blocked now, and puts them into the
// next control records.
func (o *owner) alarm(ctx context.Context, bad []*row) error {
	if len(bad) == 0 {
		return nil
	}
	for _, r := range bad {
		o.shards[r.Partition].changed = true
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

func (o *owner) saveTotals(ctx context.Context, tx pgx.Tx, after map[int32]totals) error {
	n := len(after)
	partitions, counts, hashes := make([]int32, 0, n), make([]int64, 0, n), make([][]byte, 0, n)
	lows, highs := make([]int64, 0, n), make([]int64, 0, n)
	for partition, t := range after {
		hash := t.hash
		partitions, counts, hashes = append(partitions, partition), append(counts, t.count), append(hashes, hash[:])
		lows, highs = append(lows, t.min), append(highs, t.max)
	}
	if _, err := tx.Exec(ctx, saveTotals, partitions, counts, hashes, lows, highs, o.epoch.id); err != nil {
		return fmt.Errorf("mark: save totals: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("mark: commit: %w", err)
	}
	return nil
}
