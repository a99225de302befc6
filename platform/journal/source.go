package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// ReasonSourceWentBack is why commands are refused while the database of a
// source is an earlier state of itself, or may be.
const ReasonSourceWentBack fault.Reason = "SOURCE_WENT_BACK"

// States in which a source stands still.
const (
	// WentBack: the database is an earlier state of itself, or may be. Commands
	// are refused and nothing is sent until a new epoch begins.
	WentBack = "WENT_BACK"
	// TopicReplaced: the topic is another one than before. Nothing is sent until
	// the journal is republished; commands go on.
	TopicReplaced = "TOPIC_REPLACED"
)

// Stop says why a source stands still.
type Stop struct {
	State  string
	Reason string
	// NewestEpoch is the newest epoch that was met in the topic, or "": the next
	// one must be newer.
	NewestEpoch string
}

// ReadStop returns why the source stands still, or nil if it does not.
func ReadStop(ctx context.Context, pool *pgxpool.Pool) (*Stop, error) {
	var s Stop
	err := pool.QueryRow(ctx, `SELECT state, reason, newest_epoch FROM source_stop`).Scan(&s.State, &s.Reason, &s.NewestEpoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether the source is stopped: %w", err)
	}
	return &s, nil
}

// StopSource lets the source stand still, in all its processes, until an
// operator decides: relays lose their partitions, and commands are refused if
// the database went back. A source that is stopped already stays stopped for
// its first reason, unless the new one is graver.
func StopSource(ctx context.Context, pool *pgxpool.Pool, s Stop) error {
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		if err := fence(ctx, tx, nil); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO source_stop AS old (state, reason, newest_epoch) VALUES ($1, $2, $3)
			ON CONFLICT (one) DO UPDATE SET newest_epoch = greatest(old.newest_epoch, excluded.newest_epoch),
				state  = CASE WHEN old.state = 'WENT_BACK' THEN old.state ELSE excluded.state END,
				reason = CASE WHEN old.state = 'WENT_BACK' THEN old.reason ELSE excluded.reason END`, s.State, s.Reason, s.NewestEpoch)
		return err
	})
	if err != nil {
		return fmt.Errorf("stop the source: %w", err)
	}
	return nil
}

// fence takes partitions, or all of them, from the relays that hold them: it
// waits for a mark that is under way, and whatever those relays do afterwards
// under their old terms has no effect.
func fence(ctx context.Context, tx pgx.Tx, partition *int32) error {
	if _, err := tx.Exec(ctx, `
		WITH locked AS MATERIALIZED (
			SELECT partition FROM relay_shard WHERE $1::integer IS NULL OR partition = $1 ORDER BY partition FOR UPDATE)
		UPDATE relay_shard s SET term = nextval('relay_term'), holder = '', expires_at = '-infinity'
		  FROM locked WHERE s.partition = locked.partition`, partition); err != nil {
		return fmt.Errorf("take the partitions from their relays: %w", err)
	}
	return nil
}

// identity is the database's, in SQL: the cluster's system identifier and the
// timeline it writes on, which every recovery to an earlier state changes.
const (
	systemIdentifier = `(SELECT system_identifier FROM pg_control_system())`
	timeline         = `('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer`
)

// CheckIdentity compares the database with the one that today's epoch was
// minted in. It returns what differs, or "".
func CheckIdentity(ctx context.Context, pool *pgxpool.Pool) (difference string, err error) {
	var system, line, mintedSystem, mintedLine string
	err = pool.QueryRow(ctx, `
		SELECT `+systemIdentifier+`::text, (`+timeline+`)::text, coalesce(system_identifier::text, ''), coalesce(timeline::text, '')
		  FROM source_epoch ORDER BY ordinal DESC LIMIT 1`).Scan(&system, &line, &mintedSystem, &mintedLine)
	switch {
	case err != nil:
		return "", fmt.Errorf("read the identity of the database: %w", err)
	case mintedSystem != "" && system != mintedSystem:
		return fmt.Sprintf("the database cluster is another one (%s) than that of the epoch (%s)", system, mintedSystem), nil
	case mintedLine != "" && line != mintedLine:
		return fmt.Sprintf("the database is on timeline %s, the epoch began on %s: it was restored or failed over", line, mintedLine), nil
	}
	return "", nil
}

// stopIfMoved stops the source if the database is not the one of its epoch.
func (j *Journal) stopIfMoved(ctx context.Context) error {
	difference, err := CheckIdentity(ctx, j.pool)
	if err != nil || difference == "" {
		return err
	}
	j.cfg.Log.ErrorContext(ctx, "the source may have gone back; commands are refused until an operator begins a new epoch",
		"source", j.cfg.Source, "reason", difference)
	return StopSource(ctx, j.pool, Stop{State: WentBack, Reason: difference})
}

// refusal is what commands get while the source stands still.
func refusal(source, reason string) error {
	return fault.New(fault.KindUnavailable, ReasonSourceWentBack,
		"%s takes no commands: %s; an operator must begin a new epoch (tidemark source new-epoch %s)", source, reason, source).With("source", source)
}
