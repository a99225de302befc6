package main

import (
	"fmt"
	"strings"
	"time"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

type timelineCmd struct {
	Customer timelineCustomerCmd `cmd:"" help:"All that happened to a customer's orders, newest first."`
	Order    timelineOrderCmd    `cmd:"" help:"All that happened to one order, newest first."`
	Status   timelineStatusCmd   `cmd:"" help:"Where is my order?"`
	Overview timelineOverviewCmd `cmd:"" help:"A customer at a glance."`
	Watch    timelineWatchCmd    `cmd:"" help:"Follow an order until you stop."`
}

// kindFlag filters entries.
type kindFlag struct {
	Kind []string `help:"Only these kinds: order, hold, payment, refund, shipment, shipment-problem." enum:"order,hold,payment,refund,shipment,shipment-problem"`
}

func (f *kindFlag) kinds() []timelinev1.EntryKind {
	return enums[timelinev1.EntryKind](timelinev1.EntryKind_value, "ENTRY_KIND_", f.Kind)
}

func (a *app) printEntries(entries []*timelinev1.Entry, withOrder bool) error {
	rows := [][]string{{"WHEN (UTC)", "WHO", "WHAT", "SOURCE", "TRACE"}}
	if withOrder {
		rows[0] = append([]string{"ORDER"}, rows[0]...)
	}
	for _, e := range entries {
		trace := e.GetTraceId()
		if len(trace) > 12 {
			trace = trace[:12]
		}
		row := []string{
			yes(e.GetTimeEstimated(), "~") + timeText(e.GetOccurredAt()), clean(e.GetActor()), clean(e.GetSummary()) + without(e.GetSkipped()),
			e.GetSource() + " v" + count(e.GetAggregateVersion()), trace,
		}
		if withOrder {
			row = append([]string{e.GetOrderId()}, row...)
		}
		rows = append(rows, row)
	}
	return table(a.out, rows...)
}

type timelineCustomerCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	kindFlag
	pageFlags
	readFlags
}

func (c *timelineCustomerCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Timeline.ListCustomerTimeline, &timelinev1.ListCustomerTimelineRequest{
		CustomerId: c.Customer, Kinds: c.kinds(), PageSize: c.Limit, PageToken: c.Page, Read: options,
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	if err := a.printEntries(response.GetEntries(), true); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return a.freshness(response.GetFreshness())
}

type timelineOrderCmd struct {
	Order string `arg:"" help:"Id of the order."`
	kindFlag
	pageFlags
	readFlags
}

func (c *timelineOrderCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Timeline.ListOrderTimeline, &timelinev1.ListOrderTimelineRequest{
		OrderId: c.Order, Kinds: c.kinds(), PageSize: c.Limit, PageToken: c.Page, Read: options,
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	if err := a.printEntries(response.GetEntries(), false); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return a.freshness(response.GetFreshness())
}

type timelineStatusCmd struct {
	Order string `arg:"" help:"Id of the order."`
	readFlags
}

func (c *timelineStatusCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Timeline.GetOrderStatus, &timelinev1.GetOrderStatusRequest{OrderId: c.Order, Read: options})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	if err := a.printStatus(response.GetOrder()); err != nil {
		return err
	}
	return a.freshness(response.GetFreshness())
}

func (a *app) printStatus(o *timelinev1.OrderView) error {
	lines := []string{
		"order", o.GetOrderId(), "customer", clean(o.GetCustomerId()),
		"status", strings.ToUpper(word(o.GetStatus(), "ORDER_STATUS_")) + yes(o.GetOnHold(), " (on hold)"),
		"", clean(o.GetHeadline()), "cancelled", strings.ToLower(o.GetCancelReason()),
		"total", moneyText(o.GetTotal()), "placed", timeText(o.GetPlacedAt()), "promised", timeText(o.GetPromisedAt()),
		"expected", timeText(o.GetExpectedAt()), "delivered", timeText(o.GetDeliveredAt()),
	}
	for _, p := range o.GetPayments() {
		lines = append(lines, "payment", fmt.Sprintf("%s  %s %s, %s, captured %s%s", p.GetPaymentId(),
			word(p.GetMethod(), "PAYMENT_METHOD_"), moneyText(p.GetRequested()), p.GetState(), moneyText(p.GetCaptured()),
			yes(p.GetRefunded().GetAmount() > 0, ", given back "+moneyText(p.GetRefunded()))))
	}
	for _, s := range o.GetShipments() {
		parts := []string{s.GetState()}
		for _, part := range []struct{ name, value string }{
			{"from", clean(s.GetWarehouse())}, {"by", clean(strings.TrimSpace(s.GetCarrier() + " " + s.GetTrackingNumber()))},
			{"last seen at", clean(s.GetLastLocation())}, {"expected", dateText(s.GetExpectedAt())}, {"arrived", timeText(s.GetDeliveredAt())},
		} {
			if part.value != "" {
				parts = append(parts, part.name+" "+part.value)
			}
		}
		lines = append(lines, "shipment", s.GetShipmentId()+"  "+strings.Join(parts, ", ")+yes(s.GetDelayed(), ", DELAYED"))
	}
	return pairs(a.out, lines...)
}

type timelineOverviewCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	readFlags
}

