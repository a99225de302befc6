package timeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
)

// Every order that an answer shows says how many of its facts are not in it.
func TestAnswersSayWhatTheyAreWithout(t *testing.T) {
	broker := testkit.Broker(t)
	cfg := config(t, broker.Addr())
	client, _ := run(t, cfg)
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	ctx := t.Context()
	var last []event.Fact
	for _, order := range []string{"o-1", "o-2"} {
		s := history.NewStory(order)
		f.Publish(s.All()...)
		last = append(last, s.Last()...)
	}
	read, err := client.ListCustomerTimeline(ctx, &timelinev1.ListCustomerTimelineRequest{CustomerId: "ana", Read: atLeast(last...)})
	if err != nil {
		t.Fatal(err)
	}
	if got := read.GetFreshness().GetSkipped(); got != 0 {
		t.Errorf("%d facts of no order were given up", got)
	}
	// As the kernel notes it when an operator gives two facts up.
	pool, err := postgres.Open(ctx, postgres.Config{URL: cfg.Postgres.URL, MaxConns: 1}, telemetry.Off())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	schema := strings.NewReplacer("/", "_g", "-", "_").Replace(read.GetFreshness().GetGeneration())
	if _, err := pool.Exec(ctx, `SET search_path = `+schema+`;
		UPDATE state SET applied = jsonb_set(applied::jsonb, '{a,order/o-1,k}', '2')::json WHERE order_id = 'o-1';
		UPDATE position SET revision = revision + 1, skipped = '{"o-1": 2}' WHERE partition = (SELECT partition FROM state WHERE order_id = 'o-1')`); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	customer, err := client.ListCustomerTimeline(ctx, &timelinev1.ListCustomerTimelineRequest{CustomerId: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	got["customer"] = customer.GetFreshness().GetSkipped()
	for _, e := range customer.GetEntries() {
		got["customer "+e.GetOrderId()] = e.GetSkipped()
	}
	overview, err := client.GetCustomerOverview(ctx, &timelinev1.GetCustomerOverviewRequest{CustomerId: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range overview.GetOverview().GetOpenOrders() {
		got["overview "+o.GetOrderId()] = o.GetSkipped()
	}
	for _, order := range []string{"o-1", "o-2"} {
		entries, err := client.ListOrderTimeline(ctx, &timelinev1.ListOrderTimelineRequest{OrderId: order})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries.GetEntries() {
			got["order "+e.GetOrderId()] = e.GetSkipped()
		}
		status, err := client.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: order})
		if err != nil {
			t.Fatal(err)
		}
		got["status "+order] = status.GetOrder().GetSkipped()
	}
	watch, err := client.WatchOrder(ctx, &timelinev1.WatchOrderRequest{OrderId: "o-1"})
	if err != nil {
		t.Fatal(err)
	}
	now, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got["watched o-1"] = now.GetOrder().GetSkipped()
	want := map[string]int64{
		"customer": 2, "customer o-1": 2, "customer o-2": 0, "overview o-1": 2, "overview o-2": 0,
		"order o-1": 2, "order o-2": 0, "status o-1": 2, "status o-2": 0, "watched o-1": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts given up (-want +got):\n%s", diff)
	}
}
