// Package suite runs the whole fleet in one test process, against the embedded
// broker or, with TIDEMARK_TEST_BROKER=kafka, against a real Apache Kafka that it
// starts itself. All tests share one fleet, as all users of one do.
package suite

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
	"github.com/tidemark-dev/tidemark/tests/integration/kafka"
)

// patience bounds every wait; it is long because the machine may be busy, and
// nothing waits for it to pass.
const patience = 60 * time.Second

// world is the running fleet with clients of all its services.
type world struct {
	fleet      *fleet.Fleet
	spans      *sink.Sink
	logs       string
	order      orderv1.OrderServiceClient
	payment    paymentv1.PaymentServiceClient
	shipment   shipmentv1.ShipmentServiceClient
	timeline   timelinev1.TimelineServiceClient
	operations operationsv1.OperationsServiceClient
	conns      map[string]*grpc.ClientConn
	// stopBroker and startBroker take the broker away and bring it back.
	stopBroker  func()
	startBroker func(context.Context) error
}

// TestFleet runs the tests in order on one fleet.
func TestFleet(t *testing.T) {
	w := open(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"an order fulfils itself", anOrderFulfilsItself},
		{"a cancelled order is undone", aCancelledOrderIsUndone},
		{"a held order is work", aHeldOrderIsWork},
		{"one trace from the first call to the rows", oneTrace},
		{"as_of advances while nothing happens", asOfAdvancesWhileNothingHappens},
		{"messy orders come in", messyOrdersComeIn},
		{"real orders come in", realOrdersComeIn},
		{"bad input gets a clear error", badInput},
		{"queries answer while everything else is away", queriesAnswerAlone},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, w) }) {
			t.Logf("the fleet's logs are in %s", w.logs)
		}
	}
}

// open starts the fleet on the chosen broker.
func open(t *testing.T) *world {
	t.Helper()
	dir, err := testkit.TempDir("fleet")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{spans: testkit.Spans(t), logs: filepath.Join(dir, "log")}
	log, err := logTo(w.logs)
	if err != nil {
		t.Fatal(err)
	}
	options := fleet.Options{Dir: dir, OTLPEndpoint: w.spans.Endpoint(), Log: log, DatabaseURL: databases(t)}
	if os.Getenv(kafka.BrokerVariable) == "kafka" {
		server := kafka.Start(t)
		w.stopBroker, w.startBroker = server.Kill, server.Restart
		options.BrokerAddr = server.Addr()
	} else {
		w.stopBroker = func() {
			if err := w.fleet.StopPart(fleet.Broker); err != nil {
				t.Error(err)
			}
		}
		w.startBroker = func(ctx context.Context) error { return w.fleet.StartPart(ctx, fleet.Broker) }
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if w.fleet, err = fleet.Start(ctx, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.hangUp()
		if err := w.fleet.Stop(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	if err := w.connect(); err != nil {
		t.Fatal(err)
	}
	return w
}

// databases gives every part a fresh database of the shared test cluster.
func databases(t *testing.T) func(string) string {
	urls := map[string]string{}
	for _, part := range []string{fleet.Order, fleet.Payment, fleet.Shipment, fleet.Timeline, fleet.Operations} {
		urls[part] = testkit.PostgresURL(t)
	}
	return func(part string) string { return urls[part] }
}

// connect dials every part of a fleet.
func (w *world) connect() error {
	w.conns = map[string]*grpc.ClientConn{}
	for _, part := range []string{fleet.Order, fleet.Payment, fleet.Shipment, fleet.Timeline, fleet.Operations} {
		conn, err := grpc.NewClient(w.fleet.Addr(part), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		w.conns[part] = conn
	}
	w.order = orderv1.NewOrderServiceClient(w.conns[fleet.Order])
	w.payment = paymentv1.NewPaymentServiceClient(w.conns[fleet.Payment])
	w.shipment = shipmentv1.NewShipmentServiceClient(w.conns[fleet.Shipment])
	w.timeline = timelinev1.NewTimelineServiceClient(w.conns[fleet.Timeline])
	w.operations = operationsv1.NewOperationsServiceClient(w.conns[fleet.Operations])
	return nil
}

func (w *world) hangUp() {
	for _, conn := range w.conns {
		_ = conn.Close()
	}
}

// logTo returns loggers that write one file per part into dir.
func logTo(dir string) (func(string) *slog.Logger, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return func(part string) *slog.Logger {
		file, err := os.OpenFile(filepath.Join(dir, part+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return slog.New(slog.DiscardHandler)
		}
		return slog.New(slog.NewTextHandler(file, nil))
	}, nil
}

// bounded returns a context for one call or one short conversation.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func euros(cents int64) *commercev1.Money {
	return &commercev1.Money{Amount: cents, Currency: "EUR"}
}

// atLeast is a demand to read these writes.
func atLeast(tokens ...*freshnessv1.Token) *freshnessv1.ReadOptions {
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}},
		WaitBudget:  durationpb.New(30 * time.Second),
	}
}

// managed is an order of two articles from two warehouses, paid by voucher and
// card, that the fulfilment process moves on.
func managed(customer string) *orderv1.PlaceOrderRequest {
	return &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: customer, Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED,
		Lines: []*orderv1.OrderLine{
			{LineId: "1", Sku: "teapot", Title: "Teapot", Quantity: 2, UnitPrice: euros(1500), Warehouse: "north"},
			{LineId: "2", Sku: "cup", Title: "Cup", Quantity: 4, UnitPrice: euros(400), Warehouse: "south"},
		},
		ShippingFee: euros(400),
		Contact:     &commercev1.Contact{Name: "Ada", Email: "ada@example.org"},
		Address:     &commercev1.Address{Line1: "Quay 1", City: "Hamburg", Country: "DE"},
		PaymentPlan: []*orderv1.PlannedPayment{
			{Method: commercev1.PaymentMethod_PAYMENT_METHOD_VOUCHER, Amount: euros(1000)},
			{Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: euros(4000)},
		},
	}
}

// watch follows an order's status until done says so.
func (w *world) watch(t *testing.T, orderID string, done func(*timelinev1.OrderView) bool) *timelinev1.OrderView {
	t.Helper()
	ctx := bounded(t)
	stream, err := w.timeline.WatchOrder(ctx, &timelinev1.WatchOrderRequest{OrderId: orderID})
	if err != nil {
		t.Fatal(err)
	}
	var last *timelinev1.OrderView
	for {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("watch order %s: %v; last seen %v", orderID, err, last)
		}
		if answer.GetOrder() == nil {
			continue
		}
		last = answer.GetOrder()
		if done(last) {
			return last
		}
	}
}

// deliver moves every planned parcel of an order to the customer, as a
// warehouse and a carrier would.
func (w *world) deliver(t *testing.T, orderID string) {
	t.Helper()
	ctx := bounded(t)
	list, err := w.shipment.ListShipments(ctx, &shipmentv1.ListShipmentsRequest{OrderId: orderID})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.GetShipments() {
		_, err := w.shipment.DispatchShipment(ctx, &shipmentv1.DispatchShipmentRequest{
			RequestId: uuid.NewString(), Actor: "carrier", ShipmentId: s.GetShipmentId(), Carrier: "DHL", TrackingNumber: "1Z",
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.shipment.DeliverShipment(ctx, &shipmentv1.DeliverShipmentRequest{
			RequestId: uuid.NewString(), Actor: "carrier", ShipmentId: s.GetShipmentId(), Location: "front door",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
