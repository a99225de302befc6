package timeline

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const defaultPage = 50

// server answers queries: translate, read, translate.
type server struct {
	timelinev1.UnimplementedTimelineServiceServer
	copy  *projection.Projection[State]
	pager *rpc.Pager
}

// GetOrderStatus implements timeline.v1.TimelineService.
func (s *server) GetOrderStatus(ctx context.Context, r *timelinev1.GetOrderStatusRequest) (*timelinev1.GetOrderStatusResponse, error) {
	var found *string
	f, err := s.copy.Read(ctx, r.GetRead(), r.GetOrderId(), nil, projection.OneText(selectOrder, &found),
		projection.OrNotFound("order "+r.GetOrderId(), func(*freshnessv1.Freshness) bool { return found != nil }))
	if err != nil {
		return nil, err
	}
	answer := &timelinev1.GetOrderStatusResponse{Freshness: f}
	if !f.GetNotModified() {
		doc, err := openDocument(*found)
		if err != nil {
			return nil, err
		}
		answer.Order = doc.proto()
		answer.Order.Skipped = f.GetSkipped()
	}
	return answer, nil
}

// ListOrderTimeline implements timeline.v1.TimelineService.
func (s *server) ListOrderTimeline(ctx context.Context, r *timelinev1.ListOrderTimelineRequest) (*timelinev1.ListOrderTimelineResponse, error) {
	page, err := s.page(r, r.GetKinds(), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	f, err := s.copy.Read(ctx, r.GetRead(), r.GetOrderId(), func(b *pgx.Batch) { page.queue(b, entriesOfOrder, r.GetOrderId()) },
		projection.InGeneration(page.generation), projection.SkippedBy(&page.skipped), projection.OrNotFound("order "+r.GetOrderId(), func(f *freshnessv1.Freshness) bool {
			return len(page.found) > 0 || r.GetPageToken() != "" || len(f.GetEntityVersions()) > 0
		}))
	if err != nil {
		return nil, err
	}
	answer := &timelinev1.ListOrderTimelineResponse{Freshness: f}
	if !f.GetNotModified() {
		answer.Entries, answer.NextPageToken, err = page.entries(s.pager, f)
	}
	return answer, err
}

// ListCustomerTimeline implements timeline.v1.TimelineService. A customer that
// nothing is known of has an empty timeline.
func (s *server) ListCustomerTimeline(ctx context.Context, r *timelinev1.ListCustomerTimelineRequest) (*timelinev1.ListCustomerTimelineResponse, error) {
	page, err := s.page(r, r.GetKinds(), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) { page.queue(b, entriesOfCustomer, r.GetCustomerId()) },
		projection.InGeneration(page.generation), projection.SkippedBy(&page.skipped))
	if err != nil {
		return nil, err
	}
	entries, next, err := page.entries(s.pager, f)
	return &timelinev1.ListCustomerTimelineResponse{Entries: entries, NextPageToken: next, Freshness: f}, err
}

// GetCustomerOverview implements timeline.v1.TimelineService.
func (s *server) GetCustomerOverview(ctx context.Context, r *timelinev1.GetCustomerOverviewRequest) (*timelinev1.GetCustomerOverviewResponse, error) {
	var o overview
	var skipped projection.Skipped
	f, err := s.copy.Read(ctx, r.GetRead(), "", func(b *pgx.Batch) { queueOverview(b, r.GetCustomerId(), &o) }, projection.SkippedBy(&skipped),
		projection.OrNotFound("customer "+r.GetCustomerId(), func(*freshnessv1.Freshness) bool { return o.known }))
	if err != nil {
		return nil, err
	}
	answer := &timelinev1.CustomerOverview{
		CustomerId: r.GetCustomerId(), OrdersTotal: o.orders, OrdersOpen: o.open, LastEventAt: timestamppb.New(o.lastAt),
	}
	for i := range o.newest {
		open := o.newest[i].proto()
		open.Skipped = skipped.Of(open.GetOrderId())
		answer.OpenOrders = append(answer.OpenOrders, open)
	}
	for _, m := range o.spend {
		answer.NetSpend = append(answer.NetSpend, &commercev1.Money{Amount: m.Amount, Currency: m.Currency})
	}
	if o.contact != nil {
		answer.LastContact, answer.LastAddress = contact(o.contact.Contact), address(o.contact.Address)
	}
	return &timelinev1.GetCustomerOverviewResponse{Overview: answer, Freshness: f}, nil
}

// WatchOrder implements timeline.v1.TimelineService: the order now, and again
// whenever what is known of it changes.
func (s *server) WatchOrder(r *timelinev1.WatchOrderRequest, stream grpc.ServerStreamingServer[timelinev1.WatchOrderResponse]) error {
	ctx := stream.Context()
	changes := s.copy.Subscribe(r.GetOrderId())
	defer changes.Close()
	var last *freshnessv1.Freshness
	for {
		var found *string
		f, err := s.copy.Read(ctx, nil, r.GetOrderId(), nil, projection.OneText(selectOrder, &found))
		if err != nil {
			return err
		}
		if last == nil || last.GetEtag() != f.GetEtag() {
			now := &timelinev1.WatchOrderResponse{Freshness: f}
			if found != nil {
				doc, err := openDocument(*found)
				if err != nil {
					return err
				}
				now.Order = doc.proto()
				now.Order.Skipped = f.GetSkipped()
			}
			if err := stream.Send(now); err != nil {
				return err
			}
			last = f
		}
		if err := changes.Wait(ctx, 0); err != nil {
			return err
		}
	}
}

