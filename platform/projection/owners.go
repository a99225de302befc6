package projection

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/journal"
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

// Owners are the addresses of the services that own the facts. They are asked for
// their journals, to heal and to compare, and for what they answer everybody, to
// compare that too.
type Owners struct {
	Order    string `help:"Address of the order service, for its journal." default:"127.0.0.1:7101"`
	Payment  string `help:"Address of the payment service, for its journal." default:"127.0.0.1:7102"`
	Shipment string `help:"Address of the shipment service, for its journal." default:"127.0.0.1:7103"`
}

// Connections are the connections to owners. Close them at the end.
type Connections map[string]*grpc.ClientConn

// Dial connects to the owners, by source, on first use.
func (o Owners) Dial(tel *telemetry.Telemetry) (Connections, error) {
	all := Connections{}
	for source, addr := range map[string]string{"order": o.Order, "payment": o.Payment, "shipment": o.Shipment} {
		conn, err := rpc.Dial(addr, tel)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("owner of %s: %w", source, err), all.Close())
		}
		all[source] = conn
	}
	return all, nil
}

// Journal returns what asks the owners for their journals.
func (c Connections) Journal(codec Codec) Journal {
	clients := map[string]journalv1.JournalServiceClient{}
	for source, conn := range c {
		clients[source] = journalv1.NewJournalServiceClient(conn)
	}
	return journal.NewReader(codec, clients)
}

// Answers returns the connections as [Config.Owners] takes them.
func (c Connections) Answers() map[string]grpc.ClientConnInterface {
	all := map[string]grpc.ClientConnInterface{}
	for source, conn := range c {
		all[source] = conn
	}
	return all
}

// Close ends the connections.
func (c Connections) Close() error {
	var errs []error
	for _, conn := range c {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}
