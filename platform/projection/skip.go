package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// A skip gives up one fact that code could not apply. It belongs to the view, not
// to a generation: whichever generation parks the fact honours it. A generation
// whose code can apply the fact never parks it, and so applies it.

// skipSchema is part of the catalog.
const skipSchema = `
CREATE TABLE IF NOT EXISTS tidemark.skip (
	id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name           text        NOT NULL,
	aggregate_type text        NOT NULL,
	aggregate_id   text        NOT NULL,
	order_id       text        NOT NULL,
	version        bigint      NOT NULL,
	event_id       text        NOT NULL,
	reason         text        NOT NULL,
	actor          text        NOT NULL,
	fault          text        NOT NULL,
	generation     text        NOT NULL,
	skipped_at     timestamptz NOT NULL DEFAULT now(),
	UNIQUE (name, aggregate_type, aggregate_id, order_id, version, event_id)
);`

const (
	insertSkip = `INSERT INTO tidemark.skip (name, aggregate_type, aggregate_id, order_id, version, event_id, reason, actor, fault, generation)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`
	firstWaiting = `SELECT epoch, version, event_id, verdict, reason FROM parked
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 ORDER BY version, epoch LIMIT 1`
	dueSkips = `SELECT q.aggregate_type, q.aggregate_id, q.order_id, q.partition, q.attempts, q.verdict, s.event_id
		FROM tidemark.skip s
		JOIN quarantine q ON q.aggregate_type = s.aggregate_type AND q.aggregate_id = s.aggregate_id AND q.order_id = s.order_id
		JOIN parked p ON p.aggregate_type = s.aggregate_type AND p.aggregate_id = s.aggregate_id AND p.order_id = s.order_id
			AND p.version = s.version AND p.event_id = s.event_id AND p.verdict IN ('poison', 'too_large')
		WHERE s.name = $1 AND q.verdict IN ('poison', 'too_large') AND q.next_attempt_at <= now() LIMIT $2`
	selectSkips = `SELECT id, aggregate_type, aggregate_id, order_id, version, event_id, reason, actor, skipped_at, fault, generation
		FROM tidemark.skip WHERE name = $1 AND ($2::bigint = 0 OR id < $2) ORDER BY id DESC LIMIT $3`
)

// parkedHead is the first fact of an aggregate that waits.
type parkedHead struct {
	token   event.Token
	verdict fold.Verdict
	reason  string
}

// errNotFirst says that another fact is to be applied next.
var errNotFirst = fault.New(fault.KindFailedPrecondition, fault.ReasonConflict, "this is not the fact that the aggregate stands still at: look again")

// giveUp takes the fact that an aggregate stands still at as applied, and folds
// nothing for it. What waits behind it waits as behind a gap, which heals.
func (h *held[S]) giveUp(ctx context.Context, g gap, eventID string) (head parkedHead, err error) {
	head.token.Aggregate = g.aggregate
	err = h.tx.QueryRow(ctx, firstWaiting, g.aggregate.Type, g.aggregate.ID, g.order).
		Scan(&head.token.Epoch, &head.token.Version, &head.token.EventID, &head.verdict, &head.reason)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && head.token.EventID != eventID {
		return head, errNotFirst
	}
	if err != nil {
		return head, fmt.Errorf("look for what waits: %w", err)
	}
	if head.verdict != fold.Poison && head.verdict != fold.TooLarge {
		return head, fault.New(fault.KindFailedPrecondition, fault.ReasonRuleViolated,
			"only a fact that code could not apply can be skipped; this one is parked as %s", head.verdict)
	}
	h.reopened, h.skips = &g, true
	void := event.Fact{
		Envelope: event.Envelope{
			ID: eventID, Source: g.aggregate.Type, Aggregate: g.aggregate, Version: head.token.Version, Epoch: head.token.Epoch, Key: g.order,
			Partition: h.number,
		},
		Body: &control.FactVoided{},
	}
	if _, err := h.feed(ctx, []event.Fact{void}); err != nil {
		return head, err
	}
	if h.stands(g, fold.Applied{}).version != head.token.Version {
		return head, errNotFirst // a version before it is missing
	}
	return head, nil
}

