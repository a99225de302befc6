package order

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// ProcessConfig says where the process finds the services it commands.
type ProcessConfig struct {
	Enabled      bool   `help:"Let the fulfilment process move MANAGED orders on." default:"true" negatable:""`
	PaymentAddr  string `help:"gRPC address of the payment service." default:"127.0.0.1:7102"`
	ShipmentAddr string `help:"gRPC address of the shipment service." default:"127.0.0.1:7103"`
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

// fulfilmentParts are what the process needs of the service it lives in.
type fulfilmentParts struct {
	cfg   Config
	self  string // the service's own gRPC address
	srv   *rpc.Server
	pager *rpc.Pager
	pool  *pgxpool.Pool
	codec *avro.Codec
	tel   *telemetry.Telemetry
	log   *slog.Logger
}

// startFulfilment adds the process to the service: a consumer of all three
// contexts' topics that folds facts, a dispatcher that sends commands and fires
// timers, and the operators' RPCs. It must be called before the server serves.
func startFulfilment(g *lifecycle.Group, s fulfilmentParts) error {
	conns := map[string]*grpc.ClientConn{}
	to := participants{requests: map[string]journalv1.RequestServiceClient{}}
	journals := map[string]journalv1.JournalServiceClient{}
	for name, addr := range map[string]string{"order": s.self, "payment": s.cfg.Fulfilment.PaymentAddr, "shipment": s.cfg.Fulfilment.ShipmentAddr} {
		conn, err := rpc.Dial(addr, s.tel)
		if err != nil {
			return err
		}
		g.OnStop("connection", func(context.Context) error { return conn.Close() })
		conns[name], to.requests[name], journals[name] = conn, journalv1.NewRequestServiceClient(conn), journalv1.NewJournalServiceClient(conn)
	}
	to.order = orderv1.NewOrderServiceClient(conns["order"])
	to.payment = paymentv1.NewPaymentServiceClient(conns["payment"])
	to.shipment = shipmentv1.NewShipmentServiceClient(conns["shipment"])
	manager, err := process.NewManager(s.pool, process.Participants{
		Targets: targets, Target: target, Send: to.send, Resolve: to.resolve,
	}, s.log, fulfilmentVersions()...)
	if err != nil {
		return err
	}
	manager.Beside = markDispatched
	facts, err := consumer.New(consumer.Config{
		Kafka: s.cfg.Kafka, Group: "tidemark-" + fulfilmentName,
		Topics:    []string{kafka.TopicOrder, kafka.TopicPayment, kafka.TopicShipment},
		Telemetry: s.tel, Log: s.log,
	}, process.NewFeed(manager, s.codec))
	if err != nil {
		return err
	}
	orderv1.RegisterProcessServiceServer(s.srv.GRPC(), &processServer{manager: manager, pager: s.pager, journals: journals})
	g.Go("fulfilment commands", manager.Run)
	g.Go("fulfilment facts", facts.Run)
	return nil
}
