package operations

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

const (
	defaultPage = 50
	maxBuckets  = 2000
	// boardPause is the least time between two looks of a watched board: under
	// load every commit is a reason to look.
	boardPause = 200 * time.Millisecond
)

// server answers queries: translate, read, translate.
type server struct {
	operationsv1.UnimplementedOperationsServiceServer
	copy  *projection.Projection[State]
	pager *rpc.Pager
	now   func() time.Time
}

func size(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// binding is what a page token is only valid for: a filter and a generation.
func binding(r proto.Message, generation string) []byte {
	return append(rpc.Binding(r, "page_size", "page_token", "read"), generation...)
}

var sorts = map[operationsv1.WorkItemOrder]workSort{
	operationsv1.WorkItemOrder_WORK_ITEM_ORDER_UNSPECIFIED: byDeadline,
	operationsv1.WorkItemOrder_WORK_ITEM_ORDER_DEADLINE:    byDeadline,
	operationsv1.WorkItemOrder_WORK_ITEM_ORDER_SINCE:       bySince,
	operationsv1.WorkItemOrder_WORK_ITEM_ORDER_SEVERITY:    bySeverity,
}

// ListWorkItems implements operations.v1.OperationsService. All pages are about
// the instant of the first one. The items of one order have an etag; the clock
// changes it when one of them shows or becomes late.
func (s *server) ListWorkItems(ctx context.Context, r *operationsv1.ListWorkItemsRequest) (*operationsv1.ListWorkItemsResponse, error) {
	limit, sort := size(r.GetPageSize()), sorts[r.GetOrderBy()]
	filter := workFilter{
		now: s.now(), minSeverity: int32(r.GetMinSeverity()), warehouse: r.GetWarehouse(), channel: r.GetChannel(),
		order: r.GetOrderId(), overdueOnly: r.GetOverdueOnly(),
	}
	for _, k := range r.GetKinds() {
		filter.kinds = append(filter.kinds, int32(k))
	}
	var behind *workPlace
	generation := ""
	if r.GetPageToken() != "" {
		behind = &workPlace{}
		var err error
		if generation, err = s.copy.PageOf(func(g string) error { return s.pager.Position(binding(r, g), r.GetPageToken(), behind) }); err != nil {
			return nil, err
		}
		filter.now = behind.Now
	}
	var found []item
	var passed *time.Time
	var skipped projection.Skipped
	f, err := s.copy.Read(ctx, r.GetRead(), r.GetOrderId(), func(b *pgx.Batch) {
		queueWork(b, filter, sort, behind, limit+1, &found)
		if filter.order != "" {
			queuePassed(b, filter.order, filter.now, &passed)
		}
	}, projection.InGeneration(generation), projection.DeadlinePassed(&passed), projection.SkippedBy(&skipped))
	if err != nil {
		return nil, err
	}
	answer := &operationsv1.ListWorkItemsResponse{Freshness: f}
	if f.GetNotModified() {
		return answer, nil
	}
	if len(found) > limit {
		found = found[:limit]
		if answer.NextPageToken, err = s.pager.Token(binding(r, f.GetGeneration()), found[limit-1].place(filter.now, sort)); err != nil {
			return nil, err
		}
	}
	for _, i := range found {
		w := i.proto(filter.now)
		w.Skipped = skipped.Of(i.OrderID)
		answer.WorkItems = append(answer.WorkItems, w)
	}
	return answer, nil
}

func (i item) proto(now time.Time) *operationsv1.WorkItem {
	kind := operationsv1.WorkKind(i.Kind)
	w := &operationsv1.WorkItem{
		WorkItemId: i.OrderID + "/" + kind.String() + "/" + i.SubjectID, Kind: kind, Severity: operationsv1.Severity(i.effective),
		OrderId: i.OrderID, CustomerId: i.CustomerID, SubjectId: i.SubjectID, Reason: i.Reason, Channel: i.Channel, Warehouse: i.Warehouse,
		Since: timestamppb.New(i.Since), Age: durationpb.New(now.Sub(i.Since)), SlaDeadline: timestamppb.New(i.Deadline),
		Overdue: !now.Before(i.Deadline),
	}
	if i.Amount != nil && i.Currency != nil {
		w.Amount = &commercev1.Money{Amount: *i.Amount, Currency: *i.Currency}
	}
	return w
}

// ListOpenOrders implements operations.v1.OperationsService.
func (s *server) ListOpenOrders(ctx context.Context, r *operationsv1.ListOpenOrdersRequest) (*operationsv1.ListOpenOrdersResponse, error) {
	limit, generation := size(r.GetPageSize()), ""
	var behind *openPlace
	if r.GetPageToken() != "" {
		behind = &openPlace{}
		var err error
		if generation, err = s.copy.PageOf(func(g string) error { return s.pager.Position(binding(r, g), r.GetPageToken(), behind) }); err != nil {
			return nil, err
		}
	}
	var found []OpenOrderRow
	var skipped projection.Skipped
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) { queueOpen(b, r.GetWarehouse(), behind, limit+1, &found) },
		projection.InGeneration(generation), projection.SkippedBy(&skipped))
	if err != nil {
		return nil, err
	}
	answer := &operationsv1.ListOpenOrdersResponse{Freshness: f}
	if len(found) > limit {
		found = found[:limit]
		last := found[limit-1]
		if answer.NextPageToken, err = s.pager.Token(binding(r, f.GetGeneration()), openPlace{last.PlacedAt, last.OrderID, last.Warehouse}); err != nil {
			return nil, err
		}
	}
	for _, o := range found {
		open := &operationsv1.OpenOrder{
			OrderId: o.OrderID, CustomerId: o.CustomerID, Warehouse: o.Warehouse, Status: o.Status, OnHold: o.OnHold,
			PlacedAt: timestamppb.New(o.PlacedAt), Total: &commercev1.Money{Amount: o.Total, Currency: o.Currency}, Channel: o.Channel,
			Skipped: skipped.Of(o.OrderID),
		}
		if o.PromisedAt != nil {
			open.PromisedAt = timestamppb.New(*o.PromisedAt)
		}
		answer.Orders = append(answer.Orders, open)
	}
	return answer, nil
}

