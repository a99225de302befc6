package operations_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(hours float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = history.Dawn.Add(time.Duration(hours * float64(time.Hour)))
}

type subject struct {
	operationsv1.OperationsServiceClient
	conn *grpc.ClientConn
	*feed.Feed
	*clock
	database string // URL
}

func run(t *testing.T, owners ...string) *subject {
	t.Helper()
	broker := testkit.Broker(t)
	cfg, err := lifecycle.Defaults[operations.Config]()
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	c.set(0)
	ready := make(chan string, 1)
	cfg.Postgres.URL, cfg.Kafka.Brokers, cfg.Kafka.RegistryURL = testkit.PostgresURL(t), broker.Addr(), "http://127.0.0.1:1"
	cfg.RPC.Addr, cfg.RPC.HTTPAddr, cfg.Now, cfg.Ready = "127.0.0.1:0", "", c.read, func(addr string) { ready <- addr }
	for _, addr := range owners {
		cfg.Owners.Order, cfg.Owners.Payment, cfg.Owners.Shipment = addr, addr, addr
	}
	ctx, cancel := context.WithCancel(lifecycle.WithLogger(t.Context(), slog.New(slog.DiscardHandler)))
	done := make(chan error, 1)
	go func() { done <- operations.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case addr := <-ready:
		conn, err := rpc.Dial(addr, telemetry.Off(), grpc.WithDisableServiceConfig())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		client := operationsv1.NewOperationsServiceClient(conn)
		for { // a new view is built first, even of nothing
			if _, err := client.GetTotals(t.Context(), &operationsv1.GetTotalsRequest{}); status.Code(err) != codes.Unavailable {
				break
			}
		}
		return &subject{client, conn, feed.New(t, kafka.Config{Brokers: broker.Addr()}), c, cfg.Postgres.URL}
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	return nil
}

// atLeast demands the facts, with a budget that only a defect uses up.
func atLeast(facts ...event.Fact) *freshnessv1.ReadOptions {
	demand := &freshnessv1.AtLeast{}
	for _, f := range facts {
		demand.Tokens = append(demand.Tokens, &freshnessv1.Token{
			AggregateType: f.Aggregate.Type, AggregateId: f.Aggregate.ID, Version: f.Version, Epoch: f.Epoch,
			EventId: uuid.NewSHA1(uuid.Nil, []byte(f.ID)).String(),
		})
	}
	return &freshnessv1.ReadOptions{Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: demand}, WaitBudget: durationpb.New(20 * time.Second)}
}

func ids(items []*operationsv1.WorkItem) []string {
	var all []string
	for _, w := range items {
		all = append(all, w.GetWorkItemId())
	}
	return all
}

