package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

const (
	shownWaiting = 100
)

// quarantineServer is what operators do about facts that could not be applied.
type quarantineServer[S any] struct {
	readmodelv1.UnimplementedQuarantineServiceServer
	p *Projection[S]
}

const (
	// parkedHeads are aggregates that stand still, each with the first fact that
	// waits. The filter's empty values pick all.
	parkedHeads = `SELECT q.aggregate_type, q.aggregate_id, q.order_id, q.partition, q.verdict, q.reason, q.since, q.attempts,
			(SELECT count(*) FROM (SELECT FROM parked p WHERE p.aggregate_type = q.aggregate_type AND p.aggregate_id = q.aggregate_id
				AND p.order_id = q.order_id LIMIT 1000) w),
			coalesce(f.version, 0), coalesce(f.event_id, ''), coalesce(f.code_version, 0)` + fromParked + `
		AND (q.aggregate_type, q.aggregate_id, q.order_id) > ($7, $8, $9)
		ORDER BY q.aggregate_type, q.aggregate_id, q.order_id LIMIT $10`
	countParked = `SELECT q.verdict, count(*)` + fromParked + ` GROUP BY q.verdict ORDER BY q.verdict`
	fromParked  = ` FROM quarantine q LEFT JOIN LATERAL (SELECT version, event_id, code_version FROM parked p
			WHERE p.aggregate_type = q.aggregate_type AND p.aggregate_id = q.aggregate_id AND p.order_id = q.order_id
			ORDER BY version LIMIT 1) f ON true
		WHERE ($1 = '' OR q.verdict = $1) AND ($2 = '' OR q.aggregate_type = $2) AND ($3 = '' OR q.order_id = $3)
			AND ($4::integer = 0 OR f.code_version = $4) AND q.since <= now() - $5::interval AND ($6 = '' OR strpos(q.reason, $6) > 0)`
	countUnreadable = `SELECT count(*) FROM parked WHERE aggregate_type = '' AND aggregate_id = ''`
	oneParked       = `SELECT order_id FROM quarantine WHERE aggregate_type = $1 AND aggregate_id = $2 AND ($3 = '' OR order_id = $3) LIMIT 2`
	waitingFacts    = `SELECT version, epoch, event_id, verdict, reason, code_version, parked_at, topic, topic_id, partition, record_offset
		FROM parked WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3 ORDER BY version, epoch LIMIT $4`
)

func filterArgs(f *readmodelv1.ParkedFilter) []any {
	return []any{
		f.GetVerdict(), f.GetAggregateType(), f.GetOrderId(), f.GetCodeVersion(),
		fmt.Sprintf("%d milliseconds", f.GetOlderThan().AsDuration().Milliseconds()), f.GetReason(),
	}
}

// parkedPlace is where a page of parked aggregates ended.
type parkedPlace struct{ Type, ID, Order string }

// listParked reads at most limit aggregates behind a place.
func (p *Projection[S]) listParked(ctx context.Context, f *readmodelv1.ParkedFilter, behind parkedPlace, limit int) ([]*readmodelv1.ParkedAggregate, error) {
	rows, err := p.pool.Query(ctx, parkedHeads, append(filterArgs(f), behind.Type, behind.ID, behind.Order, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list parked aggregates: %w", err)
	}
	page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*readmodelv1.ParkedAggregate, error) {
		a, since := &readmodelv1.ParkedAggregate{}, time.Time{}
		err := r.Scan(&a.AggregateType, &a.AggregateId, &a.OrderId, &a.Partition, &a.Verdict, &a.Reason, &since, &a.Attempts,
			&a.Waiting, &a.Version, &a.EventId, &a.CodeVersion)
		a.Since = timestamppb.New(since)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("list parked aggregates: %w", err)
	}
	return page, nil
}

func parkedPlaceOf(a *readmodelv1.ParkedAggregate) parkedPlace {
	return parkedPlace{a.GetAggregateType(), a.GetAggregateId(), a.GetOrderId()}
}

// ListParked implements readmodel.v1.QuarantineService.
func (s *quarantineServer[S]) ListParked(ctx context.Context, r *readmodelv1.ListParkedRequest) (*readmodelv1.ListParkedResponse, error) {
	p := s.p.answering()
	page, next, err := rpc.Page(p.pager, r, rpc.List[*readmodelv1.ParkedAggregate, parkedPlace]{
		Bound: p.own.String(),
		Read: func(behind parkedPlace, limit int) ([]*readmodelv1.ParkedAggregate, error) {
			return p.listParked(ctx, r.GetFilter(), behind, limit)
		},
		Place: parkedPlaceOf,
	})
	if err != nil {
		return nil, err
	}
	answer := &readmodelv1.ListParkedResponse{Aggregates: page, NextPageToken: next}
	if r.GetPageToken() != "" {
		return answer, nil
	}
	batch := &pgx.Batch{}
	batch.Queue(countParked, filterArgs(r.GetFilter())...).Query(func(rows pgx.Rows) error {
		var verdict string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&verdict, &n}, func() error {
			answer.Classes = append(answer.Classes, &readmodelv1.ClassCount{Verdict: verdict, Aggregates: n})
			return nil
		})
		return err
	})
	batch.Queue(countUnreadable).QueryRow(func(row pgx.Row) error { return row.Scan(&answer.Unreadable) })
	if err := p.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("count parked aggregates: %w", err)
	}
	return answer, nil
}