// SkipParked implements readmodel.v1.QuarantineService.
func (s *quarantineServer[S]) SkipParked(ctx context.Context, r *readmodelv1.SkipParkedRequest) (*readmodelv1.SkipParkedResponse, error) {
	p := s.p.answering()
	a, err := p.findParked(ctx, r.GetAggregate())
	if err != nil {
		return nil, err
	}
	g := gap{aggregate: aggregateNamed(a), order: a.GetOrderId(), partition: a.GetPartition(), verdict: fold.Verdict(a.GetVerdict())}
	err = p.hold(ctx, g.partition, func(h *held[S]) error {
		head, err := h.giveUp(ctx, g, r.GetEventId())
		if err != nil {
			return err
		}
		if r.GetDryRun() {
			return errRehearsed
		}
		h.batch.Queue(insertSkip, p.view.Name, g.aggregate.Type, g.aggregate.ID, g.order, head.token.Version, head.token.EventID,
			fold.Clean(r.GetReason()), fold.Clean(r.GetActor()), head.reason, p.own.String())
		return nil
	})
	if err != nil && !errors.Is(err, errRehearsed) {
		return nil, err
	}
	if err == nil {
		p.cfg.Log.WarnContext(ctx, "a fact was skipped", "generation", p.own.String(), "aggregate", g.aggregate.String(),
			"event", r.GetEventId(), "actor", r.GetActor())
		poke(p.gaps)
	}
	return &readmodelv1.SkipParkedResponse{Aggregate: a, Behind: max(a.GetWaiting()-1, 0)}, nil
}

// honourSkips gives up what this generation parked and an operator had skipped,
// in another generation or before a refold.
func (p *Projection[S]) honourSkips(ctx context.Context) error {
	rows, err := p.pool.Query(ctx, dueSkips, p.view.Name, healBatch)
	if err != nil {
		return fmt.Errorf("look for skipped facts: %w", err)
	}
	type due struct {
		gap
		eventID string
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (d due, err error) {
		err = r.Scan(&d.aggregate.Type, &d.aggregate.ID, &d.order, &d.partition, &d.attempts, &d.verdict, &d.eventID)
		return d, err
	})
	if err != nil {
		return fmt.Errorf("look for skipped facts: %w", err)
	}
	for _, d := range all {
		err := p.hold(ctx, d.partition, func(h *held[S]) error {
			_, err := h.giveUp(ctx, d.gap, d.eventID)
			return err
		})
		if err != nil {
			if err := p.postpone(ctx, d.gap, err); err != nil {
				return err
			}
			continue
		}
		p.cfg.Log.InfoContext(ctx, "a fact that was skipped before is skipped here too", "generation", p.own.String(),
			"aggregate", d.aggregate.String(), "event", d.eventID)
		poke(p.gaps)
	}
	return nil
}

// listedSkip is a skipped fact and its place in the list.
type listedSkip struct {
	*readmodelv1.SkippedFact
	id int64
}

// ListSkipped implements readmodel.v1.QuarantineService.
func (s *quarantineServer[S]) ListSkipped(ctx context.Context, r *readmodelv1.ListSkippedRequest) (*readmodelv1.ListSkippedResponse, error) {
	p := s.p.answering()
	page, next, err := rpc.Page(p.pager, r, rpc.List[listedSkip, int64]{
		Read: func(behind int64, limit int) ([]listedSkip, error) {
			rows, err := p.pool.Query(ctx, selectSkips, p.view.Name, behind, limit)
			if err != nil {
				return nil, fmt.Errorf("list skipped facts: %w", err)
			}
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (listedSkip, error) {
				f, at := listedSkip{SkippedFact: &readmodelv1.SkippedFact{}}, time.Time{}
				err := row.Scan(&f.id, &f.AggregateType, &f.AggregateId, &f.OrderId, &f.Version, &f.EventId, &f.Reason, &f.Actor, &at, &f.Fault, &f.Generation)
				f.SkippedAt = timestamppb.New(at)
				return f, err
			})
		},
		Place: func(f listedSkip) int64 { return f.id },
	})
	if err != nil {
		return nil, err
	}
	answer := &readmodelv1.ListSkippedResponse{NextPageToken: next}
	for _, f := range page {
		answer.Skipped = append(answer.Skipped, f.SkippedFact)
	}
	return answer, nil
}