func TestBoardsAndTotals(t *testing.T) {
	s := run(t)
	var last []event.Fact
	for i := range 3 {
		story := history.NewStory(fmt.Sprintf("o-%d", i))
		s.Publish(story.All()...)
		last = append(last, story.Last()...)
	}
	ctx := t.Context()
	totals, err := s.GetTotals(ctx, &operationsv1.GetTotalsRequest{Read: atLeast(last...)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range totals.GetOrders() {
		got = append(got, fmt.Sprintf("%s %s %d", o.GetChannel(), o.GetStatus(), o.GetOrders()))
	}
	for _, m := range totals.GetMoney() {
		got = append(got, fmt.Sprintf("%s %s %s %d %d %d %d", m.GetChannel(), m.GetMethod(), m.GetCurrency(), m.GetPayments(), m.GetRequested(), m.GetCaptured(), m.GetRefunded()))
	}
	board, err := s.GetWarehouseBoard(ctx, &operationsv1.GetWarehouseBoardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range board.GetWarehouses() {
		got = append(got, fmt.Sprintf("%s open %d planned %d transit %d", w.GetWarehouse(), w.GetOpenOrders(), w.GetShipmentsPlanned(), w.GetShipmentsInTransit()))
	}
	for _, bucket := range []operationsv1.Bucket{operationsv1.Bucket_BUCKET_HOUR, operationsv1.Bucket_BUCKET_DAY} {
		series, err := s.GetThroughput(ctx, &operationsv1.GetThroughputRequest{
			From: timestamppb.New(history.Dawn), To: timestamppb.New(history.Dawn.Add(48 * time.Hour)), Bucket: bucket, Channel: "web",
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range series.GetPoints() {
			got = append(got, fmt.Sprintf("%s %d %d %d %d", p.GetAt().AsTime().Format("02T15"), p.GetPlaced(), p.GetConfirmed(), p.GetShipped(), p.GetDelivered()))
		}
	}
	want := []string{
		"web shipped 3", "web PAYMENT_METHOD_CARD BRL 3 3000 3000 0", "web PAYMENT_METHOD_VOUCHER BRL 3 1500 0 0",
		"w1 open 3 planned 0 transit 3", "01T06 3 0 0 0", "01T09 0 3 0 0", "01T11 0 0 3 0", "01T00 3 3 3 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("totals and boards (-want +got):\n%s", diff)
	}
	var orders []string
	for r := (&operationsv1.ListOpenOrdersRequest{Warehouse: "w1", PageSize: 2}); ; {
		page, err := s.ListOpenOrders(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.GetOrders() {
			orders = append(orders, o.GetOrderId()+" "+o.GetStatus())
		}
		if r.PageToken = page.GetNextPageToken(); r.PageToken == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"o-0 shipped", "o-1 shipped", "o-2 shipped"}, orders); diff != "" {
		t.Errorf("open orders (-want +got):\n%s", diff)
	}
	if _, err := s.GetThroughput(ctx, &operationsv1.GetThroughputRequest{From: timestamppb.New(history.Dawn.AddDate(-10, 0, 0)), To: timestamppb.New(history.Dawn)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("ten years of hours: %v", err)
	}
}

func TestWhatIsLateByTheClockAlone(t *testing.T) {
	s := run(t)
	story := history.NewStory("o-1") // placed at 0, promised for 100, delayed at 6 from 90 to 140
	s.Publish(story.All()...)
	list := func(r *operationsv1.ListWorkItemsRequest) []*operationsv1.WorkItem {
		t.Helper()
		answer, err := s.ListWorkItems(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetWorkItems()
	}
	if items := list(&operationsv1.ListWorkItemsRequest{Read: atLeast(story.Last()...)}); len(items) != 0 {
		t.Errorf("at dawn there is work already: %v", items)
	}
	promise, parcel := "o-1/WORK_KIND_PROMISE_AT_RISK/o-1", "o-1/WORK_KIND_SHIPMENT_DELAYED/o-1-parcel"
	steps := []struct {
		at      float64
		want    []string
		overdue []string
		high    int
	}{
		{at: 5.9},
		{at: 6, want: []string{parcel}},
		{at: 76, want: []string{parcel, promise}, overdue: []string{parcel}, high: 1},
		{at: 100, want: []string{parcel, promise}, overdue: []string{parcel, promise}, high: 2},
	}
	for _, step := range steps {
		s.set(step.at)
		if diff := cmp.Diff(step.want, ids(list(&operationsv1.ListWorkItemsRequest{}))); diff != "" {
			t.Errorf("at %v (-want +got):\n%s", step.at, diff)
		}
		if diff := cmp.Diff(step.overdue, ids(list(&operationsv1.ListWorkItemsRequest{OverdueOnly: true}))); diff != "" {
			t.Errorf("overdue at %v (-want +got):\n%s", step.at, diff)
		}
		if n := len(list(&operationsv1.ListWorkItemsRequest{MinSeverity: operationsv1.Severity_SEVERITY_HIGH})); n != step.high {
			t.Errorf("at %v %d items of high severity, want %d", step.at, n, step.high)
		}
	}
	for name, r := range map[string]*operationsv1.ListWorkItemsRequest{
		"another kind":      {Kinds: []operationsv1.WorkKind{operationsv1.WorkKind_WORK_KIND_HELD}},
		"another warehouse": {Warehouse: "w9"}, "another channel": {Channel: "olist"}, "another order": {OrderId: "o-2"},
	} {
		if items := list(r); len(items) != 0 {
			t.Errorf("%s: %v", name, items)
		}
	}
	if w := list(&operationsv1.ListWorkItemsRequest{Warehouse: "w1", OrderId: "o-1", Channel: "web", Kinds: []operationsv1.WorkKind{2}}); len(w) != 1 ||
		w[0].GetAge().AsDuration() != 24*time.Hour || !w[0].GetOverdue() {
		t.Errorf("the promise, a day after it began to show: %v", w)
	}
}

func TestWorkItemPages(t *testing.T) {
	s := run(t)
	var last []event.Fact
	for i := range 5 {
		story := history.NewStory(fmt.Sprintf("o-%d", i))
		if i%2 == 0 { // some of higher severity
			story.Parcel.Add(history.Dawn.Add(7*time.Hour), &facts.ShipmentLost{OrderID: story.Order.ID, CustomerID: "ana", ShipmentID: story.Parcel.ID})
		}
		s.Publish(story.All()...)
		last = append(last, story.Last()...)
	}
	s.set(80)
	if _, err := s.ListWorkItems(t.Context(), &operationsv1.ListWorkItemsRequest{Read: atLeast(last...)}); err != nil {
		t.Fatal(err)
	}
	for _, sort := range []operationsv1.WorkItemOrder{1, 2, 3} {
		whole, err := s.ListWorkItems(t.Context(), &operationsv1.ListWorkItemsRequest{OrderBy: sort})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(whole.GetWorkItems(), func(a, b *operationsv1.WorkItem) int {
			switch {
			case sort == 3 && a.GetSeverity() != b.GetSeverity():
				return int(b.GetSeverity() - a.GetSeverity())
			case sort == 2:
				return a.GetSince().AsTime().Compare(b.GetSince().AsTime())
			}
			return a.GetSlaDeadline().AsTime().Compare(b.GetSlaDeadline().AsTime())
		}) {
			t.Errorf("%v: not sorted: %v", sort, ids(whole.GetWorkItems()))
		}
		var paged []*operationsv1.WorkItem
		r := &operationsv1.ListWorkItemsRequest{OrderBy: sort, PageSize: 3}
		for {
			page, err := s.ListWorkItems(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			paged = append(paged, page.GetWorkItems()...)
			s.set(60) // whatever the clock does between pages, they are about the instant of the first
			if r.PageToken = page.GetNextPageToken(); r.PageToken == "" {
				break
			}
		}
		s.set(80)
		if diff := cmp.Diff(ids(whole.GetWorkItems()), ids(paged)); diff != "" || len(paged) < 8 {
			t.Errorf("%v: pages differ from the whole (-whole +paged):\n%s", sort, diff)
		}
	}
	first, err := s.ListWorkItems(t.Context(), &operationsv1.ListWorkItemsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ListWorkItems(t.Context(), &operationsv1.ListWorkItemsRequest{PageSize: 1, Channel: "web", PageToken: first.GetNextPageToken()}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a page token with another filter: %v", err)
	}
}

func TestWatchBoard(t *testing.T) {
	s := run(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	boards, err := s.WatchBoard(ctx, &operationsv1.WatchBoardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// until reads boards until one is as wanted.
	until := func(what string, ok func(*operationsv1.WatchBoardResponse) bool) {
		t.Helper()
		for {
			board, err := boards.Recv()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if ok(board) {
				return
			}
		}
	}
	until("empty", func(b *operationsv1.WatchBoardResponse) bool { return len(b.GetWork()) == 0 && len(b.GetOrders()) == 0 })
	order := history.Aggregate{Order: "o", Type: "order", ID: "o"}
	s.set(0.9999) // placed orders show after an hour: 360 ms of real time from here
	began := time.Now()
	s.Publish(order.Add(history.Dawn, &facts.OrderPlaced{OrderID: "o", CustomerID: "c", Fulfilment: facts.FulfilmentManaged,
		Total: facts.Money{Amount: 1, Currency: "EUR"}, ShippingFee: facts.Money{Currency: "EUR"}}))
	until("placed", func(b *operationsv1.WatchBoardResponse) bool {
		return len(b.GetWork()) == 0 && len(b.GetOrders()) == 1 && b.GetOrders()[0].GetStatus() == "placed"
	})
	s.set(1.0001)
	until("stuck by the clock", func(b *operationsv1.WatchBoardResponse) bool {
		return len(b.GetWork()) == 1 && b.GetWork()[0].GetKind() == operationsv1.WorkKind_WORK_KIND_STUCK && b.GetWork()[0].GetCount() == 1
	})
	if waited := time.Since(began); waited > 20*time.Second {
		t.Errorf("the board changed after %v", waited)
	}
	s.Publish(order.Add(history.Dawn, &facts.OrderHeld{OrderID: "o", CustomerID: "c"}))
	until("held", func(b *operationsv1.WatchBoardResponse) bool {
		return len(b.GetWork()) == 1 && b.GetWork()[0].GetKind() == operationsv1.WorkKind_WORK_KIND_HELD
	})
}

func TestGapIsHealedFromTheOwner(t *testing.T) {
	story := history.NewStory("o-1")
	addr, _ := feed.Serve(t, story.All()...)
	s := run(t, addr)
	for _, f := range story.All() {
		if f.Aggregate != story.Card.Facts[0].Aggregate || f.Version != 2 { // one is lost on the way
			s.Publish(f)
		}
	}
	answer, err := s.ListOpenOrders(t.Context(), &operationsv1.ListOpenOrdersRequest{Read: atLeast(story.Last()...)})
	if err != nil || len(answer.GetOrders()) != 1 {
		t.Fatalf("%v, %v", answer, err)
	}
	totals, err := s.GetTotals(t.Context(), &operationsv1.GetTotalsRequest{})
	if err != nil || totals.GetMoney()[0].GetCaptured() != 1000 {
		t.Errorf("%v, %v", totals, err)
	}
}
