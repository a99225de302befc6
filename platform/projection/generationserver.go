package projection

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// generationServer is what operators do with generations.
type generationServer[S any] struct {
	readmodelv1.UnimplementedGenerationServiceServer
	p *Projection[S]
}

// ListGenerations implements readmodel.v1.GenerationService.
func (s *generationServer[S]) ListGenerations(ctx context.Context, _ *readmodelv1.ListGenerationsRequest) (*readmodelv1.ListGenerationsResponse, error) {
	c, err := s.p.readCatalog(ctx)
	if err != nil {
		return nil, err
	}
	r := &readmodelv1.ListGenerationsResponse{}
	batch := &pgx.Batch{}
	for _, g := range c.generations {
		listed := g.proto(c, s.p.cfg.Generations.RollbackWindow)
		r.Generations = append(r.Generations, listed)
		if g.status == statusDropping {
			continue
		}
		quoted := pgx.Identifier{g.schema}.Sanitize()
		batch.Queue("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)", quoted+".state").
			QueryRow(func(row pgx.Row) error { return row.Scan(&listed.Orders) })
		if g.derivedFrom != "" && g.status == statusBuilding {
			batch.Queue(bulkProgress + quoted + ".bulk_part").QueryRow(func(row pgx.Row) error { return row.Scan(&listed.Derived) })
		}
		batch.Queue("SELECT count(*) FROM " + quoted + ".quarantine").QueryRow(func(row pgx.Row) error { return row.Scan(&listed.Parked) })
		batch.Queue(`SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relkind = 'r'`, g.schema).QueryRow(func(row pgx.Row) error { return row.Scan(&listed.Bytes) })
	}
	if err := s.p.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("measure generations: %w", err)
	}
	return r, nil
}

func (g listed) proto(c catalog, window time.Duration) *readmodelv1.Generation {
	m := &readmodelv1.Generation{
		Name: g.String(), State: readmodelv1.GenerationState(readmodelv1.GenerationState_value["GENERATION_STATE_"+g.status]),
		Version: int32(g.version), CreatedAt: timestamppb.New(g.createdAt), ReadyAt: stamp(g.readyAt), OperationId: g.operation, DerivedFrom: g.derivedFrom,
	}
	if c.followed(g) {
		m.FollowedAt = stamp(g.followedAt)
	}
	if g.status == statusRetired && g.retiredAt != nil {
		m.RetiredAt = stamp(g.retiredAt)
		m.RollbackUntil = timestamppb.New(g.retiredAt.Add(window))
	}
	return m
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// StartRebuild implements readmodel.v1.GenerationService.
func (s *generationServer[S]) StartRebuild(ctx context.Context, r *readmodelv1.StartRebuildRequest) (*readmodelv1.StartRebuildResponse, error) {
	o, err := s.p.begin(ctx, s.asked(r.GetRequest(), kindRebuild, request{}))
	return &readmodelv1.StartRebuildResponse{Operation: o.proto()}, err
}

// asked is an operation for this version.
func (s *generationServer[S]) asked(r *readmodelv1.Request, kind string, what request) operation {
	return operation{
		id: r.GetRequestId(), kind: kind, version: s.p.own.version, hash: s.p.own.hash, request: what, requestedBy: r.GetActor(), reason: r.GetReason(),
	}
}

// between is an operation on two generations, for the version of the first.
func (s *generationServer[S]) between(ctx context.Context, r *readmodelv1.Request, kind string, what request, pick func(catalog) (to, base listed, err error)) (operation, error) {
	o := s.asked(r, kind, what)
	if known, err := s.p.sameAgain(ctx, o); err == nil || fault.ReasonOf(err) == fault.ReasonRequestIDReused {
		return known, err
	}
	c, err := s.p.readCatalog(ctx)
	if err != nil {
		return o, err
	}
	to, base, err := pick(c)
	if err != nil {
		return o, err
	}
	if !c.followed(to) {
		return o, fault.New(fault.KindFailedPrecondition, ReasonGateRefused,
			"no process keeps %s: start its version, or rebuild", to).With("generation", to.String())
	}
	o.version, o.hash, o.schema, o.base = to.version, to.hash, to.schema, base.schema
	return s.p.begin(ctx, o)
}

// candidate finds the generation that may answer next, and the one that does.
func candidate(name string) func(catalog) (to, base listed, err error) {
	return func(c catalog) (to, base listed, err error) {
		base, ok := c.by(c.pointer.schema)
		if !ok {
			return to, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "no generation answers yet")
		}
		if name != "" {
			if to, ok = c.by(name); !ok {
				return to, base, fault.NotFound("generation", name)
			}
		} else {
			at := slices.IndexFunc(c.generations, func(g listed) bool { return g.status == statusReady })
			if at < 0 {
				return to, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "no generation is ready beside %s", base)
			}
			to = c.generations[at]
		}
		if to.schema == base.schema {
			return to, base, fault.New(fault.KindFailedPrecondition, fault.ReasonIllegalTransition, "generation %s answers already", to)
		}
		return to, base, nil
	}
}

// CompareGenerations implements readmodel.v1.GenerationService.
func (s *generationServer[S]) CompareGenerations(ctx context.Context, r *readmodelv1.CompareGenerationsRequest) (*readmodelv1.CompareGenerationsResponse, error) {
	o, err := s.between(ctx, r.GetRequest(), kindCompare, request{Generation: r.GetGeneration(), Expect: r.GetExpect()}, candidate(r.GetGeneration()))
	if err == nil {
		o, err = s.await(ctx, o)
	}
	return &readmodelv1.CompareGenerationsResponse{Operation: o.proto()}, err
}

