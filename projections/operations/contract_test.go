package operations_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/testkit/asked"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
)

func TestEveryQueryHonoursTheContract(t *testing.T) {
	s := run(t)
	story := history.NewStory("o-1")
	s.Publish(story.All()...)
	s.set(24 * 60)
	asked.Test(t, asked.World{Conn: s.conn, Feed: s.Feed, Sources: operations.View().Sources, Seen: atLeast(story.Last()...).GetAtLeast().GetTokens()[0]}, []asked.Query{
		{Method: operationsv1.OperationsService_ListWorkItems_FullMethodName, Request: &operationsv1.ListWorkItemsRequest{}},
		{Method: operationsv1.OperationsService_ListWorkItems_FullMethodName, Request: &operationsv1.ListWorkItemsRequest{OrderId: "o-1"}, OneOrder: true},
		{Method: operationsv1.OperationsService_ListOpenOrders_FullMethodName, Request: &operationsv1.ListOpenOrdersRequest{}},
		{Method: operationsv1.OperationsService_GetWarehouseBoard_FullMethodName, Request: &operationsv1.GetWarehouseBoardRequest{}},
		{Method: operationsv1.OperationsService_GetThroughput_FullMethodName, Request: &operationsv1.GetThroughputRequest{
			From: timestamppb.New(history.Dawn), To: timestamppb.New(history.Dawn.AddDate(0, 0, 7)),
		}},
		{Method: operationsv1.OperationsService_GetTotals_FullMethodName, Request: &operationsv1.GetTotalsRequest{}},
	})
}

// Nothing comes, and yet the answer changes: the clock makes work of an order
// that stands still, and makes it late.
func TestTheClockChangesTheETag(t *testing.T) {
	s := run(t)
	story := history.NewStory("o-1")
	s.Publish(story.All()...)
	seen := map[string]int{} // etag → items and how many of them are late
	last, changes := "", 0
	known := atLeast(story.Last()...)
	for hours := 0.0; hours < 24*30; hours += 6 {
		s.set(hours)
		answer, err := s.ListWorkItems(t.Context(), &operationsv1.ListWorkItemsRequest{OrderId: "o-1", Read: known})
		if err != nil {
			t.Fatal(err)
		}
		known = &freshnessv1.ReadOptions{}
		shows := 100 * len(answer.GetWorkItems())
		for _, item := range answer.GetWorkItems() {
			if item.GetOverdue() {
				shows++
			}
		}
		etag := answer.GetFreshness().GetEtag()
		if before, ok := seen[etag]; ok && before != shows {
			t.Fatalf("after %v hours etag %s shows %d, and showed %d", hours, etag, shows, before)
		}
		if seen[etag] = shows; etag != last {
			changes++
		}
		last = etag
	}
	if changes < 3 || changes > 20 {
		t.Errorf("%d etags in 30 days", changes)
	}
}
