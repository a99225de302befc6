package shipment

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

func start(t testing.TB, tweaks ...func(*Config)) *grpc.ClientConn {
	t.Helper()
	cfg, err := lifecycle.Defaults[Config]()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Postgres.URL = testkit.PostgresURL(t)
	cfg.Kafka.Brokers, cfg.Kafka.RegistryURL = testkit.Broker(t).Addr(), ""
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	ready, done := make(chan string, 1), make(chan error, 1)
	for _, tweak := range tweaks {
		tweak(&cfg)
	}
	cfg.Ready = func(addr string) { ready <- addr }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- Run(ctx, cfg) }()
	var conn *grpc.ClientConn
	select {
	case addr := <-ready:
		if conn, err = rpc.Dial(addr, telemetry.Off()); err != nil {
			t.Fatal(err)
		}
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	return conn
}

func planning(order string) *shipmentpb.PlanShipmentRequest {
	return &shipmentpb.PlanShipmentRequest{
		RequestId: uuid.NewString(), OrderId: order, CustomerId: "c-1", Fulfilment: commercepb.Fulfilment_FULFILMENT_MANAGED,
		Warehouse: "berlin", Lines: []*shipmentpb.ShipmentLine{{LineId: "1", Sku: "mug", Quantity: 1}},
	}
}

func TestLifeOfAShipment(t *testing.T) {
	conn := start(t)
	s := shipmentpb.NewShipmentServiceClient(conn)
	ctx := t.Context()
	planned, err := s.PlanShipment(ctx, planning("o-1"))
	if err != nil {
		t.Fatal(err)
	}
	id := planned.GetShipment().GetShipmentId()
	expected := timestamppb.New(time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC))
	ok := func(step string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	_, err = s.DeliverShipment(ctx, &shipmentpb.DeliverShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id})
	if f := fault.As(rpc.Fault(err)); f == nil || f.Reason != fault.ReasonIllegalTransition || f.Metadata["state"] != "PLANNED" || f.Metadata["command"] != "DeliverShipment" {
		t.Errorf("delivered before dispatch: %v", err)
	}
	_, err = s.ReportDelay(ctx, &shipmentpb.ReportDelayRequest{RequestId: uuid.NewString(), ShipmentId: id, ExpectedAt: expected})
	ok("delay", err)
	_, err = s.DispatchShipment(ctx, &shipmentpb.DispatchShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id, Carrier: "dhl", TrackingNumber: "JJD01"})
	ok("dispatch", err)
	_, err = s.RecordScan(ctx, &shipmentpb.RecordScanRequest{RequestId: uuid.NewString(), ShipmentId: id, Location: "depot"})
	ok("scan", err)
	_, err = s.RecordScan(ctx, &shipmentpb.RecordScanRequest{RequestId: uuid.NewString(), ShipmentId: id,
		Place: &shipmentpb.ScanPlace{Facility: "CD 4", Area: "Campinas", Country: "BR"}})
	ok("scan in parts", err)
	_, err = s.RecordScan(ctx, &shipmentpb.RecordScanRequest{RequestId: uuid.NewString(), ShipmentId: id, Place: &shipmentpb.ScanPlace{Facility: "CD 4", Country: "br"}})
	if f := fault.As(rpc.Fault(err)); f == nil || f.Kind != fault.KindInvalid || f.Violations[0].Field != "place.country" {
		t.Errorf("scan in no country: %v", err)
	}
	stalled, err := s.ReportDelay(ctx, &shipmentpb.ReportDelayRequest{RequestId: uuid.NewString(), ShipmentId: id, Reason: "customs"})
	ok("stall", err)
	if sh := stalled.GetShipment(); sh.GetExpectedAt() != nil || !sh.GetStalled() {
		t.Errorf("stalled: %v", sh)
	}
	_, err = s.ReportDelay(ctx, &shipmentpb.ReportDelayRequest{RequestId: uuid.NewString(), ShipmentId: id, ExpectedAt: expected})
	ok("a date again", err)
	_, err = s.LoseShipment(ctx, &shipmentpb.LoseShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id, Reason: "gone"})
	ok("lose", err)
	_, err = s.DeliverShipment(ctx, &shipmentpb.DeliverShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id, SignedByRole: "neighbour"})
	ok("found and delivered", err)
	_, err = s.ReturnShipment(ctx, &shipmentpb.ReturnShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id, Reason: "broken"})
	ok("return", err)
	_, err = s.CancelShipment(ctx, &shipmentpb.CancelShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id})
	if fault.KindOf(rpc.Fault(err)) != fault.KindFailedPrecondition {
		t.Errorf("cancelled after return: %v", err)
	}
	got, err := s.GetShipment(ctx, &shipmentpb.GetShipmentRequest{ShipmentId: id})
	if err != nil {
		t.Fatal(err)
	}
	if sh := got.GetShipment(); sh.GetState() != shipmentpb.ShipmentState_SHIPMENT_STATE_RETURNED || sh.GetVersion() != 10 ||
		sh.GetCarrier() != "dhl" || !sh.GetExpectedAt().AsTime().Equal(expected.AsTime()) {
		t.Errorf("shipment = %v", sh)
	}
	if at := got.GetToken(); at.GetVersion() != 10 || at.GetAggregateType() != "shipment" || at.GetAggregateId() != id || at.GetEpoch() == "" || at.GetEventId() == "" {
		t.Errorf("it stands at %v", at)
	}
	events, err := journalpb.NewJournalServiceClient(conn).GetEvents(ctx, &journalpb.GetEventsRequest{AggregateType: "shipment", AggregateId: id})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range events.GetEvents() {
		names = append(names, e.GetType())
		if e.GetKey() != "o-1" {
			t.Errorf("key %q of %s", e.GetKey(), e.GetType())
		}
	}
	want := []string{"ShipmentPlanned", "ShipmentDelayed", "ShipmentDispatched", "ShipmentScanned", "ShipmentScanned", "ShipmentStalled", "ShipmentDelayed", "ShipmentLost", "ShipmentDelivered", "ShipmentReturned"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestShipmentsAreListedInPages(t *testing.T) {
	s := shipmentpb.NewShipmentServiceClient(start(t))
	var want []string
	for i := range 6 {
		r := planning([]string{"o-1", "o-2"}[i%2])
		if i%2 == 0 && i > 2 {
			r.Fulfilment = commercepb.Fulfilment_FULFILMENT_EXTERNAL
		}
		resp, err := s.PlanShipment(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 && i <= 2 {
			want = append([]string{resp.GetShipment().GetShipmentId()}, want...)
		}
	}
	req := &shipmentpb.ListShipmentsRequest{
		OrderId: "o-1", Fulfilment: commercepb.Fulfilment_FULFILMENT_MANAGED, PageSize: 1,
		States: []shipmentpb.ShipmentState{shipmentpb.ShipmentState_SHIPMENT_STATE_PLANNED},
	}
	var got []string
	for page := 0; page == 0 || req.GetPageToken() != ""; page++ {
		resp, err := s.ListShipments(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, sh := range resp.GetShipments() {
			got = append(got, sh.GetShipmentId())
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
