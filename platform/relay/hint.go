package relay

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// hintChannel is what the relays of one database tell each other on.
const hintChannel = "tidemark_relay"

// hints carry wake-ups between the relays of a source: a process whose commit
// belongs to another's partition says so, outside the transaction and many
// commits at once, because a NOTIFY inside it would line up all commits. A hint
// that is lost costs one poll interval.
type hints struct {
	give chan struct{} // to the others
	take chan struct{} // from the others
}

func newHints() hints { return hints{give: make(chan struct{}, 1), take: make(chan struct{}, 1)} }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// hint passes a wake-up of this process on if some partitions are not ours.
func (o *owner) hint() {
	if len(o.shards) < int(o.cfg.Kafka.PartitionCount()) {
		signal(o.hints.give)
	}
}

// tell sends hints until ctx ends, with a pause after each in which more gather.
func (o *owner) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.hints.give:
		}
		if _, err := o.cfg.Pool.Exec(ctx, `SELECT pg_notify($1, '')`, hintChannel); err != nil {
			o.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hint not sent", slog.Any("error", err)) // the poll finds it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * o.tuning.Coalesce):
		}
	}
}

// listen takes hints on the relay's session until ctx ends, and opens another
// session where one breaks.
func (o *owner) listen(ctx context.Context, session *pgx.Conn) {
	for {
		if session != nil {
			o.hear(ctx, session)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(o.tuning.Poll):
		}
		var err error
		if session, err = o.session(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hints are not heard", slog.Any("error", err)) // the poll does their work
		}
	}
}

// session opens the connection on which hints arrive and which shows that this
// relay lives, see leases.
func (r *Relay) session(ctx context.Context) (*pgx.Conn, error) {
	pooled, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	conn := pooled.Hijack()
	var batch pgx.Batch
	batch.Queue(showAlive, r.leases.holder)
	batch.Queue(`LISTEN ` + hintChannel)
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		closeSession(ctx, conn)
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return conn, nil
}

func closeSession(ctx context.Context, conn *pgx.Conn) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(bounded) // it is gone either way
}

// hear takes hints until the session breaks or ctx ends.
func (o *owner) hear(ctx context.Context, session *pgx.Conn) {
	defer closeSession(ctx, session)
	for {
		if _, err := session.WaitForNotification(ctx); err != nil {
			if ctx.Err() == nil {
				o.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hints are not heard", slog.Any("error", err))
			}
			return
		}
		signal(o.hints.take)
	}
}
