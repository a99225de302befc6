package order

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// service is a running order service and what a test looks at.
type service struct {
	testing.TB
	orderpb.OrderServiceClient
	orderpb.ProcessServiceClient
	journal  journalpb.JournalServiceClient
	requests journalpb.RequestServiceClient
	pool     *pgxpool.Pool
}

func start(t testing.TB, options ...func(*Config)) *service {
	t.Helper()
	cfg, err := lifecycle.Defaults[Config]()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Postgres.URL = testkit.PostgresURL(t)
	cfg.Kafka.Brokers, cfg.Kafka.RegistryURL = testkit.Broker(t).Addr(), ""
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	cfg.Fulfilment.PaymentAddr, cfg.Fulfilment.ShipmentAddr = "127.0.0.1:1", "127.0.0.1:1" // nobody is there
	for _, option := range options {
		option(&cfg)
	}
	ready, done := make(chan string, 1), make(chan error, 1)
	cfg.Ready = func(addr string) { ready <- addr }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- Run(ctx, cfg) }()
	s := &service{TB: t}
	var conn *grpc.ClientConn
	select {
	case addr := <-ready:
		if conn, err = rpc.Dial(addr, telemetry.Off()); err != nil {
			t.Fatal(err)
		}
	case err := <-done:
		t.Fatal(err)
	}
	s.requests = journalpb.NewRequestServiceClient(conn)
	s.ProcessServiceClient = orderpb.NewProcessServiceClient(conn)
	s.OrderServiceClient, s.journal = orderpb.NewOrderServiceClient(conn), journalpb.NewJournalServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	if s.pool, err = postgres.Open(context.Background(), cfg.Postgres, telemetry.Off()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

func placing() *orderpb.PlaceOrderRequest {
	eur := func(amount int64) *commercepb.Money { return &commercepb.Money{Amount: amount, Currency: "EUR"} }
	return &orderpb.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: "c-1", Fulfilment: commercepb.Fulfilment_FULFILMENT_MANAGED,
		Lines:       []*orderpb.OrderLine{{LineId: "1", Sku: "mug", Title: "A mug", Quantity: 2, UnitPrice: eur(1250), Warehouse: "berlin"}},
		ShippingFee: eur(500), Contact: &commercepb.Contact{Name: "Ada"}, Address: &commercepb.Address{City: "Berlin", Country: "DE"},
		PaymentPlan: []*orderpb.PlannedPayment{{Method: commercepb.PaymentMethod_PAYMENT_METHOD_CARD, Amount: eur(3000), Reference: "tok"}},
	}
}

func (s *service) place(r *orderpb.PlaceOrderRequest) *orderpb.PlaceOrderResponse {
	s.Helper()
	resp, err := s.PlaceOrder(s.Context(), r)
	if err != nil {
		s.Fatal(err)
	}
	return resp
}

