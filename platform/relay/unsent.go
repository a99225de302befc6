package relay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// row is one unsent event.
type row struct {
	event.Envelope
	payload []byte
	follows bool   // its aggregate is blocked
	bad     string // why it can never be sent
}

// unsentSet is one read of the unsent set.
type unsentSet struct {
	at     time.Time      // transaction_timestamp() of the read: not after its snapshot
	rows   []*row         // by partition and sequence; of each partition the first few
	shards map[int32]seen // the partitions that were ours in the read's snapshot
	full   bool           // some partition has more
	survey *survey        // if one was due
}

// seen is one partition in one read: head is the highest sequence of its entire
// unsent set, last the highest that was read; 0 if there is none.
type seen struct {
	head, last int64
	rows       int
}

// The read checks lease and term in the same statement: for a partition that
// was taken from us it returns no row at all, which is not the same as nothing
// unsent. It runs in an implicit transaction, so transaction_timestamp() is the
// start of this very statement and not after its snapshot. Renewing the leases
// and looking at the other relays travel with it when they are due, so that a
// relay costs one statement per turn whatever it holds.
const (
	heldShards = `WITH held AS (
		SELECT partition FROM relay_shard JOIN unnest($1::integer[], $2::bigint[]) AS m (partition, term) USING (partition, term)
		 WHERE expires_at > clock_timestamp() AND $3::interval IS NOT NULL AND $4::text IS NOT NULL AND $6::text IS NOT NULL)`
	renewedShards = `WITH held AS (` + renewShards + `),
		alive AS (
			INSERT INTO relay_member (holder, expires_at) VALUES ($4::text, clock_timestamp() + $3::interval)
			ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at)`
	// Every variant names all six parameters: the server refuses others.
	noSurvey  = `NULL::text[] AS others, NULL::integer[] AS holding, NULL::integer AS free, length($6::text)::bigint AS told`
	takeStock = `
		(SELECT array_agg(holder ORDER BY holder) FROM relay_member WHERE holder <> $4 AND expires_at > clock_timestamp() AND NOT ` + died + `) AS others,
		(SELECT array_agg((SELECT count(*)::integer FROM relay_shard s WHERE s.holder = m.holder) ORDER BY holder)
		   FROM relay_member m WHERE holder <> $4 AND expires_at > clock_timestamp() AND NOT ` + died + `) AS holding,
		(SELECT count(*)::integer FROM relay_shard WHERE expires_at <= clock_timestamp() OR holder <> $4 AND ` + died + `) AS free,
		(SELECT coalesce(sum(number + count), 0)::bigint FROM control_totals WHERE epoch = $6 AND partition IN (SELECT partition FROM held)) AS told`
	readUnsent = `
		  ) b
		  LEFT JOIN held ON true
		  LEFT JOIN LATERAL (SELECT max(sequence) AS head FROM outbox WHERE partition = held.partition) h ON true
		  LEFT JOIN LATERAL (SELECT sequence FROM outbox WHERE partition = held.partition ORDER BY sequence LIMIT $5) o ON true
		  LEFT JOIN journal j ON j.sequence = o.sequence
		 ORDER BY held.partition, o.sequence`
	unsentColumns = `
		SELECT b.at, b.others, b.holding, b.free, b.told, held.partition, coalesce(h.head, 0), j.sequence, j.aggregate_type, j.aggregate_id, j.version,
		       j.epoch, j.event_id::text, j.name, j.schema_version, j.key, j.occurred_at, j.recorded_at,
		       j.causation_id, j.correlation_id, j.traceparent, j.tracestate, j.payload,
		       EXISTS (SELECT FROM blocked k WHERE k.aggregate_type = j.aggregate_type AND k.aggregate_id = j.aggregate_id)
		  FROM (SELECT transaction_timestamp() AS at, `
)

// readUnsent reads the unsent set of the partitions that are ours, in one
// statement. A partition that no longer is drops out. What the last turn sent is
// marked before, in the same round trip and transaction.
func (o *owner) readUnsent(ctx context.Context) (unsentSet, error) {
	mark := o.expect()
	if mark != nil {
		outlasting, cancel := outlast(ctx)
		defer cancel()
		ctx = outlasting
	}
	set, err := o.readAfter(ctx, mark)
	if mark != nil && postgres.WasRefused(err) {
		if err := o.markFound(ctx, nil); err != nil {
			return set, err
		}
		set, err = o.readAfter(ctx, nil)
	}
	if err != nil {
		return set, fmt.Errorf("read the unsent set: %w", err)
	}
	o.keep(ctx, func(p int32) bool { _, ours := set.shards[p]; return ours })
	if set.survey != nil && set.survey.told != o.told() {
		return set, errTotalsMoved
	}
	return set, nil
}

