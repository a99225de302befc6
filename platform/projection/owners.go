package projection

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// Journal asks the owners of facts for what they committed. An event that this
// code cannot decode is a fact without a body.
type Journal interface {
	// Events returns versions from to to of an aggregate, both inclusive, oldest
	// first; perhaps fewer, and none of an aggregate that does not exist.
	Events(ctx context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error)
	// Range returns the facts of a partition of a source from one sequence to
	// another, both inclusive, to 0 being the newest, and the sequence to go on
	// from, 0 at the end.
	Range(ctx context.Context, source string, partition int32, from, to int64) (facts []event.Fact, next int64, err error)
	// Heads returns the newest event of every aggregate of a partition of a
	// source, a page at a time, and the token of the next page, empty at the end.
	Heads(ctx context.Context, source string, partition int32, page string) (heads []event.Token, next string, err error)
}

var errUnreadable = errors.New("the owner's journal has it in a form that this code cannot decode")

// Owners are the addresses of the services that own the facts. Only healing, and
// tokens of an epoch that is over, ask them, and only for their journals.
type Owners struct {
	Order    string `help:"Address of the order service, for its journal." default:"127.0.0.1:7101"`
	Payment  string `help:"Address of the payment service, for its journal." default:"127.0.0.1:7102"`
	Shipment string `help:"Address of the shipment service, for its journal." default:"127.0.0.1:7103"`
}

// Dial returns a Journal that asks the owners, and a function that ends its
// connections. It connects on first use.
func (o Owners) Dial(codec Codec, tel *telemetry.Telemetry) (Journal, func() error, error) {
	j := &ownersJournal{codec: codec, clients: map[string]journalv1.JournalServiceClient{}}
	var conns []*grpc.ClientConn
	end := func() error {
		var errs []error
		for _, conn := range conns {
			errs = append(errs, conn.Close())
		}
		return errors.Join(errs...)
	}
	for source, addr := range map[string]string{"order": o.Order, "payment": o.Payment, "shipment": o.Shipment} {
		conn, err := rpc.Dial(addr, tel)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("journal of %s: %w", source, err), end())
		}
		conns = append(conns, conn)
		j.clients[source] = journalv1.NewJournalServiceClient(conn)
	}
	return j, end, nil
}

// ownersJournal asks the services.
type ownersJournal struct {
	codec   Codec
	clients map[string]journalv1.JournalServiceClient
}

func (j *ownersJournal) of(source string) (journalv1.JournalServiceClient, error) {
	if client := j.clients[source]; client != nil {
		return client, nil
	}
	return nil, fmt.Errorf("nobody owns aggregates of type %q", source)
}

// Events implements [Journal].
func (j *ownersJournal) Events(ctx context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error) {
	client, err := j.of(a.Type)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetEvents(ctx, &journalv1.GetEventsRequest{
		AggregateType: a.Type, AggregateId: a.ID, FromVersion: from, ToVersion: to, PageSize: healPage,
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", a.Type, err)
	}
	return j.facts(ctx, answer.GetEvents())
}

// Range implements [Journal].
func (j *ownersJournal) Range(ctx context.Context, source string, partition int32, from, to int64) ([]event.Fact, int64, error) {
	client, err := j.of(source)
	if err != nil {
		return nil, 0, err
	}
	answer, err := client.ListEvents(ctx, &journalv1.ListEventsRequest{
		Partition: partition, FromSequence: from, ToSequence: to, PageSize: healPage,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list the journal of %s: %w", source, err)
	}
	facts, err := j.facts(ctx, answer.GetEvents())
	return facts, answer.GetNextSequence(), err
}

// Heads implements [Journal].
func (j *ownersJournal) Heads(ctx context.Context, source string, partition int32, page string) ([]event.Token, string, error) {
	client, err := j.of(source)
	if err != nil {
		return nil, "", err
	}
	answer, err := client.ListHeads(ctx, &journalv1.ListHeadsRequest{Partition: partition, PageSize: headPage, PageToken: page})
	if err != nil {
		return nil, "", fmt.Errorf("list the heads of %s: %w", source, err)
	}
	heads := make([]event.Token, 0, len(answer.GetHeads()))
	for _, h := range answer.GetHeads() {
		heads = append(heads, event.Token{
			Aggregate: event.Aggregate{Type: h.GetAggregateType(), ID: h.GetAggregateId()},
			Version:   h.GetVersion(), Epoch: h.GetEpoch(), EventID: h.GetEventId(),
		})
	}
	return heads, answer.GetNextPageToken(), nil
}

// facts decodes events. One that cannot be decoded has no body, and will park.
func (j *ownersJournal) facts(ctx context.Context, events []*journalv1.JournalEvent) ([]event.Fact, error) {
	facts := make([]event.Fact, 0, len(events))
	for _, e := range events {
		if err := j.codec.Learn(ctx, e.GetSource(), e.GetType(), int(e.GetSchemaVersion())); err != nil {
			return nil, err
		}
		f, err := factOf(j.codec, e)
		if err != nil {
			f.Body = nil
		}
		facts = append(facts, f)
	}
	return facts, nil
}

func factOf(codec Codec, e *journalv1.JournalEvent) (event.Fact, error) {
	body, err := codec.Decode(e.GetType(), int(e.GetSchemaVersion()), e.GetPayload())
	return event.Fact{Body: body, Envelope: event.Envelope{
		ID: e.GetId(), Source: e.GetSource(), Type: e.GetType(), SchemaVersion: int(e.GetSchemaVersion()),
		Aggregate: event.Aggregate{Type: e.GetAggregateType(), ID: e.GetAggregateId()},
		Version:   e.GetVersion(), Epoch: e.GetEpoch(), Key: e.GetKey(), Partition: e.GetPartition(), Sequence: e.GetSequence(),
		OccurredAt: e.GetOccurredAt().AsTime(), RecordedAt: e.GetRecordedAt().AsTime(),
		CausationID: e.GetCausationId(), CorrelationID: e.GetCorrelationId(),
		TraceParent: e.GetTraceparent(), TraceState: e.GetTracestate(),
	}}, err
}