func TestAnOrderIsPlacedReadAndSent(t *testing.T) {
	s := start(t)
	r := placing()
	r.OccurredAt = timestamppb.New(time.Date(2026, 11, 1, 8, 0, 0, 123456789, time.UTC))
	placed := s.place(r)
	again := s.place(r)
	if !again.GetReplayed() || placed.GetReplayed() {
		t.Errorf("replayed: %v, then %v", placed.GetReplayed(), again.GetReplayed())
	}
	again.Replayed = false
	if diff := cmp.Diff(placed, again, protocmp.Transform()); diff != "" {
		t.Error("the second answer differs:", diff)
	}
	id := placed.GetOrder().GetOrderId()
	got, err := s.GetOrder(t.Context(), &orderpb.GetOrderRequest{OrderId: id})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(placed.GetToken(), got.GetToken(), protocmp.Transform()); diff != "" {
		t.Errorf("tokens (-placed +got):\n%s", diff)
	}
	if diff := cmp.Diff(placed.GetOrder(), got.GetOrder(), protocmp.Transform()); diff != "" {
		t.Error("read otherwise than answered:", diff)
	}
	if got.GetOrder().GetTotal().GetAmount() != 3000 || got.GetOrder().GetPlacedAt().GetNanos() != 123456000 {
		t.Errorf("order = %v", got.GetOrder())
	}
	events, err := s.journal.GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: id})
	if err != nil || len(events.GetEvents()) != 1 {
		t.Fatalf("%v, %v", events, err)
	}
	e, token := events.GetEvents()[0], placed.GetToken()
	if e.GetId() != token.GetEventId() || e.GetVersion() != token.GetVersion() || e.GetEpoch() != token.GetEpoch() || e.GetKey() != id ||
		e.GetCausationId() != r.GetRequestId() || token.GetAggregateType() != "order" || token.GetAggregateId() != id {
		t.Errorf("event %v, token %v", e, token)
	}
	s.eventually("the event is sent", func() bool {
		var unsent int
		err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox`).Scan(&unsent)
		return err == nil && unsent == 0
	})
}

func (s *service) eventually(what string, condition func() bool) {
	s.Helper()
	ticker, timeout := time.NewTicker(3*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			s.Fatalf("did not come true: %s", what)
		}
	}
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	s := start(t)
	id := s.place(placing()).GetOrder().GetOrderId()
	spoil := func(change func(*orderpb.PlaceOrderRequest)) error {
		r := placing()
		change(r)
		_, err := s.PlaceOrder(t.Context(), r)
		return err
	}
	reused := placing()
	s.place(reused)
	reused.CustomerId = "c-2"
	_, reusedErr := s.PlaceOrder(t.Context(), reused)
	_, illegal := s.CompleteOrder(t.Context(), &orderpb.CompleteOrderRequest{RequestId: uuid.NewString(), OrderId: id})
	_, unknown := s.GetOrder(t.Context(), &orderpb.GetOrderRequest{OrderId: "nobody"})
	_, cancelUnknown := s.CancelOrder(t.Context(), &orderpb.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: "nobody", Reason: orderpb.CancelReason_CANCEL_REASON_CUSTOMER})
	for _, tt := range []struct {
		name   string
		err    error
		kind   fault.Kind
		reason fault.Reason
		field  string
	}{
		{"no request id", spoil(func(r *orderpb.PlaceOrderRequest) { r.RequestId = "" }), fault.KindInvalid, fault.ReasonInvalidField, "request_id"},
		{"negative quantity", spoil(func(r *orderpb.PlaceOrderRequest) { r.Lines[0].Quantity = -1 }), fault.KindInvalid, fault.ReasonInvalidField, "lines[0].quantity"},
		{"no such currency", spoil(func(r *orderpb.PlaceOrderRequest) { r.Lines[0].UnitPrice.Currency = "ZZZ" }), fault.KindInvalid, fault.ReasonInvalidField, "lines[0].unit_price.currency"},
		{"absurd amount", spoil(func(r *orderpb.PlaceOrderRequest) { r.ShippingFee.Amount = 1 << 60 }), fault.KindInvalid, fault.ReasonInvalidField, "shipping_fee.amount"},
		{"year 1900", spoil(func(r *orderpb.PlaceOrderRequest) {
			r.OccurredAt = timestamppb.New(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC))
		}), fault.KindInvalid, fault.ReasonInvalidField, "occurred_at"},
		{"year 9999", spoil(func(r *orderpb.PlaceOrderRequest) {
			r.PromisedAt = timestamppb.New(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
		}), fault.KindInvalid, fault.ReasonInvalidField, "promised_at"},
		{"NUL", spoil(func(r *orderpb.PlaceOrderRequest) { r.Lines[0].Title = "a\x00b" }), fault.KindInvalid, fault.ReasonInvalidField, "lines[0].title"},
		{"10 MB string", spoil(func(r *orderpb.PlaceOrderRequest) { r.Contact.Name = strings.Repeat("x", 10<<20) }), fault.KindResourceExhausted, "", ""},
		{"id taken", spoil(func(r *orderpb.PlaceOrderRequest) { r.OrderId = id }), fault.KindAlreadyExists, fault.ReasonAlreadyExists, ""},
		{"request id reused", reusedErr, fault.KindAlreadyExists, fault.ReasonRequestIDReused, ""},
		{"illegal transition", illegal, fault.KindFailedPrecondition, fault.ReasonIllegalTransition, ""},
		{"unknown order", unknown, fault.KindNotFound, fault.ReasonNotFound, ""},
		{"command to an unknown order", cancelUnknown, fault.KindNotFound, fault.ReasonNotFound, ""},
	} {
		f := fault.As(rpc.Fault(tt.err))
		if f == nil || f.Kind != tt.kind || tt.reason != "" && f.Reason != tt.reason {
			t.Errorf("%s: %.300v", tt.name, tt.err)
			continue
		}
		if tt.field != "" && (len(f.Violations) == 0 || f.Violations[0].Field != tt.field) {
			t.Errorf("%s: violations %v, want field %s", tt.name, f.Violations, tt.field)
		}
	}
	if f := fault.As(rpc.Fault(illegal)); f.Metadata["state"] != "PLACED" || f.Metadata["command"] != "CompleteOrder" {
		t.Errorf("metadata %v", f.Metadata)
	}
}

// Cancel, confirm, hold and amend race on one order. Whatever wins, the journal
// is one history that the aggregate allows, and no answered cancel is lost.
func TestRacingCommandsMakeOneHistory(t *testing.T) {
	s := start(t)
	for range 15 {
		id := s.place(placing()).GetOrder().GetOrderId()
		var wg sync.WaitGroup
		var cancelled, confirmed bool
		try := func(ok *bool, err error) {
			if err == nil {
				*ok = true
			} else if fault.KindOf(rpc.Fault(err)) != fault.KindFailedPrecondition {
				t.Error(err)
			}
		}
		var other bool
		wg.Go(func() {
			_, err := s.CancelOrder(t.Context(), &orderpb.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: orderpb.CancelReason_CANCEL_REASON_CUSTOMER})
			try(&cancelled, err)
		})
		wg.Go(func() {
			_, err := s.ConfirmOrder(t.Context(), &orderpb.ConfirmOrderRequest{RequestId: uuid.NewString(), OrderId: id})
			try(&confirmed, err)
		})
		wg.Go(func() {
			_, err := s.AmendOrder(t.Context(), &orderpb.AmendOrderRequest{RequestId: uuid.NewString(), OrderId: id, Address: &commercepb.Address{City: "Bonn"}})
			try(&other, err)
		})
		wg.Wait()
		if !cancelled {
			t.Error("a cancel of a live order was refused")
		}
		events, err := s.journal.GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: id})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		sequence := int64(0)
		for i, e := range events.GetEvents() {
			if e.GetVersion() != int64(i+1) || e.GetSequence() <= sequence {
				t.Errorf("event %d: %v", i, e)
			}
			sequence = e.GetSequence()
			names = append(names, e.GetType())
		}
		if last := names[len(names)-1]; last != "OrderCancelled" {
			t.Errorf("history %v", names)
		}
		if confirmed != (strings.Contains(fmt.Sprint(names), "OrderConfirmed")) {
			t.Errorf("confirmed %v, history %v", confirmed, names)
		}
	}
}

func TestOrdersAreListedInPages(t *testing.T) {
	s := start(t)
	var want []string
	for i := range 9 {
		r := placing()
		r.CustomerId = fmt.Sprintf("c-%d", i%2)
		id := s.place(r).GetOrder().GetOrderId()
		switch {
		case i%2 == 0:
		case i == 3:
			if _, err := s.CancelOrder(t.Context(), &orderpb.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: orderpb.CancelReason_CANCEL_REASON_FRAUD}); err != nil {
				t.Fatal(err)
			}
		default:
			want = append([]string{id}, want...)
		}
	}
	req := &orderpb.ListOrdersRequest{CustomerId: "c-1", States: []orderpb.OrderState{orderpb.OrderState_ORDER_STATE_PLACED}, PageSize: 2}
	var got []string
	for page := 0; page == 0 || req.GetPageToken() != ""; page++ {
		resp, err := s.ListOrders(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range resp.GetOrders() {
			got = append(got, o.GetOrderId())
		}
		if page == 0 {
			s.place(placing()) // a newer one does not shift the pages
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	req.PageToken = "AAAA"
	if _, err := s.ListOrders(t.Context(), req); fault.KindOf(rpc.Fault(err)) != fault.KindInvalid {
		t.Errorf("forged token: %v", err)
	}
}
