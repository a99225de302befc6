package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// leases are one row per partition, each with a term that the database issues.
// A holder that was stopped and wakes up finds its terms gone: everything it
// writes names them. The rows with terms and the trust window on the holder's
// own clock are River's design (2026).
//
// A relay also holds a lock of its own name in a session that lives as long as
// it does. While a lease runs whose holder's lock is free, that holder died, or
// lost its database: others need not wait for the lease's end. A holder that is
// only cut off finds its terms gone, as after the end.
type leases struct {
	pool   *pgxpool.Pool
	holder string
	ttl    time.Duration
}

// margin is how much earlier than the database we consider a lease over.
func (l leases) margin() time.Duration { return l.ttl / 5 }

// trustedFrom is until when nobody else can have got what was asked for at start.
func (l leases) trustedFrom(start time.Time) time.Time { return start.Add(l.ttl - l.margin()) }

// due says that it is time to renew.
func (l leases) due(trusted time.Time) bool { return time.Until(trusted) < l.ttl/2 }

// sessionHolder begins the names of relays that hold such a lock; those of
// earlier releases do not.
const sessionHolder = "session:"

const (
	// showAlive shares the lock: the server may take a connection that was cut for
	// alive for hours, and the relay's next session must not wait for that.
	showAlive = `SELECT pg_advisory_lock_shared(hashtextextended($1, 0))`
	// died is true of a holder whose session has ended. It takes the lock for the
	// moment of the statement.
	died = `(holder LIKE '` + sessionHolder + `%' AND pg_try_advisory_xact_lock(hashtextextended(holder, 0)))`

	makeShards = `INSERT INTO relay_shard (partition, term, holder, expires_at)
		SELECT p, 0, '', '-infinity' FROM generate_series(0, $1::integer - 1) p ON CONFLICT DO NOTHING`

	// A mark that is under way holds the row: whoever takes over waits for it.
	acquireShards = `
		WITH free AS MATERIALIZED (
			SELECT partition FROM relay_shard
			 WHERE (expires_at <= clock_timestamp() OR holder = $1 OR ` + died + `) AND partition <> ALL ($3::integer[])
			 ORDER BY partition LIMIT $4 FOR UPDATE)
		UPDATE relay_shard s SET term = nextval('relay_term'), holder = $1, expires_at = clock_timestamp() + $2::interval
		  FROM free WHERE s.partition = free.partition RETURNING s.partition, s.term`

	// lockMine locks the leases that are still ours, always in the same order.
	lockMine = `
		SELECT s.partition FROM relay_shard s JOIN unnest($1::integer[], $2::bigint[]) AS m (partition, term) USING (partition, term)
		 ORDER BY s.partition FOR UPDATE OF s`

	renewShards = `
		WITH mine AS MATERIALIZED (` + lockMine + `)
		UPDATE relay_shard s SET expires_at = clock_timestamp() + $3::interval FROM mine WHERE s.partition = mine.partition
		RETURNING s.partition`

	releaseShards = `UPDATE relay_shard s SET holder = '', expires_at = '-infinity'
		  FROM unnest($1::integer[], $2::bigint[]) AS m (partition, term) WHERE s.partition = m.partition AND s.term = m.term`
)

// acquire takes up to n free partitions and returns their terms. Those in held
// are ours already.
func (l leases) acquire(ctx context.Context, held []int32, n int) (map[int32]int64, error) {
	rows, err := l.pool.Query(ctx, acquireShards, l.holder, l.ttl, held, n)
	if err != nil {
		return nil, fmt.Errorf("acquire leases: %w", err)
	}
	terms := map[int32]int64{}
	var partition int32
	var term int64
	if _, err := pgx.ForEachRow(rows, []any{&partition, &term}, func() error {
		terms[partition] = term
		return nil
	}); err != nil {
		return nil, fmt.Errorf("acquire leases: %w", err)
	}
	return terms, nil
}

// renew extends the leases whose terms nobody took, and returns which those are.
func (l leases) renew(ctx context.Context, partitions []int32, terms []int64) (kept map[int32]bool, err error) {
	rows, err := l.pool.Query(ctx, renewShards, partitions, terms, l.ttl)
	if err != nil {
		return nil, fmt.Errorf("renew leases: %w", err)
	}
	kept = map[int32]bool{}
	var partition int32
	if _, err := pgx.ForEachRow(rows, []any{&partition}, func() error {
		kept[partition] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("renew leases: %w", err)
	}
	return kept, nil
}

// release lets others take these partitions without waiting for the leases' end.
func (l leases) release(ctx context.Context, partitions []int32, terms []int64) error {
	if _, err := l.pool.Exec(ctx, releaseShards, partitions, terms); err != nil {
		return fmt.Errorf("release leases: %w", err)
	}
	return nil
}

// leave gives everything back: whoever cannot work stands in nobody's way.
func (l leases) leave(ctx context.Context) error {
	var batch pgx.Batch
	batch.Queue(`DELETE FROM relay_member WHERE holder = $1`, l.holder)
	batch.Queue(`UPDATE relay_shard SET holder = '', expires_at = '-infinity' WHERE holder = $1`, l.holder)
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("release leases: %w", err)
	}
	return nil
}
