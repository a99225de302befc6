package operations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
)

// Every order that a list shows says how many of its facts are not in it.
func TestListsSayWhatTheyAreWithout(t *testing.T) {
	s := run(t)
	s.set(200) // late
	ctx := t.Context()
	var last []event.Fact
	for _, order := range []string{"o-1", "o-2"} {
		story := history.NewStory(order)
		s.Publish(story.All()...)
		last = append(last, story.Last()...)
	}
	read, err := s.ListOpenOrders(ctx, &operationsv1.ListOpenOrdersRequest{Read: atLeast(last...)})
	if err != nil {
		t.Fatal(err)
	}
	if got := read.GetFreshness().GetSkipped(); got != 0 {
		t.Errorf("%d facts of no order were given up", got)
	}
	// As the kernel notes it when an operator gives two facts up.
	pool, err := postgres.Open(ctx, postgres.Config{URL: s.database, MaxConns: 1}, telemetry.Off())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	schema := strings.NewReplacer("/", "_g", "-", "_").Replace(read.GetFreshness().GetGeneration())
	if _, err := pool.Exec(ctx, `SET search_path = `+schema+`;
		UPDATE position SET revision = revision + 1, skipped = '{"o-1": 2}' WHERE partition = (SELECT partition FROM state WHERE order_id = 'o-1')`); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	open, err := s.ListOpenOrders(ctx, &operationsv1.ListOpenOrdersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range open.GetOrders() {
		got["open "+o.GetOrderId()] = o.GetSkipped()
	}
	work, err := s.ListWorkItems(ctx, &operationsv1.ListWorkItemsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range work.GetWorkItems() {
		got["work "+w.GetOrderId()] = w.GetSkipped()
	}
	board, err := s.GetWarehouseBoard(ctx, &operationsv1.GetWarehouseBoardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got["board"] = board.GetFreshness().GetSkipped()
	want := map[string]int64{"open o-1": 2, "open o-2": 0, "work o-1": 2, "work o-2": 0, "board": 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts given up (-want +got):\n%s", diff)
	}
}
