package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
)

// snapshots are the connections that reads of one generation are answered
// through, and what their marks said last. A pipeline is one transaction, and
// these connections' transactions are REPEATABLE READ and READ ONLY without being
// told, so all statements of a batch see one snapshot, in one round trip and
// without two more statements around them.
type snapshots struct {
	pool  *pgxpool.Pool
	last  atomic.Pointer[known]
	asked asked
}

func openSnapshots(ctx context.Context, cfg Config, schema string) (*snapshots, error) {
	settings := []string{"default_transaction_isolation", "repeatable read", "default_transaction_read_only", "on"}
	if cfg.PlanOnce {
		settings = append(settings, "plan_cache_mode", "force_generic_plan")
	}
	inside, err := within(cfg.Postgres, schema, settings...)
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
	skipped  map[string]int64 // facts given up, by order; nil if there are none
}

func nothingKnown(partitions int32) *known {
	return &known{partitions: slices.Repeat([]knownMarks{{revision: -1}}, int(partitions))}
}

// Everything that the kernel reads for an answer is one row. What changed is the
// marks of positions that have moved, or NULL; a list, because JSON costs only
// when there is some.
const (
	selectChanged = `SELECT (SELECT json_agg(json_build_object('p', p.partition, 'r', p.revision, 'u', pg_postmaster_start_time(),
			's', m.source, 'e', m.epoch, 'a', m.as_of, 'b', p.books -> 's' -> m.source,
			'k', nullif(p.skipped, '{}')))
		FROM position p LEFT JOIN source_mark m ON m.partition = p.partition WHERE `
	selectOne = selectChanged + `p.partition = $2 AND (p.revision <> $3 OR pg_postmaster_start_time() <> $4)),
		(SELECT applied FROM state WHERE order_id = $1)`
	selectMany = selectChanged + `p.revision <> ($1::bigint[])[p.partition + 1] OR pg_postmaster_start_time() <> $2)`
)

// changedMark is one of them; without a source, its partition has none.
type changedMark struct {
	Partition int32              `json:"p"`
	Revision  int64              `json:"r"`
	Server    time.Time          `json:"u"`
	Source    *string            `json:"s"`
	Epoch     string             `json:"e"`
	AsOf      time.Time          `json:"a"`
	Book      *completeness.Book `json:"b"`
	Skipped   map[string]int64   `json:"k"`
}

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

// statement is the one that reads what q wants from the kernel, with what is
// remembered of marks taken into account.
func (k *known) statement(q *question) (sql string, args []any) {
	if q.order != "" {
		sql, args = selectOne, []any{q.order, q.partition, k.partitions[q.partition].revision, k.server}
		if q.oneText != "" {
			sql += ", (" + q.oneText + ")"
		}
		return sql, args
	}
	revisions := make([]int64, len(k.partitions))
	for i, of := range k.partitions {
		revisions[i] = of.revision
	}
	return selectMany, []any{revisions, k.server}
}

// with returns what is known with changed marks, which are JSON or nothing.
func (k *known) with(changed []byte) (*known, error) {
	if changed == nil {
		return k, nil
	}
	var marks []changedMark
	if err := json.Unmarshal(changed, &marks); err != nil {
		return nil, fmt.Errorf("read what was counted: %w", err)
	}
	next := &known{server: marks[0].Server, partitions: slices.Clone(k.partitions)}
	if !next.server.Equal(k.server) {
		next.partitions = nothingKnown(int32(len(k.partitions))).partitions
	}
	for _, c := range marks {
		at := &next.partitions[c.Partition]
		if at.revision != c.Revision {
			*at = knownMarks{revision: c.Revision, skipped: c.Skipped}
		}
		if c.Source == nil {
			continue
		}
		m := markRow{partition: c.Partition, source: *c.Source, epoch: c.Epoch, asOf: c.AsOf, book: completeness.Book{State: completeness.Unproven, Reason: "not compared yet"}}
		if c.Book != nil {
			m.book = *c.Book
		}
		at.marks = append(at.marks, m)
	}
	return next, nil
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