// GetWarehouseBoard implements operations.v1.OperationsService.
func (s *server) GetWarehouseBoard(ctx context.Context, r *operationsv1.GetWarehouseBoardRequest) (*operationsv1.GetWarehouseBoardResponse, error) {
	var found []WarehouseSum
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) { queueWarehouses(b, size(r.GetLimit()), &found) })
	if err != nil {
		return nil, err
	}
	answer := &operationsv1.GetWarehouseBoardResponse{Freshness: f}
	for _, w := range found {
		answer.Warehouses = append(answer.Warehouses, &operationsv1.WarehouseCount{
			Warehouse: w.Warehouse, OpenOrders: w.Open, ShipmentsPlanned: w.Planned, ShipmentsInTransit: w.Transit,
		})
	}
	return answer, nil
}

// GetThroughput implements operations.v1.OperationsService.
func (s *server) GetThroughput(ctx context.Context, r *operationsv1.GetThroughputRequest) (*operationsv1.GetThroughputResponse, error) {
	unit, length := "hour", time.Hour
	if r.GetBucket() == operationsv1.Bucket_BUCKET_DAY {
		unit, length = "day", day
	}
	to := s.now()
	if r.GetTo() != nil {
		to = r.GetTo().AsTime()
	}
	from := to.Add(-day)
	if r.GetFrom() != nil {
		from = r.GetFrom().AsTime()
	}
	switch {
	case !from.Before(to):
		return nil, fault.Invalid("from", "must be before to")
	case to.Sub(from) > maxBuckets*length:
		return nil, fault.Invalid("from", "more than 2,000 buckets before to")
	}
	var found []ThroughputSum
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) {
		queueThroughput(b, unit, from.UTC().Truncate(length), to, r.GetChannel(), &found)
	})
	if err != nil {
		return nil, err
	}
	answer := &operationsv1.GetThroughputResponse{Freshness: f}
	for _, p := range found {
		answer.Points = append(answer.Points, &operationsv1.ThroughputPoint{
			At: timestamppb.New(p.Hour), Placed: p.Placed, Confirmed: p.Confirmed, Shipped: p.Shipped, Delivered: p.Delivered,
			Completed: p.Completed, Cancelled: p.Cancelled,
		})
	}
	return answer, nil
}