// readAfter reads the unsent set after a mark, which may be nil. If either is
// refused nothing of either happened.
func (o *owner) readAfter(ctx context.Context, mark *expected) (set unsentSet, err error) {
	start := time.Now()
	held, stock := heldShards, noSurvey
	renewing, surveying := o.leases.due(o.trusted), start.Sub(o.surveyed) >= o.tuning.Poll*9/10
	if renewing {
		held = renewedShards
	}
	if surveying {
		stock = takeStock
	}
	set = unsentSet{shards: make(map[int32]seen, len(o.shards))}
	partitions, terms := o.held()
	var batch pgx.Batch
	if mark != nil {
		batch.Queue(markExpected, mark.args...)
	}
	batch.Queue(held+unsentColumns+stock+readUnsent, partitions, terms, o.leases.ttl, o.leases.holder, o.tuning.BatchPerPartition, o.epoch.id).
		Query(func(rows pgx.Rows) error {
			// All is read before any is sent: taking each row as it comes was measured
			// to cost a fifth more CPU per row.
			var c columns
			for rows.Next() {
				if err := o.scan(rows, &c, &set); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	if err := o.cfg.Pool.SendBatch(ctx, &batch).Close(); err != nil {
		return set, err
	}
	if mark != nil {
		o.marked(mark.after)
	}
	set.at = set.at.UTC()
	if renewing {
		o.trusted = o.leases.trustedFrom(start)
	}
	if surveying {
		o.surveyed = start
	} else {
		set.survey = nil
	}
	return set, nil
}

// columns are what one row of the read is scanned into. Those of the survey and
// of the event may be missing.
type columns struct {
	others                                                                     []string
	holding                                                                    []int
	free                                                                       *int
	told                                                                       *int64
	partition, schema                                                          pgtype.Int4
	head                                                                       int64
	sequence, version                                                          pgtype.Int8
	kind, id, epoch, eventID, name, key, causation, correlation, parent, state pgtype.Text
	occurred, recorded                                                         pgtype.Timestamptz
}

func (o *owner) scan(rows pgx.Rows, c *columns, set *unsentSet) error {
	r := &row{}
	if err := rows.Scan(&set.at, &c.others, &c.holding, &c.free, &c.told, &c.partition, &c.head, &c.sequence, &c.kind, &c.id, &c.version, &c.epoch, &c.eventID,
		&c.name, &c.schema, &c.key, &c.occurred, &c.recorded, &c.causation, &c.correlation, &c.parent, &c.state, &r.payload, &r.follows); err != nil {
		return err
	}
	if c.free != nil && set.survey == nil {
		set.survey = &survey{others: make(map[string]int, len(c.others)), free: *c.free, told: *c.told}
		for i, other := range c.others {
			set.survey.others[other] = c.holding[i]
		}
	}
	if !c.partition.Valid {
		return nil // nothing is ours
	}
	s := set.shards[c.partition.Int32]
	s.head = c.head
	if !c.sequence.Valid {
		set.shards[c.partition.Int32] = s
		return nil
	}
	r.Envelope = event.Envelope{
		ID: c.eventID.String, Source: o.cfg.Source, Type: c.name.String, SchemaVersion: int(c.schema.Int32),
		Aggregate: event.Aggregate{Type: c.kind.String, ID: c.id.String}, Version: c.version.Int64, Epoch: c.epoch.String,
		Key: c.key.String, Partition: c.partition.Int32, Sequence: c.sequence.Int64, OccurredAt: c.occurred.Time.UTC(), RecordedAt: c.recorded.Time.UTC(),
		CausationID: c.causation.String, CorrelationID: c.correlation.String, TraceParent: c.parent.String, TraceState: c.state.String,
	}
	if r.Epoch != o.epoch.id {
		return fmt.Errorf("event %s is of epoch %s, the source is in %s", r.ID, r.Epoch, o.epoch.id)
	}
	s.last = r.Sequence
	if s.rows++; s.rows == o.tuning.BatchPerPartition {
		set.full = true
	}
	set.shards[c.partition.Int32] = s
	set.rows = append(set.rows, r)
	return nil
}

// told is a fingerprint of the totals that we left in the database, which only
// rises: a database that is set back is noticed although nothing is committed.
func (o *owner) told() (told int64) {
	for _, s := range o.shards {
		told += s.totals.number + s.totals.count
	}
	return told
}

// held returns the partitions that are ours, in order, and their terms.
func (o *owner) held() (partitions []int32, terms []int64) {
	partitions = make([]int32, 0, len(o.shards)) // not nil, which SQL would take for unknown
	for p := range o.shards {
		partitions = append(partitions, p)
	}
	slices.Sort(partitions)
	terms = make([]int64, len(partitions))
	for i, p := range partitions {
		terms[i] = o.shards[p].term
	}
	return partitions, terms
}