func (c *timelineOverviewCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Timeline.GetCustomerOverview, &timelinev1.GetCustomerOverviewRequest{CustomerId: c.Customer, Read: options})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	o := response.GetOverview()
	var spend []string
	for _, m := range o.GetNetSpend() {
		spend = append(spend, moneyText(m))
	}
	lines := []string{
		"customer", clean(o.GetCustomerId()), "orders", fmt.Sprintf("%d, open %d", o.GetOrdersTotal(), o.GetOrdersOpen()),
		"net spend", strings.Join(spend, ", "),
		"contact", clean(strings.Join(nonEmpty(o.GetLastContact().GetName(), o.GetLastContact().GetEmail(), o.GetLastContact().GetPhone()), ", ")),
		"address", clean(strings.Join(nonEmpty(o.GetLastAddress().GetRecipient(), o.GetLastAddress().GetLine1(), o.GetLastAddress().GetLine2(),
			o.GetLastAddress().GetPostalCode(), o.GetLastAddress().GetCity(), o.GetLastAddress().GetRegion(), o.GetLastAddress().GetCountry()), ", ")),
		"last event", timeText(o.GetLastEventAt()),
	}
	for _, open := range o.GetOpenOrders() {
		lines = append(lines, "open", open.GetOrderId()+"  "+word(open.GetStatus(), "ORDER_STATUS_")+"  "+clean(open.GetHeadline()))
	}
	if err := pairs(a.out, lines...); err != nil {
		return err
	}
	return a.freshness(response.GetFreshness())
}

func nonEmpty(parts ...string) []string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return kept
}

type timelineWatchCmd struct {
	Order string `arg:"" help:"Id of the order. It may not exist yet."`
}

// Run follows the order; a broken stream is taken up again, since watching
// starts with the state of now.
func (c *timelineWatchCmd) Run(a *app) error {
	last := ""
	return a.follow("timeline", func() error {
		stream, err := a.Timeline.WatchOrder(a.ctx, &timelinev1.WatchOrderRequest{OrderId: c.Order})
		if err != nil {
			return err
		}
		for {
			response, err := stream.Recv()
			if err != nil {
				return err
			}
			if a.json() {
				if err := a.printJSON(response, true); err != nil {
					return err
				}
				continue
			}
			o := response.GetOrder()
			line := "nothing known of it yet"
			if o != nil {
				line = fmt.Sprintf("%-9s %s%s", strings.ToUpper(word(o.GetStatus(), "ORDER_STATUS_")), clean(o.GetHeadline()), yes(o.GetOnHold(), " (on hold)"))
				for _, p := range o.GetPayments() {
					line += " · payment " + p.GetState()
				}
				for _, s := range o.GetShipments() {
					line += " · parcel " + s.GetState()
				}
			}
			if line != last {
				last = line
				fmt.Fprintf(a.out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			}
		}
	})
}
