package projection

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// answerWithin is what a call leaves of its deadline to answer in.
const (
	answerWithin = 500 * time.Millisecond
	watchTick    = 250 * time.Millisecond
)

// await waits for an operation as long as the call may take. One that failed is
// an error with its report; one that goes on is answered as it stands.
func (s *generationServer[S]) await(ctx context.Context, o operation) (operation, error) {
	deadline := time.Now().Add(30 * time.Second)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	for {
		var err error
		if o, err = s.p.operationOf(ctx, o.id); err != nil {
			return o, err
		}
		if o.finishedAt != nil {
			return o, o.err()
		}
		if time.Until(deadline) < answerWithin {
			return o, nil
		}
		if err := rest(ctx, watchTick/2); err != nil {
			return o, err
		}
	}
}

// err is why an operation failed.
func (o *operation) err() error {
	if o.state != opFailed {
		return nil
	}
	f := fault.New(fault.KindFailedPrecondition, fault.Reason(o.code), "%s", o.failure).With("operation", o.id)
	if o.report == nil {
		return f
	}
	return rpc.WithDetails(f, o.report.proto())
}

// GetOperation implements readmodel.v1.GenerationService.
func (s *generationServer[S]) GetOperation(ctx context.Context, r *readmodelv1.GetOperationRequest) (*readmodelv1.GetOperationResponse, error) {
	o, err := s.p.operationOf(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &readmodelv1.GetOperationResponse{Operation: o.proto()}, nil
}

// placeOf is where a page of operations ended.
type placeOf struct {
	At time.Time `json:"a"`
	ID string    `json:"i"`
}

// ListOperations implements readmodel.v1.GenerationService.
func (s *generationServer[S]) ListOperations(ctx context.Context, r *readmodelv1.ListOperationsRequest) (*readmodelv1.ListOperationsResponse, error) {
	found, next, err := rpc.Page(s.p.pager, r, rpc.List[operation, placeOf]{
		Start: placeOf{At: time.Now().AddDate(100, 0, 0)},
		Bound: "operations of " + s.p.view.Name,
		Read: func(behind placeOf, limit int) ([]operation, error) {
			return s.p.operations(ctx, `WHERE view = $1 AND (created_at, id) < ($2, $3) AND (NOT $4 OR finished_at IS NULL)
				ORDER BY created_at DESC, id DESC LIMIT $5`, s.p.view.Name, behind.At, behind.ID, r.GetUnfinished(), limit)
		},
		Place: func(o operation) placeOf { return placeOf{o.createdAt, o.id} },
	})
	if err != nil {
		return nil, err
	}
	answer := &readmodelv1.ListOperationsResponse{NextPageToken: next}
	for _, o := range found {
		answer.Operations = append(answer.Operations, o.proto())
	}
	return answer, nil
}

// WatchOperation implements readmodel.v1.GenerationService.
func (s *generationServer[S]) WatchOperation(r *readmodelv1.WatchOperationRequest, stream grpc.ServerStreamingServer[readmodelv1.WatchOperationResponse]) error {
	ctx := stream.Context()
	var last time.Time
	for {
		o, err := s.p.operationOf(ctx, r.GetId())
		if err != nil {
			return err
		}
		if !o.updatedAt.Equal(last) {
			last = o.updatedAt
			if err := stream.Send(&readmodelv1.WatchOperationResponse{Operation: o.proto()}); err != nil {
				return err
			}
		}
		if o.finishedAt != nil {
			return nil
		}
		if err := rest(ctx, watchTick); err != nil {
			return err
		}
	}
}

// PauseOperation implements readmodel.v1.GenerationService.
func (s *generationServer[S]) PauseOperation(ctx context.Context, r *readmodelv1.PauseOperationRequest) (*readmodelv1.PauseOperationResponse, error) {
	o, err := s.p.turn(ctx, r.GetId(), opPaused, opRunning)
	if err != nil {
		return nil, err
	}
	return &readmodelv1.PauseOperationResponse{Operation: o.proto()}, nil
}

// ResumeOperation implements readmodel.v1.GenerationService.
func (s *generationServer[S]) ResumeOperation(ctx context.Context, r *readmodelv1.ResumeOperationRequest) (*readmodelv1.ResumeOperationResponse, error) {
	o, err := s.p.turn(ctx, r.GetId(), opRunning, opPaused)
	if err != nil {
		return nil, err
	}
	return &readmodelv1.ResumeOperationResponse{Operation: o.proto()}, nil
}

// CancelOperation implements readmodel.v1.GenerationService.
func (s *generationServer[S]) CancelOperation(ctx context.Context, r *readmodelv1.CancelOperationRequest) (*readmodelv1.CancelOperationResponse, error) {
	o, err := s.p.turn(ctx, r.GetId(), opCancelling, opRunning, opPaused)
	if err != nil {
		return nil, err
	}
	return &readmodelv1.CancelOperationResponse{Operation: o.proto()}, nil
}

// proto writes an operation for a caller.
func (o *operation) proto() *readmodelv1.Operation {
	if o.createdAt.IsZero() {
		return nil
	}
	m := &readmodelv1.Operation{
		Id: o.id, Kind: readmodelv1.OperationKind(readmodelv1.OperationKind_value["OPERATION_KIND_"+o.kind]),
		State:      readmodelv1.OperationState(readmodelv1.OperationState_value["OPERATION_STATE_"+o.state]),
		Generation: o.generation, Base: o.baseName, Phase: o.phase, Done: o.done, Total: o.total, Rate: o.rate,
		Error: o.failure, RequestedBy: o.requestedBy, Reason: o.reason, CreatedAt: timestamppb.New(o.createdAt), FinishedAt: stamp(o.finishedAt),
	}
	if o.finishedAt == nil {
		m.Holder = o.holder
		if eta, ok := o.eta(); ok {
			m.Eta = durationpb.New(eta)
		}
	}
	if o.report != nil {
		m.Report = o.report.proto()
	}
	return m
}

func (r *Report) proto() *readmodelv1.GateReport {
	m := &readmodelv1.GateReport{
		Generation: r.Generation, Base: r.Base, OrdersCompared: r.OrdersCompared, RowsCompared: r.RowsCompared, OrdersApart: r.OrdersApart,
		Differing: r.Differing, Expected: r.Expected, SumsChecked: r.SumsChecked, Owners: r.Owners.proto(),
	}
	for _, v := range r.Violations {
		m.Violations = append(m.Violations, &readmodelv1.GateViolation{Check: v.Check, Subject: v.Subject, Description: v.Description})
	}
	for _, d := range r.Differences {
		m.Differences = append(m.Differences, d.proto())
	}
	return m
}

func (d Difference) proto() *readmodelv1.FieldDifference {
	return &readmodelv1.FieldDifference{
		OrderId: d.Order, Table: d.Table, Key: d.Key, Field: d.Field, BaseValue: d.Base, Value: d.Value,
	}
}
