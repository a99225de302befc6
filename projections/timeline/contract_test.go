package timeline_test

import (
	"testing"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/platform/testkit/asked"
	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

func TestEveryQueryHonoursTheContract(t *testing.T) {
	broker := testkit.Broker(t)
	conn, _ := serve(t, config(t, broker.Addr()))
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	s := history.NewStory("o-1")
	f.Publish(s.All()...)
	asked.Test(t, asked.World{Conn: conn, Feed: f, Sources: timeline.View().Sources, Seen: atLeast(s.Last()...).GetAtLeast().GetTokens()[0]}, []asked.Query{
		{Method: timelinev1.TimelineService_GetOrderStatus_FullMethodName, Request: &timelinev1.GetOrderStatusRequest{OrderId: "o-1"}, OneOrder: true},
		{Method: timelinev1.TimelineService_ListOrderTimeline_FullMethodName, Request: &timelinev1.ListOrderTimelineRequest{OrderId: "o-1"}, OneOrder: true},
		{Method: timelinev1.TimelineService_ListCustomerTimeline_FullMethodName, Request: &timelinev1.ListCustomerTimelineRequest{CustomerId: "ana"}},
		{Method: timelinev1.TimelineService_GetCustomerOverview_FullMethodName, Request: &timelinev1.GetCustomerOverviewRequest{CustomerId: "ana"}},
	})
}
