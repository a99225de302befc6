package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/money"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
)

type opsCmd struct {
	List       opsListCmd       `cmd:"" help:"What needs attention, most urgent first."`
	Open       opsOpenCmd       `cmd:"" help:"Open orders, oldest first."`
	Board      opsBoardCmd      `cmd:"" help:"Open orders and parcels per warehouse."`
	Throughput opsThroughputCmd `cmd:"" help:"What happened per hour or day of business time."`
	Totals     opsTotalsCmd     `cmd:"" help:"Orders by status and money by method."`
	Watch      opsWatchCmd      `cmd:"" help:"Follow the counts of work items."`
}

type opsListCmd struct {
	pageFlags
	readFlags
	Kind      []string `help:"Only these kinds." enum:"stuck,promise-at-risk,payment-declined,held,shipment-delayed,shipment-lost,captured-but-cancelled,needs-person"`
	Severity  string   `help:"This severity or higher." enum:",low,medium,high" default:""`
	Warehouse string   `help:"Only this warehouse."`
	Channel   string   `help:"Only this channel."`
	Order     string   `help:"Only this order."`
	Overdue   bool     `help:"Only those whose deadline has passed."`
	Sort      string   `help:"deadline, since or severity." enum:"deadline,since,severity" default:"deadline"`
}

