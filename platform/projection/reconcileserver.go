package projection

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// Results of a comparison.
const (
	resultRunning     = "RUNNING"
	resultClean       = "CLEAN"
	resultDifferences = "DIFFERENCES"
)

// reconcileServer is for operators who want to know whether a read model is right.
type reconcileServer[S any] struct {
	readmodelv1.UnimplementedReconcileServiceServer
	p *Projection[S]
}

// StartReconcile implements readmodel.v1.ReconcileService.
func (s *reconcileServer[S]) StartReconcile(ctx context.Context, r *readmodelv1.StartReconcileRequest) (*readmodelv1.StartReconcileResponse, error) {
	if s.p.cfg.Journal == nil {
		return nil, errNoJournal
	}
	o := (&generationServer[S]{p: s.p}).asked(r.GetRequest(), kindReconcile, request{Order: r.GetOrderId()})
	o.schema = s.p.answering().own.schema
	o, err := s.p.begin(ctx, o)
	if err != nil {
		return nil, err
	}
	return &readmodelv1.StartReconcileResponse{Operation: o.proto()}, nil
}

// GetReconciliation implements readmodel.v1.ReconcileService.
func (s *reconcileServer[S]) GetReconciliation(ctx context.Context, _ *readmodelv1.GetReconciliationRequest) (*readmodelv1.GetReconciliationResponse, error) {
	answer := &readmodelv1.GetReconciliationResponse{}
	last, err := s.p.lastReconcile(ctx)
	if err != nil {
		return nil, err
	}
	if last != nil {
		answer.Last = last.proto()
	}
	answer.Continuous, answer.Differences = s.p.rounds.proto()
	return answer, nil
}

// lastReconcile returns the newest comparison of everything, or nil.
func (p *Projection[S]) lastReconcile(ctx context.Context) (*operation, error) {
	found, err := p.operations(ctx, "WHERE view = $1 AND kind = $2 AND coalesce(request ->> 'order', '') = '' ORDER BY created_at DESC LIMIT 1",
		p.view.Name, kindReconcile)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// reconciliation is the short form of a comparison.
func (o *operation) reconciliation() *readmodelv1.Reconciliation {
	if o == nil {
		return nil
	}
	r := &readmodelv1.Reconciliation{StartedAt: timestamppb.New(o.createdAt), FinishedAt: stamp(o.finishedAt), Orders: o.done, Result: resultRunning}
	if o.report != nil {
		r.Orders, r.Differences, r.Owners = o.report.OrdersCompared, o.report.Differing, o.report.Owners.proto()
	}
	switch {
	case o.finishedAt == nil:
	case o.state != opSucceeded:
		r.Result = o.state
	case r.GetDifferences() > 0:
		r.Result = resultDifferences
	default:
		r.Result = resultClean
	}
	return r
}

// proto says what the rounds found; nil before the first order.
func (r *rounds) proto() (*readmodelv1.Reconciliation, []*readmodelv1.OrderDifference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.startedAt.IsZero() {
		return nil, nil
	}
	summary := &readmodelv1.Reconciliation{
		StartedAt: timestamppb.New(r.startedAt), Orders: r.before, Differences: int64(len(r.differ)), Result: resultRunning,
	}
	if r.endedAt.IsZero() {
		summary.Orders, summary.Owners = r.orders, r.owners.proto()
	} else {
		summary.FinishedAt, summary.Result, summary.Owners = timestamppb.New(r.endedAt), resultClean, r.ended.proto()
	}
	if len(r.differ) > 0 {
		summary.Result = resultDifferences
	}
	var all []*readmodelv1.OrderDifference
	for _, d := range r.differ {
		all = append(all, &readmodelv1.OrderDifference{Difference: d.proto(), SeenAt: timestamppb.New(d.at.Truncate(time.Millisecond))})
	}
	slices.SortFunc(all, func(a, b *readmodelv1.OrderDifference) int {
		return strings.Compare(a.GetDifference().GetOrderId()+a.GetDifference().GetTable()+a.GetDifference().GetField(),
			b.GetDifference().GetOrderId()+b.GetDifference().GetTable()+b.GetDifference().GetField())
	})
	return summary, all
}

// differing counts what the rounds found and is still so.
func (r *rounds) differing() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int64(len(r.differ))
}
