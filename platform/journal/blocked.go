package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

const (
	defaultBlockedPage = 100
	// maxBlockedEvents is how many waiting events of one aggregate are shown.
	maxBlockedEvents = 100

	selectBlocked = `
		SELECT b.aggregate_type, b.aggregate_id, f.partition, b.since, f.reason, j.event_id::text, j.version, j.name, b.events, f.sequence
		  FROM (SELECT aggregate_type, aggregate_id, min(blocked_at) AS since, min(sequence) AS first, count(*) AS events
		          FROM blocked GROUP BY 1, 2) b
		  JOIN blocked f ON f.sequence = b.first
		  JOIN journal j ON j.sequence = b.first`
)

// waiting is a blocked aggregate and the sequence of the event that cannot be sent.
type waiting struct {
	*journalpb.BlockedAggregate
	sequence int64
}

func scanWaiting(row pgx.CollectableRow) (waiting, error) {
	w := waiting{BlockedAggregate: &journalpb.BlockedAggregate{}}
	var since time.Time
	err := row.Scan(&w.AggregateType, &w.AggregateId, &w.Partition, &since, &w.Reason, &w.EventId, &w.Version, &w.Type, &w.Events, &w.sequence)
	w.Since = timestamppb.New(since)
	return w, err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func readWaiting(ctx context.Context, q querier, kind, id string) (waiting, error) {
	rows, err := q.Query(ctx, selectBlocked+` WHERE b.aggregate_type = $1 AND b.aggregate_id = $2`, kind, id)
	if err != nil {
		return waiting{}, Explain(fmt.Errorf("read what is blocked: %w", err))
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWaiting)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return w, fault.NotFound("blocked "+kind, id)
	case err != nil:
		return w, Explain(fmt.Errorf("read what is blocked: %w", err))
	}
	return w, nil
}

// ListBlocked returns the aggregates whose events cannot be sent.
func (a *Admin) ListBlocked(ctx context.Context, r *journalpb.ListBlockedRequest) (*journalpb.ListBlockedResponse, error) {
	all, next, err := rpc.Page(a.pager, r, rpc.List[waiting, headPosition]{
		Default: defaultBlockedPage,
		Read: func(behind headPosition, limit int) ([]waiting, error) {
			rows, err := a.journal.pool.Query(ctx, selectBlocked+` WHERE (b.aggregate_type, b.aggregate_id) > ($1, $2)
				ORDER BY b.aggregate_type, b.aggregate_id LIMIT $3`, behind.Type, behind.ID, limit)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, scanWaiting)
		},
		Place: func(w waiting) headPosition { return headPosition{w.GetAggregateType(), w.GetAggregateId()} },
	})
	if err != nil {
		return nil, Explain(fmt.Errorf("list what is blocked: %w", err))
	}
	response := &journalpb.ListBlockedResponse{NextPageToken: next}
	for _, w := range all {
		response.Aggregates = append(response.Aggregates, w.BlockedAggregate)
	}
	return response, nil
}

// GetBlocked returns one blocked aggregate and its first events that wait.
func (a *Admin) GetBlocked(ctx context.Context, r *journalpb.GetBlockedRequest) (*journalpb.GetBlockedResponse, error) {
	w, err := readWaiting(ctx, a.journal.pool, r.GetAggregateType(), r.GetAggregateId())
	if err != nil {
		return nil, err
	}
	rows, err := a.journal.pool.Query(ctx, `
		SELECT j.event_id::text, j.version, j.name, j.schema_version, octet_length(j.payload), b.reason, j.recorded_at, j.sequence
		  FROM blocked b JOIN journal j USING (sequence)
		 WHERE b.aggregate_type = $1 AND b.aggregate_id = $2 ORDER BY sequence LIMIT $3`, r.GetAggregateType(), r.GetAggregateId(), maxBlockedEvents)
	if err != nil {
		return nil, Explain(fmt.Errorf("read the events that wait: %w", err))
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*journalpb.BlockedEvent, error) {
		e := &journalpb.BlockedEvent{}
		var recorded time.Time
		err := row.Scan(&e.Id, &e.Version, &e.Type, &e.SchemaVersion, &e.PayloadBytes, &e.Reason, &recorded, &e.Sequence)
		e.RecordedAt = timestamppb.New(recorded)
		return e, err
	})
	if err != nil {
		return nil, Explain(fmt.Errorf("read the events that wait: %w", err))
	}
	return &journalpb.GetBlockedResponse{Aggregate: w.BlockedAggregate, Events: events}, nil
}