// find looks up one aggregate that stands still.
func (p *Projection[S]) findParked(ctx context.Context, r *readmodelv1.GetParkedRequest) (*readmodelv1.ParkedAggregate, error) {
	rows, err := p.pool.Query(ctx, oneParked, r.GetAggregateType(), r.GetAggregateId(), r.GetOrderId())
	if err != nil {
		return nil, fmt.Errorf("look for a parked aggregate: %w", err)
	}
	orders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for a parked aggregate: %w", err)
	}
	switch len(orders) {
	case 0:
		return nil, fault.NotFound("parked aggregate", r.GetAggregateType()+"/"+r.GetAggregateId())
	case 2:
		return nil, fault.Invalid("order_id", "the aggregate is parked under several orders: name one")
	}
	page, err := p.listParked(ctx, &readmodelv1.ParkedFilter{AggregateType: r.GetAggregateType(), OrderId: orders[0]},
		parkedPlace{r.GetAggregateType(), r.GetAggregateId(), ""}, 1)
	if err != nil {
		return nil, err
	}
	if len(page) == 0 || page[0].GetAggregateId() != r.GetAggregateId() {
		return nil, fault.NotFound("parked aggregate", r.GetAggregateType()+"/"+r.GetAggregateId())
	}
	return page[0], nil
}

// GetParked implements readmodel.v1.QuarantineService.
func (s *quarantineServer[S]) GetParked(ctx context.Context, r *readmodelv1.GetParkedRequest) (*readmodelv1.GetParkedResponse, error) {
	p := s.p.answering()
	a, err := p.findParked(ctx, r)
	if err != nil {
		return nil, err
	}
	answer := &readmodelv1.GetParkedResponse{Aggregate: a}
	if answer.Waiting, err = p.waitingBehind(ctx, a); err != nil {
		return nil, err
	}
	if answer.Fact, err = p.readAgain(ctx, a); err != nil {
		answer.FactError = fold.Clean(err.Error())
	}
	answer.Retry = p.retryOne(ctx, a, true)
	answer.AppliedVersion = answer.GetRetry().GetVersionBefore()
	return answer, ctx.Err()
}

func (p *Projection[S]) waitingBehind(ctx context.Context, a *readmodelv1.ParkedAggregate) ([]*readmodelv1.WaitingFact, error) {
	rows, err := p.pool.Query(ctx, waitingFacts, a.GetAggregateType(), a.GetAggregateId(), a.GetOrderId(), shownWaiting)
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	facts, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*readmodelv1.WaitingFact, error) {
		f, at := &readmodelv1.WaitingFact{}, time.Time{}
		err := r.Scan(&f.Version, &f.Epoch, &f.EventId, &f.Verdict, &f.Reason, &f.CodeVersion, &at, &f.Topic, &f.TopicId, &f.Partition, &f.Offset)
		f.ParkedAt = timestamppb.New(at)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	return facts, nil
}

// errNoJournal says that nobody can be asked for a fact.
var errNoJournal = fault.New(fault.KindFailedPrecondition, fault.ReasonRuleViolated, "this program asks no owner's journal, so it cannot read a fact again")

// readAgain reads the first fact that waits from its owner's journal.
func (p *Projection[S]) readAgain(ctx context.Context, a *readmodelv1.ParkedAggregate) (*readmodelv1.DecodedFact, error) {
	if p.cfg.Journal == nil {
		return nil, errNoJournal
	}
	facts, err := p.cfg.Journal.Events(ctx, aggregateNamed(a), a.GetVersion(), a.GetVersion())
	if err != nil {
		return nil, fmt.Errorf("fetch from the owner: %w", err)
	}
	if len(facts) == 0 {
		return nil, errStillMissing
	}
	f := facts[0]
	shown := &readmodelv1.DecodedFact{
		Type: f.Type, SchemaVersion: int32(f.SchemaVersion), OccurredAt: timestamppb.New(f.OccurredAt), RecordedAt: timestamppb.New(f.RecordedAt),
		CausationId: f.CausationID, Traceparent: f.TraceParent,
	}
	if f.ID != a.GetEventId() {
		return shown, fmt.Errorf("the owner has event %s at this version", f.ID)
	}
	if f.Body == nil {
		return shown, errUnreadable
	}
	text, err := json.Marshal(withoutPersonal(f.Body))
	if err != nil {
		return shown, fmt.Errorf("show the fact: %w", err)
	}
	shown.Body = fold.Clean(string(text))
	return shown, nil
}

func aggregateNamed(a *readmodelv1.ParkedAggregate) event.Aggregate {
	return event.Aggregate{Type: a.GetAggregateType(), ID: a.GetAggregateId()}
}
