package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// snapshots are the connections that reads of one generation are answered
// through, and what their marks said last. A pipeline is one transaction, and
// these connections' transactions are REPEATABLE READ and READ ONLY without being
// told, so all statements of a batch see one snapshot, in one round trip and
// without two more statements around them.
type snapshots struct {
	pool *pgxpool.Pool
	last atomic.Pointer[known]
}

func openSnapshots(ctx context.Context, cfg Config, schema string) (*snapshots, error) {
	inside, err := within(cfg.Postgres, schema, "default_transaction_isolation", "repeatable read", "default_transaction_read_only", "on")
	if err != nil {
		return nil, err
	}
	pool, err := postgres.Open(ctx, inside, cfg.Telemetry)
	if err != nil {
		return nil, err
	}
	s := &snapshots{pool: pool}
	s.last.Store(nothingKnown(cfg.Kafka.PartitionCount()))
	return s, nil
}

// known is what the marks were in a snapshot. Whoever writes marks or books moves
// the position to its next revision, in the same transaction: a later snapshot
// with that revision has the same marks, and only the others are read again. A
// server that was started since may have been taken back to an earlier state, in
// which revisions come again, so nothing is known of it.
type known struct {
	server     time.Time // when it was started
	partitions []knownMarks
}

// knownMarks are those of one partition, at a revision of its position.
type knownMarks struct {
	revision int64 // -1 if none was read yet
	marks    []markRow
}

func nothingKnown(partitions int32) *known {
	return &known{partitions: slices.Repeat([]knownMarks{{revision: -1}}, int(partitions))}
}

const (
	changedMarks = `SELECT p.partition, p.revision, pg_postmaster_start_time(), m.source, m.epoch, m.as_of, p.books -> 's' -> m.source
		FROM position p LEFT JOIN source_mark m ON m.partition = p.partition WHERE `
	changedOne  = changedMarks + `p.partition = $1 AND (p.revision <> $2 OR pg_postmaster_start_time() <> $3)`
	changedMany = changedMarks + `p.revision <> ($1::bigint[])[p.partition + 1] OR pg_postmaster_start_time() <> $2`
)

// of are the marks of a source, of one partition, or of all if it is negative.
func (k *known) of(partition int32, source string) iter.Seq[*markRow] {
	all := k.partitions
	if partition >= 0 {
		all = all[partition : partition+1]
	}
	return func(yield func(*markRow) bool) {
		for _, in := range all {
			for i := range in.marks {
				if m := &in.marks[i]; m.source == source && !yield(m) {
					return
				}
			}
		}
	}
}

// queue adds the statement that reads the marks of a partition, or of all if it
// is negative, as far as they changed. now is what they are in the batch's
// snapshot.
func (s *snapshots) queue(b *pgx.Batch, partition int32, now **known) {
	before := s.last.Load()
	*now = before
	var changed *pgx.QueuedQuery
	if partition >= 0 {
		changed = b.Queue(changedOne, partition, before.partitions[partition].revision, before.server)
	} else {
		revisions := make([]int64, len(before.partitions))
		for i, of := range before.partitions {
			revisions[i] = of.revision
		}
		changed = b.Queue(changedMany, revisions, before.server)
	}
	changed.Query(func(rows pgx.Rows) error {
		after, err := before.with(rows)
		if err != nil || after == before {
			return err
		}
		*now = after
		s.note(after)
		return nil
	})
}

// with returns what is known after the rows of changed marks.
func (k *known) with(rows pgx.Rows) (*known, error) {
	next := k
	var partition int32
	var revision int64
	var server time.Time
	var source, epoch *string
	var asOf *time.Time
	var text []byte
	_, err := pgx.ForEachRow(rows, []any{&partition, &revision, &server, &source, &epoch, &asOf, &text}, func() error {
		if next == k || !next.server.Equal(server) {
			next = &known{server: server, partitions: slices.Clone(k.partitions)}
			if !server.Equal(k.server) {
				next.partitions = nothingKnown(int32(len(k.partitions))).partitions
			}
		}
		at := &next.partitions[partition]
		if at.revision != revision {
			*at = knownMarks{revision: revision}
		}
		if source == nil {
			return nil
		}
		m := markRow{partition: partition, source: *source, epoch: *epoch, asOf: *asOf, book: book{State: unproven, Reason: "not compared yet"}}
		if text != nil {
			if err := json.Unmarshal(text, &m.book); err != nil {
				return fmt.Errorf("read what was counted: %w", err)
			}
		}
		at.marks = append(at.marks, m)
		return nil
	})
	return next, err
}

// note remembers what a snapshot showed. Of two of one server, the later of each
// partition stays.
func (s *snapshots) note(seen *known) {
	for {
		before := s.last.Load()
		next := seen
		if before.server.Equal(seen.server) {
			next = &known{server: seen.server, partitions: slices.Clone(seen.partitions)}
			for i, of := range before.partitions {
				if of.revision > next.partitions[i].revision {
					next.partitions[i] = of
				}
			}
		}
		if s.last.CompareAndSwap(before, next) {
			return
		}
	}
}