// MendBlocked sends a blocked aggregate's events again, as they are. If the
// cause is still there they are blocked again.
func (a *Admin) MendBlocked(ctx context.Context, r *journalpb.MendBlockedRequest) (*journalpb.MendBlockedResponse, error) {
	w, err := a.unblock(ctx, order{reason: r.GetReason(), actor: r.GetActor(), dryRun: r.GetDryRun()}, "mend", r.GetAggregateType(), r.GetAggregateId(),
		func(pgx.Tx, waiting) error { return nil })
	if err != nil {
		return nil, err
	}
	return &journalpb.MendBlockedResponse{Aggregate: w.BlockedAggregate}, nil
}

// ReleaseBlocked gives up the event that cannot be sent.
func (a *Admin) ReleaseBlocked(ctx context.Context, r *journalpb.ReleaseBlockedRequest) (*journalpb.ReleaseBlockedResponse, error) {
	o := order{reason: r.GetReason(), actor: r.GetActor(), dryRun: r.GetDryRun()}
	w, err := a.unblock(ctx, o, "release", r.GetAggregateType(), r.GetAggregateId(), func(tx pgx.Tx, w waiting) error {
		if w.GetEventId() != r.GetEventId() {
			return fault.New(fault.KindFailedPrecondition, "OTHER_EVENT_BLOCKED", "the event of %s/%s that cannot be sent is %s, not %s",
				w.GetAggregateType(), w.GetAggregateId(), w.GetEventId(), r.GetEventId())
		}
		return a.journal.void(ctx, tx, w, o)
	})
	if err != nil {
		return nil, err
	}
	return &journalpb.ReleaseBlockedResponse{Aggregate: w.BlockedAggregate}, nil
}

// unblock puts what waits behind a bad event back into the unsent set, in its
// old order, after change did something about that event. The partition is
// taken from its relay meanwhile: a batch that was read before cannot set later
// events of the aggregate aside after its first are on their way again.
func (a *Admin) unblock(ctx context.Context, o order, action, kind, id string, change func(pgx.Tx, waiting) error) (w waiting, err error) {
	err = a.journal.change(ctx, o, action, kind+"/"+id, func(tx pgx.Tx) (err error) {
		if w, err = readWaiting(ctx, tx, kind, id); err != nil {
			return err
		}
		if err := fence(ctx, tx, &w.Partition); err != nil {
			return err
		}
		// Nothing is blocked or sent any more; read again what is.
		if w, err = readWaiting(ctx, tx, kind, id); err != nil {
			return err
		}
		if err := change(tx, w); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			WITH back AS (DELETE FROM blocked WHERE aggregate_type = $1 AND aggregate_id = $2 RETURNING partition, sequence)
			INSERT INTO outbox (partition, sequence) SELECT partition, sequence FROM back`, kind, id); err != nil {
			return fmt.Errorf("put the events back: %w", err)
		}
		return nil
	})
	return w, err
}

// void lets a void fact with the identity of a fact stand in its place, and
// keeps the original.
func (j *Journal) void(ctx context.Context, tx pgx.Tx, w waiting, o order) error {
	var now time.Time
	var original int32
	if err := tx.QueryRow(ctx, `
		INSERT INTO voided (sequence, name, schema_version, payload, reason, actor, voided_at)
		SELECT sequence, name, schema_version, payload, $2, $3, clock_timestamp() FROM journal WHERE sequence = $1
		RETURNING schema_version, voided_at`, w.sequence, o.reason, o.actor).Scan(&original, &now); err != nil {
		return fmt.Errorf("keep the original: %w", err)
	}
	name, version, payload, err := j.cfg.Codec.Encode(&control.FactVoided{
		OriginalName: w.GetType(), OriginalVersion: original, Reason: o.reason, Actor: o.actor, VoidedAt: now.UTC(),
	})
	if err != nil {
		return fmt.Errorf("encode the void fact: %w", err)
	}
	if _, err := tx.Exec(ctx, `UPDATE journal SET name = $2, schema_version = $3, payload = $4 WHERE sequence = $1`, w.sequence, name, version, payload); err != nil {
		return fmt.Errorf("put the void fact in place: %w", err)
	}
	return nil
}