// SwapGeneration implements readmodel.v1.GenerationService.
func (s *generationServer[S]) SwapGeneration(ctx context.Context, r *readmodelv1.SwapGenerationRequest) (*readmodelv1.SwapGenerationResponse, error) {
	o, err := s.between(ctx, r.GetRequest(), kindSwap, request{Generation: r.GetGeneration(), Expect: r.GetExpect()}, candidate(r.GetGeneration()))
	if err == nil {
		o, err = s.await(ctx, o)
	}
	return &readmodelv1.SwapGenerationResponse{Operation: o.proto()}, err
}

// RollbackGeneration implements readmodel.v1.GenerationService.
func (s *generationServer[S]) RollbackGeneration(ctx context.Context, r *readmodelv1.RollbackGenerationRequest) (*readmodelv1.RollbackGenerationResponse, error) {
	o, err := s.between(ctx, r.GetRequest(), kindRollback, request{}, func(c catalog) (to, base listed, err error) {
		if base, _ = c.by(c.pointer.schema); base.schema == "" || c.pointer.previous == "" {
			return to, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "there is nothing to go back to")
		}
		to, ok := c.by(c.pointer.previous)
		if !ok {
			return to, base, fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "the generation that answered before was dropped")
		}
		return to, base, nil
	})
	if err == nil {
		o, err = s.await(ctx, o)
	}
	return &readmodelv1.RollbackGenerationResponse{Operation: o.proto()}, err
}

// DropGeneration implements readmodel.v1.GenerationService.
func (s *generationServer[S]) DropGeneration(ctx context.Context, r *readmodelv1.DropGenerationRequest) (*readmodelv1.DropGenerationResponse, error) {
	o := s.asked(r.GetRequest(), kindDrop, request{Generation: r.GetGeneration(), WithinWindow: r.GetWithinWindow()})
	known, err := s.p.sameAgain(ctx, o)
	if err != nil && fault.ReasonOf(err) != fault.ReasonNotFound {
		return nil, err
	}
	if err == nil {
		o = known
	} else {
		c, err := s.p.readCatalog(ctx)
		if err != nil {
			return nil, err
		}
		g, err := s.droppable(c, r)
		if err != nil {
			return nil, err
		}
		o.schema = g.schema
		if o, err = s.p.begin(ctx, o); err != nil {
			return nil, err
		}
	}
	o, err = s.await(ctx, o)
	return &readmodelv1.DropGenerationResponse{Operation: o.proto()}, err
}

func (s *generationServer[S]) droppable(c catalog, r *readmodelv1.DropGenerationRequest) (listed, error) {
	g, ok := c.by(r.GetGeneration())
	until := time.Time{}
	if g.retiredAt != nil {
		until = g.retiredAt.Add(s.p.cfg.Generations.RollbackWindow)
	}
	refuse := func(format string, args ...any) error {
		return fault.New(fault.KindFailedPrecondition, fault.ReasonIllegalTransition, format, args...).With("generation", g.String())
	}
	switch {
	case !ok:
		return g, fault.NotFound("generation", r.GetGeneration())
	case g.pointed:
		return g, refuse("generation %s answers; it cannot be dropped", g)
	case g.status == statusBuilding && g.operation != "":
		return g, refuse("generation %s is being built; cancel operation %s", g, g.operation)
	case g.status == statusBuilding && c.followed(g):
		return g, refuse("generation %s is being built by a program that runs; stop that first", g)
	case g.status == statusRetired && until.After(c.now) && !r.GetWithinWindow():
		return g, refuse("a rollback to generation %s is possible until %s; say that it may be dropped all the same", g, until.UTC().Format(time.RFC3339))
	}
	return g, nil
}

// StartRefold implements readmodel.v1.GenerationService.
func (s *generationServer[S]) StartRefold(ctx context.Context, r *readmodelv1.StartRefoldRequest) (*readmodelv1.StartRefoldResponse, error) {
	var what request
	switch which := r.GetOrders().(type) {
	case *readmodelv1.StartRefoldRequest_OrderId:
		what.Order = which.OrderId
	case *readmodelv1.StartRefoldRequest_Partition:
		if which.Partition >= s.p.cfg.Kafka.PartitionCount() {
			return nil, fault.Invalid("partition", "there are %d", s.p.cfg.Kafka.PartitionCount())
		}
		what.Partition = &which.Partition
	case *readmodelv1.StartRefoldRequest_Committed:
		from := which.Committed.GetFrom().AsTime()
		what.From = &from
		if which.Committed.GetTo() != nil {
			to := which.Committed.GetTo().AsTime()
			if !to.After(from) {
				return nil, fault.Invalid("committed.to", "is not after from")
			}
			what.To = &to
		}
	default:
		return nil, fault.Invalid("orders", "say which orders")
	}
	o := s.asked(r.GetRequest(), kindRefold, what)
	o.schema = s.p.answering().own.schema
	o, err := s.p.begin(ctx, o)
	return &readmodelv1.StartRefoldResponse{Operation: o.proto()}, err
}

// registerGenerations adds the service to a server.
func (p *Projection[S]) registerGenerations(s grpc.ServiceRegistrar) {
	readmodelv1.RegisterGenerationServiceServer(s, &generationServer[S]{p: p})
}
