package timeline_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// run starts the timeline and returns a client and a function that stops it.
func run(t *testing.T, cfg timeline.Config) (timelinev1.TimelineServiceClient, func()) {
	t.Helper()
	conn, stop := serve(t, cfg)
	return timelinev1.NewTimelineServiceClient(conn), stop
}

func serve(t *testing.T, cfg timeline.Config) (*grpc.ClientConn, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(lifecycle.WithLogger(t.Context(), testLog()))
	ready := make(chan string, 1)
	cfg.Ready = func(addr string) { ready <- addr }
	done := make(chan error, 1)
	go func() { done <- timeline.Run(ctx, cfg) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case addr := <-ready:
		conn, err := rpc.Dial(addr, telemetry.Off(), grpc.WithDisableServiceConfig())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for { // a new view is built first, even of nothing
			_, err := timelinev1.NewTimelineServiceClient(conn).ListCustomerTimeline(t.Context(), &timelinev1.ListCustomerTimelineRequest{CustomerId: "nobody"})
			if status.Code(err) != codes.Unavailable {
				return conn, stop
			}
		}
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	return nil, nil
}

func testLog() *slog.Logger {
	if os.Getenv("TIDEMARK_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

func config(t *testing.T, brokers string) timeline.Config {
	t.Helper()
	cfg, err := lifecycle.Defaults[timeline.Config]()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Postgres.URL = testkit.PostgresURL(t)
	cfg.Kafka.Brokers = brokers
	cfg.Kafka.RegistryURL = "http://127.0.0.1:1"
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	return cfg
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
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: demand}, WaitBudget: durationpb.New(20 * time.Second),
	}
}

func TestFromTopicToAnswer(t *testing.T) {
	broker := testkit.Broker(t)
	client, _ := run(t, config(t, broker.Addr()))
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	s := history.NewStory("o-1")
	f.Publish(s.All()...)
	answer, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-1", Read: atLeast(s.Last()...)})
	if err != nil {
		t.Fatal(err)
	}
	o := answer.GetOrder()
	got := []any{o.GetStatus().String(), o.GetHeadline(), o.GetTotal().GetAmount(), o.GetPayments()[0].GetState(), o.GetPayments()[0].GetCaptured().GetAmount(),
		o.GetPayments()[1].GetState(), o.GetShipments()[0].GetState(), o.GetShipments()[0].GetDelayed(), o.GetExpectedAt().AsTime().Sub(history.Dawn).Hours()}
	want := []any{"ORDER_STATUS_SHIPPED", "The order is on its way. Expected by 7 March 2026.", int64(1500), "captured", int64(1000), "requested", "dispatched", true, 140.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if fr := answer.GetFreshness(); !fr.GetDemandMet() || len(fr.GetEntityVersions()) != 4 || fr.GetEntityStatus() != freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT ||
		fr.GetSources()[0].GetAsOf() != nil {
		t.Errorf("freshness: %v", fr)
	}

	entries := pages(t, client, &timelinev1.ListOrderTimelineRequest{OrderId: "o-1", PageSize: 4})
	var lines []string
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%.0f %s", e.GetOccurredAt().AsTime().Sub(history.Dawn).Hours(), e.GetSummary()))
	}
	wantLines := []string{
		"6 Parcel delayed, now expected 7 March 2026: flood",
		"5 10.00 BRL collected by card", "5 Parcel handed to Correios, tracking number BR1, expected 5 March 2026",
		"3 Order confirmed", "3 Parcel planned from w1", "2 Payment of 10.00 BRL approved by the provider",
		"1 Payment of 5.00 BRL asked for by voucher", "1 Payment of 10.00 BRL asked for by card",
		"0 Order placed through web: 1 item, 15.00 BRL",
	}
	if diff := cmp.Diff(wantLines, lines); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	if e := entries[0]; e.GetTraceId() != "0af7651916cd43dd8448eb211c80319c" || e.GetActor() != "carrier" || e.GetSource() != "shipment" {
		t.Errorf("entry: %v", e)
	}
	problems, err := client.ListCustomerTimeline(t.Context(), &timelinev1.ListCustomerTimelineRequest{
		CustomerId: "ana", Kinds: []timelinev1.EntryKind{timelinev1.EntryKind_ENTRY_KIND_SHIPMENT_PROBLEM},
	})
	if err != nil || len(problems.GetEntries()) != 1 {
		t.Errorf("problems: %v, %v", problems, err)
	}
	customer, err := client.GetCustomerOverview(t.Context(), &timelinev1.GetCustomerOverviewRequest{CustomerId: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	ov := customer.GetOverview()
	if ov.GetOrdersTotal() != 1 || ov.GetOrdersOpen() != 1 || len(ov.GetOpenOrders()) != 1 || ov.GetNetSpend()[0].GetAmount() != 1000 ||
		ov.GetLastContact().GetName() != "Ana" || ov.GetLastAddress().GetLine1() != "Rua 1" {
		t.Errorf("overview: %v", ov)
	}
	if m := o.GetPayments()[1].GetMethod(); m != commercev1.PaymentMethod_PAYMENT_METHOD_VOUCHER {
		t.Errorf("method %v", m)
	}
}

// pages follows page tokens to the end.
func pages(t *testing.T, client timelinev1.TimelineServiceClient, r *timelinev1.ListOrderTimelineRequest) []*timelinev1.Entry {
	t.Helper()
	var all []*timelinev1.Entry
	for {
		page, err := client.ListOrderTimeline(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetEntries()...)
		if r.PageToken = page.GetNextPageToken(); r.PageToken == "" {
			return all
		}
	}
}

func TestAbsenceIsHonest(t *testing.T) {
	broker := testkit.Broker(t)
	client, _ := run(t, config(t, broker.Addr()))
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	s := history.NewStory("o-1")
	f.Publish(s.All()...)
	if _, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-1", Read: atLeast(s.Last()...)}); err != nil {
		t.Fatal(err)
	}
	missing := func(read *freshnessv1.ReadOptions) (codes.Code, freshnessv1.Absence_Kind) {
		_, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-2", Read: read})
		for _, d := range status.Convert(err).Details() {
			if a, ok := d.(*freshnessv1.Absence); ok {
				return status.Code(err), a.GetKind()
			}
		}
		return status.Code(err), 0
	}
	if code, kind := missing(nil); code != codes.NotFound || kind != freshnessv1.Absence_KIND_NOT_YET_PROJECTED {
		t.Errorf("before any control record: %v %v", code, kind)
	}
	token := atLeast(history.NewStory("o-2").Last()...)
	token.WaitBudget = durationpb.New(50 * time.Millisecond)
	if code, kind := missing(token); code != codes.DeadlineExceeded || kind != freshnessv1.Absence_KIND_NOT_YET_PROJECTED {
		t.Errorf("with a token that never comes: %v %v", code, kind)
	}
	for _, source := range []string{"order", "payment", "shipment"} {
		f.Totals(source, history.Dawn)
	}
	next := history.NewStory("o-3")
	f.Publish(next.All()...) // behind the control records of its partition
	if _, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-3", Read: atLeast(next.Last()...)}); err != nil {
		t.Fatal(err)
	}
	page := &timelinev1.ListOrderTimelineRequest{OrderId: "o-3", PageSize: 2}
	first, err := client.ListOrderTimeline(t.Context(), page)
	if err != nil {
		t.Fatal(err)
	}
	if asOf := first.GetFreshness().GetSources()[0].GetAsOf().AsTime(); !asOf.Equal(history.Dawn) {
		t.Errorf("as_of %v, want %v", asOf, history.Dawn)
	}
	for name, spoil := range map[string]func(*timelinev1.ListOrderTimelineRequest){
		"another order":  func(r *timelinev1.ListOrderTimelineRequest) { r.OrderId = "o-1" },
		"another filter": func(r *timelinev1.ListOrderTimelineRequest) { r.Kinds = []timelinev1.EntryKind{1} },
		"a changed token": func(r *timelinev1.ListOrderTimelineRequest) {
			r.PageToken = strings.Repeat("A", 40) + r.PageToken[40:]
		},
	} {
		r := &timelinev1.ListOrderTimelineRequest{OrderId: "o-3", PageSize: 2, PageToken: first.GetNextPageToken()}
		spoil(r)
		if _, err := client.ListOrderTimeline(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a page token with %s: %v", name, err)
		}
	}
}

func TestEveryQueryAnswersWithEverythingElseStopped(t *testing.T) {
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t, broker.Addr())
	client, stop := run(t, cfg)
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	s := history.NewStory("o-1")
	f.Publish(s.All()...)
	asOf := time.Now().UTC().Truncate(time.Microsecond)
	for _, source := range []string{"order", "payment", "shipment"} {
		f.Totals(source, asOf)
	}
	s.Order.Add(history.Dawn, &facts.OrderHeld{OrderID: "o-1", CustomerID: "ana", Actor: "operator:kim", Reason: "address"})
	f.Publish(s.Order.Facts[len(s.Order.Facts)-1])
	if _, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-1", Read: atLeast(s.Last()...)}); err != nil {
		t.Fatal(err)
	}
	// Marks of all sources and partitions are stored, each with its own batch.
	changes, err := client.WatchOrder(t.Context(), &timelinev1.WatchOrderRequest{OrderId: "o-1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changes.Recv(); err != nil {
		t.Fatal(err)
	}
	for fresh := false; !fresh; {
		answer, err := client.ListCustomerTimeline(t.Context(), &timelinev1.ListCustomerTimelineRequest{CustomerId: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		fresh = true
		for _, source := range answer.GetFreshness().GetSources() {
			fresh = fresh && source.GetAsOf() != nil
		}
	}
	broker.Close()
	check := func(client timelinev1.TimelineServiceClient) {
		t.Helper()
		ages := map[string]time.Duration{}
		for range 2 {
			for name, query := range map[string]func() (*freshnessv1.Freshness, error){
				"status": func() (*freshnessv1.Freshness, error) {
					r, err := client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-1"})
					return r.GetFreshness(), err
				},
				"order timeline": func() (*freshnessv1.Freshness, error) {
					r, err := client.ListOrderTimeline(t.Context(), &timelinev1.ListOrderTimelineRequest{OrderId: "o-1"})
					return r.GetFreshness(), err
				},
				"customer timeline": func() (*freshnessv1.Freshness, error) {
					r, err := client.ListCustomerTimeline(t.Context(), &timelinev1.ListCustomerTimelineRequest{CustomerId: "ana"})
					return r.GetFreshness(), err
				},
				"overview": func() (*freshnessv1.Freshness, error) {
					r, err := client.GetCustomerOverview(t.Context(), &timelinev1.GetCustomerOverviewRequest{CustomerId: "ana"})
					return r.GetFreshness(), err
				},
			} {
				got, err := query()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, source := range got.GetSources() {
					key := name + " " + source.GetSource()
					if !source.GetAsOf().AsTime().Equal(asOf) {
						t.Errorf("%s: as_of moved to %v", key, source.GetAsOf().AsTime())
					}
					if age := source.GetStaleness().AsDuration(); age <= ages[key] {
						t.Errorf("%s: staleness did not grow: %v after %v", key, age, ages[key])
					} else {
						ages[key] = age
					}
					if source.GetCompleteness() != freshnessv1.Completeness_COMPLETENESS_PROVEN || !source.GetProvenUntil().AsTime().Equal(asOf) {
						t.Errorf("%s is %v until %v, want proven until %v", key, source.GetCompleteness(), source.GetProvenUntil().AsTime(), asOf)
					}
				}
			}
		}
	}
	check(client)
	stop()
	restarted, _ := run(t, cfg) // nothing but its database is there
	check(restarted)
}
