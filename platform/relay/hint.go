package relay

import (
	"context"
	"log/slog"
	"time"
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

// listen takes hints until ctx ends, on a connection of its own.
func (o *owner) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := o.listenOnce(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hints are not heard", slog.Any("error", err)) // the poll does their work
		}
		select {
		case <-ctx.Done():
		case <-time.After(o.tuning.Poll):
		}
	}
}

func (o *owner) listenOnce(ctx context.Context) error {
	pooled, err := o.cfg.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bounded)
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+hintChannel); err != nil {
		return err
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		signal(o.hints.take)
	}
}
