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

// Owners are the addresses of the services that own the facts. Only the healer
// calls them, and only for their journals.
type Owners struct {
	Order    string `help:"Address of the order service, for its journal." default:"127.0.0.1:7101"`
	Payment  string `help:"Address of the payment service, for its journal." default:"127.0.0.1:7102"`
	Shipment string `help:"Address of the shipment service, for its journal." default:"127.0.0.1:7103"`
}

// Dial returns a Journal that asks the owners, and a function that ends its
// connections. It connects on first use.
func (o Owners) Dial(codec Codec, tel *telemetry.Telemetry) (Journal, func() error, error) {
	clients := map[string]journalv1.JournalServiceClient{}
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
		clients[source] = journalv1.NewJournalServiceClient(conn)
	}
	fetch := func(ctx context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error) {
		client := clients[a.Type]
		if client == nil {
			return nil, fmt.Errorf("nobody owns aggregates of type %q", a.Type)
		}
		answer, err := client.GetEvents(ctx, &journalv1.GetEventsRequest{
			AggregateType: a.Type, AggregateId: a.ID, FromVersion: from, ToVersion: to, PageSize: healPage,
		})
		if err != nil {
			return nil, fmt.Errorf("read the journal of %s: %w", a.Type, err)
		}
		var facts []event.Fact
		for _, e := range answer.GetEvents() {
			if err := codec.Learn(ctx, e.GetSource(), e.GetType(), int(e.GetSchemaVersion())); err != nil {
				return nil, err
			}
			f, err := factOf(codec, e)
			if err != nil && len(facts) > 0 {
				return facts, nil // heal up to the one that cannot be read
			}
			if err != nil {
				return nil, fmt.Errorf("decode version %d from the journal of %s: %w", e.GetVersion(), a.Type, err)
			}
			facts = append(facts, f)
		}
		return facts, nil
	}
	return fetch, end, nil
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