// GetTotals implements operations.v1.OperationsService.
func (s *server) GetTotals(ctx context.Context, r *operationsv1.GetTotalsRequest) (*operationsv1.GetTotalsResponse, error) {
	var statuses []StatusSum
	var money []MoneySum
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) {
		queueStatuses(b, r.GetChannel(), true, &statuses)
		queueMoney(b, r.GetChannel(), &money)
	})
	if err != nil {
		return nil, err
	}
	answer := &operationsv1.GetTotalsResponse{Orders: statusCounts(statuses), Freshness: f}
	for _, m := range money {
		answer.Money = append(answer.Money, &operationsv1.MethodTotal{
			Channel: m.Channel, Method: commercev1.PaymentMethod(commercev1.PaymentMethod_value["PAYMENT_METHOD_"+m.Method]), Currency: m.Currency,
			Payments: m.Payments, Requested: m.Requested, Captured: m.Captured, Refunded: m.Refunded,
		})
	}
	return answer, nil
}

func statusCounts(sums []StatusSum) []*operationsv1.StatusCount {
	var counts []*operationsv1.StatusCount
	for _, s := range sums {
		counts = append(counts, &operationsv1.StatusCount{Channel: s.Channel, Status: s.Status, Orders: s.Orders})
	}
	return counts
}

// WatchBoard implements operations.v1.OperationsService: the board now, again
// after every change, and again when the clock alone changes it.
func (s *server) WatchBoard(r *operationsv1.WatchBoardRequest, stream grpc.ServerStreamingServer[operationsv1.WatchBoardResponse]) error {
	ctx := stream.Context()
	changes := s.copy.Subscribe("")
	defer changes.Close()
	var last *operationsv1.WatchBoardResponse
	for {
		now := s.now()
		board, next, err := s.board(ctx, r.GetWarehouse(), now)
		if err != nil {
			return err
		}
		if last == nil || !sameBoard(last, board) {
			if err := stream.Send(board); err != nil {
				return err
			}
			last = board
		}
		if err := rest(ctx, boardPause); err != nil {
			return err
		}
		var atMost time.Duration
		if next != nil {
			atMost = max(next.Sub(s.now()), time.Millisecond)
		}
		if err := changes.Wait(ctx, atMost); err != nil {
			return err
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (s *server) board(ctx context.Context, warehouse string, now time.Time) (*operationsv1.WatchBoardResponse, *time.Time, error) {
	var counts []workCount
	var statuses []StatusSum
	var next *time.Time
	f, err := s.copy.Read(ctx, nil, "", func(b *pgx.Batch) {
		queueBoard(b, now, warehouse, &counts, &next)
		queueStatuses(b, "", false, &statuses)
	})
	if err != nil {
		return nil, nil, err
	}
	board := &operationsv1.WatchBoardResponse{Orders: statusCounts(statuses), Freshness: f}
	for _, c := range counts {
		board.Work = append(board.Work, &operationsv1.WorkCount{Kind: operationsv1.WorkKind(c.kind), Count: c.count, Overdue: c.overdue})
	}
	return board, next, nil
}

func sameBoard(a, b *operationsv1.WatchBoardResponse) bool {
	return proto.Equal(&operationsv1.WatchBoardResponse{Work: a.GetWork(), Orders: a.GetOrders()},
		&operationsv1.WatchBoardResponse{Work: b.GetWork(), Orders: b.GetOrders()})
}
