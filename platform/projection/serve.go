package projection

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// Register adds what every read model serves beside its own queries: its
// contract and how it stands, for those who read it, and what its operators may
// do.
func (p *Projection[S]) Register(s grpc.ServiceRegistrar) {
	readmodelv1.RegisterReadModelServiceServer(s, &readModelServer[S]{p: p})
	p.registerGenerations(s)
	readmodelv1.RegisterQuarantineServiceServer(s, &quarantineServer[S]{p: p})
	readmodelv1.RegisterReconcileServiceServer(s, &reconcileServer[S]{p: p})
}

// readModelServer serves the contract.
type readModelServer[S any] struct {
	readmodelv1.UnimplementedReadModelServiceServer
	p *Projection[S]
}

// ListReadModels implements readmodel.v1.ReadModelService.
func (s *readModelServer[S]) ListReadModels(ctx context.Context, _ *readmodelv1.ListReadModelsRequest) (*readmodelv1.ListReadModelsResponse, error) {
	now, err := s.p.standing(ctx)
	if err != nil {
		return nil, err
	}
	m := &readmodelv1.ReadModel{Name: s.p.view.Name, Answering: now.GetAnswering(), Paused: now.GetPaused() != ""}
	if c := s.p.contract; c != nil {
		m.Question, m.Owner = c.Question, c.Owner
	}
	known := len(now.GetSources()) > 0
	var worst time.Duration
	for _, source := range now.GetSources() {
		known = known && source.GetStaleness() != nil
		worst = max(worst, source.GetStaleness().AsDuration())
		m.Completeness = max(m.Completeness, source.GetCompleteness())
	}
	if known {
		m.Staleness = durationpb.New(worst)
	}
	for _, class := range now.GetParked() {
		m.Parked += class.GetAggregates()
	}
	return &readmodelv1.ListReadModelsResponse{ReadModels: []*readmodelv1.ReadModel{m}}, nil
}

// DescribeReadModel implements readmodel.v1.ReadModelService.
func (s *readModelServer[S]) DescribeReadModel(ctx context.Context, r *readmodelv1.DescribeReadModelRequest) (*readmodelv1.DescribeReadModelResponse, error) {
	if r.GetName() != "" && r.GetName() != s.p.view.Name {
		return nil, fault.New(fault.KindNotFound, fault.ReasonNotFound, "no read model %s here, only %s", r.GetName(), s.p.view.Name)
	}
	now, err := s.p.standing(ctx)
	if err != nil {
		return nil, err
	}
	return &readmodelv1.DescribeReadModelResponse{Contract: s.p.contract.Proto(), Standing: now}, nil
}

const (
	parkedClasses = `SELECT verdict, count(*), min(since) FROM quarantine GROUP BY verdict ORDER BY verdict`
	statusOf      = `SELECT status FROM tidemark.generation WHERE schema = $1`
)

// standing says how the read model stands. It answers while nothing can be read.
func (p *Projection[S]) standing(ctx context.Context) (*readmodelv1.Standing, error) {
	head := p
	p = head.answering()
	now := &readmodelv1.Standing{
		Generation: p.own.String(), Answering: head.Answering(),
		Partitions: p.cfg.Kafka.PartitionCount(), Assigned: int32(len(p.Status().Assigned)),
	}
	if paused := p.paused.Load(); paused != nil {
		now.Paused = paused.Error()
	}
	batch := &pgx.Batch{}
	batch.Queue(statusOf, p.own.schema).QueryRow(func(r pgx.Row) error { return r.Scan(&now.GenerationStatus) })
	batch.Queue(parkedClasses).Query(func(rows pgx.Rows) error {
		var verdict string
		var n int64
		var since time.Time
		_, err := pgx.ForEachRow(rows, []any{&verdict, &n, &since}, func() error {
			now.Parked = append(now.Parked, &readmodelv1.ParkedClass{Verdict: verdict, Aggregates: n, Oldest: timestamppb.New(since)})
			return nil
		})
		return err
	})
	if err := p.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("describe %s: %w", p.own, err)
	}
	fresh, err := head.Read(ctx, nil, "", func(*pgx.Batch) {})
	if err != nil && fault.ReasonOf(err) != ReasonRebuilding {
		return nil, fmt.Errorf("describe %s: %w", p.own, err)
	}
	now.Sources = fresh.GetSources()
	last, err := head.lastReconcile(ctx)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", p.own, err)
	}
	now.LastReconciliation = last.reconciliation()
	now.ContinuousReconciliation, _ = head.rounds.proto()
	return now, nil
}
