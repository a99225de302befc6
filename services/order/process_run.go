package order

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// ProcessConfig says where the process finds the services it commands.
type ProcessConfig struct {
	Enabled      bool   `help:"Let the fulfilment process move MANAGED orders on." default:"true" negatable:""`
	PaymentAddr  string `help:"gRPC address of the payment service." default:"127.0.0.1:7102"`
	InstanceID   string `help:"Name of this replica that its restart keeps, such as a stateful set gives: one that was killed then goes on at once. Empty: its partitions wait until the broker misses it." name:"instance-id"`
	ShipmentAddr string `help:"gRPC address of the shipment service." default:"127.0.0.1:7103"`
}

// tell states in the order's history, in the transaction that learns of it, that
// fulfilment needs a person, or that it does not any more.
func tell(j *journal.Journal) func(context.Context, *postgres.BatchTx, *pgx.Batch, string, process.Concern) (func(), error) {
	return func(ctx context.Context, tx *postgres.BatchTx, write *pgx.Batch, id string, concern process.Concern) (func(), error) {
		return journal.Append(ctx, j, tx, write, &table, id, fulfilmentName, func(o *Order, now time.Time) ([]journal.Fact, error) {
			meta := Meta{Actor: fulfilmentName, OccurredAt: now}
			if concern.Reason == "" {
				return change(o, []Event{TroubleEnded{Meta: meta}}), nil
			}
			return change(o, []Event{TroubleArose{Meta: meta, Reason: concern.Reason, Step: concern.Step}}), nil
		})
	}
}

// markDispatched tells the order's row, in the transaction that learns of it,
// that a parcel left: it waits for a command that holds the row, and the next
// command sees it.
func markDispatched(b *pgx.Batch, id string, s *fulfilment) {
	if s.Marked || !s.dispatched() {
		return
	}
	s.Marked = true
	b.Queue(`UPDATE orders SET dispatched = true WHERE id = $1`, id)
}

// startFulfilment adds the process to the service: a consumer of all three
// contexts' topics that folds facts, a dispatcher that sends commands and fires
// timers, and the operators' RPCs. self is the service's own gRPC address. It must
// be called before the server serves.
func startFulfilment(g *lifecycle.Group, cfg Config, self string, o *owner.Parts) error {
	conns := map[string]*grpc.ClientConn{}
	to := participants{requests: map[string]journalv1.RequestServiceClient{}}
	journals := map[string]journalv1.JournalServiceClient{}
	for name, addr := range map[string]string{"order": self, "payment": cfg.Fulfilment.PaymentAddr, "shipment": cfg.Fulfilment.ShipmentAddr} {
		conn, err := rpc.Dial(addr, o.Telemetry)
		if err != nil {
			return err
		}
		g.OnStop("connection", func(context.Context) error { return conn.Close() })
		conns[name], to.requests[name], journals[name] = conn, journalv1.NewRequestServiceClient(conn), journalv1.NewJournalServiceClient(conn)
	}
	to.order = orderv1.NewOrderServiceClient(conns["order"])
	to.payment = paymentv1.NewPaymentServiceClient(conns["payment"])
	to.shipment = shipmentv1.NewShipmentServiceClient(conns["shipment"])
	manager, err := process.NewManager(o.Pool, process.Participants{
		Targets: targets, Target: target, Send: to.send, Resolve: to.resolve, Forget: to.forget,
		Events: journal.NewReader(o.Codec, journals).Events,
	}, o.Log, fulfilmentVersions()...)
	if err != nil {
		return err
	}
	manager.Beside, manager.Tell = markDispatched, tell(o.Journal)
	facts, err := consumer.New(consumer.Config{
		Kafka: cfg.Kafka, Group: "tidemark-" + fulfilmentName, InstanceID: cfg.Fulfilment.InstanceID,
		Topics:    []string{kafka.TopicOrder, kafka.TopicPayment, kafka.TopicShipment},
		Telemetry: o.Telemetry, Log: o.Log,
	}, process.NewFeed(manager, o.Codec))
	if err != nil {
		return err
	}
	orderv1.RegisterProcessServiceServer(o.Server.GRPC(), &processServer{manager: manager, pager: o.Pager, journals: journals})
	g.Go("fulfilment commands", manager.Run)
	g.Go("fulfilment facts", facts.Run)
	return nil
}
