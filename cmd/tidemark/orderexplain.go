package main

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

type orderExplainCmd struct {
	Order string `arg:"" help:"Id of the order."`
}

// Run answers in one screen why an order is where it is: what its owner says,
// what the process waits for and what happens then, and whether the copies that
// customers see are late.
func (c *orderExplainCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	owner, err := a.Orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: c.Order})
	if err != nil {
		return err
	}
	o := owner.GetOrder()
	process, err := a.Processes.GetProcess(ctx, &orderv1.GetProcessRequest{OrderId: c.Order})
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	if a.json() {
		return a.printJSON(process, false)
	}
	if err := pairs(a.out, append(orderPairs(o), "since", timeText(o.GetUpdatedAt()))...); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	for _, line := range explanation(o, process) {
		fmt.Fprintln(a.out, clean(line))
	}
	return a.explainCopy(o)
}

// explanation says in sentences what an order waits for.
func explanation(o *orderv1.Order, process *orderv1.GetProcessResponse) []string {
	switch {
	case process.GetProcess() == nil:
		return []string{"The fulfilment process has not heard of the order yet: its first fact is on its way."}
	case process.GetProcess().GetState() == orderv1.ProcessState_PROCESS_STATE_ENDED && len(process.GetWaits()) == 0:
		return []string{fmt.Sprintf("The order is %s, and nothing is left to do.", word(o.GetState(), "ORDER_STATE_"))}
	}
	var lines []string
	for _, w := range process.GetWaits() {
		line := fmt.Sprintf("%-9s waits for %s", word(w.GetKind(), "WAIT_KIND_"), w.GetFor())
		if w.GetUntil() != nil {
			line += ", until " + timeText(w.GetUntil())
		}
		lines = append(lines, line, fmt.Sprintf("%-9s then: %s", "", w.GetNext()))
	}
	for _, h := range process.GetHistory() {
		if strings.HasSuffix(h.GetText(), "which has not reached the process yet") {
			lines = append(lines, "late      "+h.GetText())
		}
	}
	if len(lines) == 0 {
		lines = append(lines, "Nothing holds it up; it is being worked on.")
	}
	return lines
}

// explainCopy says whether the timeline shows the order as it is.
func (a *app) explainCopy(o *orderv1.Order) error {
	ctx, cancel := a.call()
	defer cancel()
	view, err := a.Timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: o.GetOrderId()})
	if err != nil {
		_, err = fmt.Fprintf(a.out, "copy      the timeline cannot show it: %s\n", clean(status.Convert(err).Message()))
		return err
	}
	applied := int64(0)
	for _, v := range view.GetFreshness().GetEntityVersions() {
		if v.GetAggregateType() == "order" && v.GetAggregateId() == o.GetOrderId() {
			applied = v.GetVersion()
		}
	}
	if applied < o.GetVersion() {
		fmt.Fprintf(a.out, "copy      the timeline is late: it shows version %d of %d of the order\n", applied, o.GetVersion())
	} else {
		fmt.Fprintln(a.out, "copy      the timeline shows the order as it is")
	}
	return a.freshness(view.GetFreshness())
}
