package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// order is what an operator wants and why.
type order struct {
	reason, actor string
	dryRun        bool
}

// errDryRun rolls a transaction back that was only tried.
var errDryRun = errors.New("dry run")

// change runs fn in one transaction, which a dry run takes back.
func (j *Journal) change(ctx context.Context, o order, action, subject string, fn func(tx pgx.Tx) error) error {
	err := postgres.InTx(ctx, j.pool, func(tx pgx.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if o.dryRun {
			return errDryRun
		}
		if _, err := tx.Exec(ctx, `INSERT INTO operator_log (actor, action, subject, reason) VALUES ($1, $2, $3, $4)`,
			o.actor, action, subject, o.reason); err != nil {
			return fmt.Errorf("keep what was done: %w", err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errDryRun):
		return nil
	case err != nil:
		return Explain(fmt.Errorf("%s: %w", action, err))
	}
	j.cfg.Log.InfoContext(ctx, "an operator acted", "source", j.cfg.Source, "action", action, "subject", subject, "actor", o.actor)
	j.signal()
	return nil
}

// minted is an epoch that begins, and how many events are in it from the start.
type minted struct {
	epoch, predecessor string
	events             int64
}

// newEpoch begins an epoch in which everything is that is not in the topic yet.
// What lies in the topic stays in its own; totals start at zero. Commands that
// are under way are waited for; those that decided in the old epoch but have
// not written yet fail once and run again.
func (j *Journal) newEpoch(ctx context.Context, o order, force bool) (m minted, err error) {
	err = j.change(ctx, o, "new-epoch", j.cfg.Source, func(tx pgx.Tx) error {
		stop, err := j.standStill(ctx, tx)
		switch {
		case err != nil:
			return err
		case stop == nil && !force:
			return fault.New(fault.KindFailedPrecondition, "SOURCE_RUNNING", "%s is running: nothing says that its database went back; force begins an epoch all the same", j.cfg.Source)
		case stop != nil && stop.State == TopicReplaced && !force:
			return fault.New(fault.KindFailedPrecondition, TopicReplaced, "the topic of %s was replaced: republish, do not begin an epoch", j.cfg.Source)
		}
		if m, err = j.mint(ctx, tx, stop); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE journal j SET epoch = $1
			  FROM (SELECT sequence FROM outbox UNION SELECT sequence FROM blocked) u WHERE j.sequence = u.sequence`, m.epoch)
		if err != nil {
			return fmt.Errorf("restamp what is unsent: %w", err)
		}
		m.events = tag.RowsAffected()
		_, err = tx.Exec(ctx, `DELETE FROM source_stop`)
		return err
	})
	return m, err
}

// republish begins an epoch in which all events are, and queues all of them in
// the order of their sequence: for a topic that was lost and made again.
func (j *Journal) republish(ctx context.Context, o order) (m minted, err error) {
	err = j.change(ctx, o, "republish", j.cfg.Source, func(tx pgx.Tx) error {
		stop, err := j.standStill(ctx, tx)
		switch {
		case err != nil:
			return err
		case stop == nil || stop.State != TopicReplaced:
			return fault.New(fault.KindFailedPrecondition, "TOPIC_NOT_REPLACED", "the topic of %s is the one it was: publishing again would only double everything", j.cfg.Source)
		}
		if m, err = j.mint(ctx, tx, stop); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE journal SET epoch = $1`, m.epoch); err != nil {
			return fmt.Errorf("restamp the journal: %w", err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO outbox (partition, sequence) SELECT partition, sequence FROM journal j
			 WHERE NOT EXISTS (SELECT FROM blocked b WHERE b.sequence = j.sequence) ON CONFLICT DO NOTHING`); err != nil {
			return fmt.Errorf("queue the journal: %w", err)
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM outbox`).Scan(&m.events); err != nil {
			return fmt.Errorf("count what is queued: %w", err)
		}
		for _, sql := range []string{`DELETE FROM source_topic`, `UPDATE control_totals SET control_offset = -1`, `DELETE FROM source_stop`} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("forget the lost topic: %w", err)
			}
		}
		return nil
	})
	return m, err
}

// standStill waits for commands that are writing, keeps others from it, and
// takes all partitions from the relays, until tx ends. It returns why the source
// is stopped, or nil.
func (j *Journal) standStill(ctx context.Context, tx pgx.Tx) (*Stop, error) {
	if _, err := tx.Exec(ctx, `LOCK TABLE journal IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		return nil, fmt.Errorf("wait for commands: %w", err)
	}
	if err := fence(ctx, tx, nil); err != nil {
		return nil, err
	}
	var s Stop
	err := tx.QueryRow(ctx, `SELECT state, reason, newest_epoch FROM source_stop FOR UPDATE`).Scan(&s.State, &s.Reason, &s.NewestEpoch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read whether the source is stopped: %w", err)
	}
	return &s, nil
}

// mint stores the next epoch. It is newer than every epoch of the database and
// than the newest in the topic, which a restored database may know nothing of.
func (j *Journal) mint(ctx context.Context, tx pgx.Tx, stop *Stop) (m minted, err error) {
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp(), coalesce((SELECT epoch FROM source_epoch ORDER BY ordinal DESC LIMIT 1), '')`).
		Scan(&now, &m.predecessor); err != nil {
		return m, fmt.Errorf("read the epochs: %w", err)
	}
	if stop != nil {
		m.predecessor = max(m.predecessor, stop.NewestEpoch)
	}
	if m.epoch, err = event.NewEpoch(now, m.predecessor); err != nil {
		return m, err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO source_epoch (epoch, predecessor, system_identifier, timeline)
		SELECT $1, $2, `+systemIdentifier+`, `+timeline, m.epoch, m.predecessor); err != nil {
		return m, fmt.Errorf("store the epoch: %w", err)
	}
	return m, nil
}

// mintFirstEpoch stamps the source with its first epoch, and with the identity
// of the database, so that a restored copy can be told from its original.
func (j *Journal) mintFirstEpoch(ctx context.Context) error {
	err := postgres.InTx(ctx, j.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE source_epoch IN EXCLUSIVE MODE`); err != nil {
			return fmt.Errorf("lock the epochs: %w", err)
		}
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM source_epoch)`).Scan(&exists); err != nil || exists {
			return err
		}
		_, err := j.mint(ctx, tx, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("mint the first epoch of %s: %w", j.cfg.Source, err)
	}
	return nil
}