func (c *opsListCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	request := &operationsv1.ListWorkItemsRequest{
		Kinds:     enums[operationsv1.WorkKind](operationsv1.WorkKind_value, "WORK_KIND_", c.Kind),
		Warehouse: c.Warehouse, Channel: c.Channel, OrderId: c.Order, OverdueOnly: c.Overdue,
		OrderBy:  enums[operationsv1.WorkItemOrder](operationsv1.WorkItemOrder_value, "WORK_ITEM_ORDER_", []string{c.Sort})[0],
		PageSize: c.Limit, PageToken: c.Page, Read: options,
	}
	if c.Severity != "" {
		request.MinSeverity = enums[operationsv1.Severity](operationsv1.Severity_value, "SEVERITY_", []string{c.Severity})[0]
	}
	response, err := read(a, &c.readFlags, a.Operations.ListWorkItems, request)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"SEVERITY", "KIND", "ORDER", "AGE", "DEADLINE (UTC)", "WHY"}}
	for _, w := range response.GetWorkItems() {
		rows = append(rows, []string{
			word(w.GetSeverity(), "SEVERITY_"), word(w.GetKind(), "WORK_KIND_"), w.GetOrderId(), short(w.GetAge().AsDuration()),
			timeText(w.GetSlaDeadline()) + yes(w.GetOverdue(), " overdue"),
			clean(w.GetReason()) + yes(w.GetAmount() != nil, " ("+moneyText(w.GetAmount())+")") + without(w.GetSkipped()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return a.freshness(response.GetFreshness())
}

type opsOpenCmd struct {
	pageFlags
	readFlags
	Warehouse string `help:"Only this warehouse."`
}

func (c *opsOpenCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Operations.ListOpenOrders, &operationsv1.ListOpenOrdersRequest{
		Warehouse: c.Warehouse, PageSize: c.Limit, PageToken: c.Page, Read: options,
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"ORDER", "CUSTOMER", "STATUS", "WAREHOUSE", "TOTAL", "PLACED", "PROMISED"}}
	for _, o := range response.GetOrders() {
		rows = append(rows, []string{
			o.GetOrderId(), clean(o.GetCustomerId()), o.GetStatus() + yes(o.GetOnHold(), ", held"), clean(o.GetWarehouse()),
			moneyText(o.GetTotal()), timeText(o.GetPlacedAt()), dateText(o.GetPromisedAt()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return a.freshness(response.GetFreshness())
}

type opsBoardCmd struct {
	readFlags
	Limit int32 `help:"At most this many warehouses." default:"50" short:"n"`
}

func (c *opsBoardCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Operations.GetWarehouseBoard, &operationsv1.GetWarehouseBoardRequest{Limit: c.Limit, Read: options})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"WAREHOUSE", "OPEN ORDERS", "TO SHIP", "ON THE WAY"}}
	for _, w := range response.GetWarehouses() {
		name := clean(w.GetWarehouse())
		if name == "" {
			name = "(none)"
		}
		rows = append(rows, []string{name, count(w.GetOpenOrders()), count(w.GetShipmentsPlanned()), count(w.GetShipmentsInTransit())})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	return a.freshness(response.GetFreshness())
}

type opsThroughputCmd struct {
	readFlags
	From    moment `help:"Start. Default: 24 hours before the end." placeholder:"TIME"`
	To      moment `help:"End. Default: now." placeholder:"TIME"`
	By      string `help:"hour or day." enum:"hour,day" default:"hour"`
	Channel string `help:"Only this channel."`
}

func (c *opsThroughputCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Operations.GetThroughput, &operationsv1.GetThroughputRequest{
		From: c.From.proto(), To: c.To.proto(), Channel: c.Channel, Read: options,
		Bucket: enums[operationsv1.Bucket](operationsv1.Bucket_value, "BUCKET_", []string{c.By})[0],
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"FROM (UTC)", "PLACED", "CONFIRMED", "SHIPPED", "DELIVERED", "COMPLETED", "CANCELLED"}}
	for _, p := range response.GetPoints() {
		rows = append(rows, []string{
			timeText(p.GetAt()), count(p.GetPlaced()), count(p.GetConfirmed()), count(p.GetShipped()),
			count(p.GetDelivered()), count(p.GetCompleted()), count(p.GetCancelled()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	return a.freshness(response.GetFreshness())
}

type opsTotalsCmd struct {
	readFlags
	Channel string `help:"Only this channel."`
}

func (c *opsTotalsCmd) Run(a *app) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	response, err := read(a, &c.readFlags, a.Operations.GetTotals, &operationsv1.GetTotalsRequest{Channel: c.Channel, Read: options})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	orders := [][]string{{"CHANNEL", "STATUS", "ORDERS"}}
	for _, o := range response.GetOrders() {
		orders = append(orders, []string{clean(o.GetChannel()), o.GetStatus(), count(o.GetOrders())})
	}
	amounts := [][]string{{"CHANNEL", "METHOD", "PAYMENTS", "REQUESTED", "CAPTURED", "REFUNDED"}}
	for _, m := range response.GetMoney() {
		amounts = append(amounts, []string{
			clean(m.GetChannel()), word(m.GetMethod(), "PAYMENT_METHOD_"), count(m.GetPayments()),
			money.Format(m.GetRequested(), m.GetCurrency()), money.Format(m.GetCaptured(), m.GetCurrency()), money.Format(m.GetRefunded(), m.GetCurrency()),
		})
	}
	if err := errors.Join(table(a.out, orders...), table(a.out, amounts...)); err != nil {
		return err
	}
	return a.freshness(response.GetFreshness())
}

type opsWatchCmd struct {
	Warehouse string `help:"Only this warehouse."`
}

func (c *opsWatchCmd) Run(a *app) error {
	last := ""
	return a.follow("operations", func() error {
		stream, err := a.Operations.WatchBoard(a.ctx, &operationsv1.WatchBoardRequest{Warehouse: c.Warehouse})
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
			var parts []string
			for _, w := range response.GetWork() {
				parts = append(parts, fmt.Sprintf("%s %d%s", word(w.GetKind(), "WORK_KIND_"), w.GetCount(),
					yes(w.GetOverdue() > 0, fmt.Sprintf(" (%d overdue)", w.GetOverdue()))))
			}
			line := strings.Join(parts, " · ")
			if line == "" {
				line = "nothing needs attention"
			}
			if line != last {
				last = line
				fmt.Fprintf(a.out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			}
		}
	})
}

// follow runs a stream and takes it up again when the server restarts, until
// the command is stopped. A server that cannot be reached at all is an error.
func (a *app) follow(name string, stream func() error) error {
	for lost := false; ; lost = true {
		err := stream()
		switch {
		case a.ctx.Err() != nil:
			return nil // stopping is how a watch ends
		case !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable:
			return err
		case !lost && strings.Contains(err.Error(), "connection refused"):
			return err
		}
		fmt.Fprintf(a.err, "the %s stream broke; taking it up again\n", name)
		wait := time.NewTimer(time.Second)
		select {
		case <-a.ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}