// page is one page of entries. All pages of a list are of one generation.
type page struct {
	filter     []byte // what page tokens are bound to, with a generation
	generation string // of the page before
	kinds      []int32
	size       int
	behind     *place
	found      []Entry
	skipped    projection.Skipped
}

func (s *server) page(r proto.Message, kinds []timelinev1.EntryKind, size int32, token string) (*page, error) {
	p := &page{size: int(size), filter: rpc.Binding(r, "page_size", "page_token", "read")}
	if p.size == 0 {
		p.size = defaultPage
	}
	for _, k := range kinds {
		p.kinds = append(p.kinds, int32(k))
	}
	if token == "" {
		return p, nil
	}
	p.behind = &place{}
	var err error
	p.generation, err = s.copy.PageOf(func(generation string) error { return s.pager.Position(p.binding(generation), token, p.behind) })
	return p, err
}

func (p *page) binding(generation string) []byte {
	return append(slices.Clone(p.filter), generation...)
}

// queue asks for one more than fits, to know whether there is more.
func (p *page) queue(b *pgx.Batch, whose, id string) {
	queueEntries(b, whose, id, p.kinds, p.behind, p.size+1, &p.found)
}

func (p *page) entries(pager *rpc.Pager, f *freshnessv1.Freshness) (entries []*timelinev1.Entry, next string, err error) {
	if len(p.found) > p.size {
		p.found = p.found[:p.size]
		last := p.found[p.size-1]
		if next, err = pager.Token(p.binding(f.GetGeneration()), place{last.OccurredAt, last.RecordedAt, last.EventID}); err != nil {
			return nil, "", err
		}
	}
	for _, e := range p.found {
		entry := e.proto()
		entry.Skipped = p.skipped.Of(e.OrderID)
		entries = append(entries, entry)
	}
	return entries, next, nil
}

func (e Entry) proto() *timelinev1.Entry {
	entry := &timelinev1.Entry{
		EventId: e.EventID, OrderId: e.OrderID, CustomerId: e.CustomerID, Kind: timelinev1.EntryKind(e.Kind), Fact: e.Fact,
		Summary: e.Summary, Actor: e.Actor, Source: e.AggregateType, AggregateId: e.AggregateID, AggregateVersion: e.Version,
		OccurredAt: timestamppb.New(e.OccurredAt), TimeEstimated: e.TimeEstimated, RecordedAt: timestamppb.New(e.RecordedAt),
		TraceId: e.TraceID,
	}
	if e.Amount != nil && e.Currency != nil {
		entry.Amount = &commercev1.Money{Amount: *e.Amount, Currency: *e.Currency}
	}
	return entry
}

var statuses = map[string]timelinev1.OrderStatus{
	statusPlaced:    timelinev1.OrderStatus_ORDER_STATUS_PLACED,
	statusConfirmed: timelinev1.OrderStatus_ORDER_STATUS_CONFIRMED,
	statusShipped:   timelinev1.OrderStatus_ORDER_STATUS_SHIPPED,
	statusDelivered: timelinev1.OrderStatus_ORDER_STATUS_DELIVERED,
	statusCompleted: timelinev1.OrderStatus_ORDER_STATUS_COMPLETED,
	statusCancelled: timelinev1.OrderStatus_ORDER_STATUS_CANCELLED,
}

func (d *Document) proto() *timelinev1.OrderView {
	v := &timelinev1.OrderView{
		OrderId: d.OrderID, CustomerId: d.CustomerID, Status: statuses[d.Status], Headline: d.Headline, OnHold: d.OnHold,
		CancelReason: d.CancelReason, Channel: d.Channel, PlacedAt: at(d.PlacedAt), PromisedAt: at(d.PromisedAt),
		ExpectedAt: at(d.ExpectedAt), DeliveredAt: at(d.DeliveredAt), LastEventAt: at(&d.LastEventAt),
	}
	if d.Total != nil {
		v.Total = &commercev1.Money{Amount: d.Total.Amount, Currency: d.Total.Currency}
	}
	for _, p := range d.Payments {
		in := func(amount int64) *commercev1.Money { return &commercev1.Money{Amount: amount, Currency: p.Currency} }
		v.Payments = append(v.Payments, &timelinev1.PaymentSummary{
			PaymentId: p.ID, Method: commercev1.PaymentMethod(commercev1.PaymentMethod_value["PAYMENT_METHOD_"+p.Method]), State: p.State,
			Requested: in(p.Requested), Authorized: in(p.Authorized), Captured: in(p.Captured), Refunded: in(p.Refunded),
		})
	}
	for _, p := range d.Shipments {
		v.Shipments = append(v.Shipments, &timelinev1.ShipmentSummary{
			ShipmentId: p.ID, State: p.State, Warehouse: p.Warehouse, Carrier: p.Carrier, TrackingNumber: p.Tracking,
			LastLocation: p.Location, PromisedAt: at(p.PromisedAt), ExpectedAt: at(p.ExpectedAt),
			DispatchedAt: at(p.DispatchedAt), DeliveredAt: at(p.DeliveredAt), Delayed: p.Delayed,
		})
	}
	return v
}

func at(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func contact(c *facts.Contact) *commercev1.Contact {
	if c == nil {
		return nil
	}
	return &commercev1.Contact{Name: text(c.Name), Email: text(c.Email), Phone: text(c.Phone)}
}

func address(a *facts.Address) *commercev1.Address {
	if a == nil {
		return nil
	}
	return &commercev1.Address{
		Recipient: text(a.Recipient), Line1: text(a.Line1), Line2: text(a.Line2), PostalCode: text(a.PostalCode),
		City: text(a.City), Region: text(a.Region), Country: a.Country,
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
