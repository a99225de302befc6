package main

import (
	"strings"

	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// showOrder shows the order after a command, for write.
func showOrder[R interface{ GetOrder() *orderv1.Order }](response R) (lines []string, orderID string) {
	o := response.GetOrder()
	return orderPairs(o), o.GetOrderId()
}

// orderPairs shows an order as names and values.
func orderPairs(o *orderv1.Order) []string {
	return []string{
		"order", o.GetOrderId(), "customer", clean(o.GetCustomerId()),
		"state", word(o.GetState(), "ORDER_STATE_") + yes(o.GetOnHold(), " (held: "+clean(o.GetHoldReason())+")"),
		"cancelled", word(o.GetCancelReason(), "CANCEL_REASON_"), "total", moneyText(o.GetTotal()),
	}
}

type orderGetCmd struct {
	Order string `arg:"" help:"Id of the order."`
}

func (c *orderGetCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: c.Order})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	o := response.GetOrder()
	lines := append(orderPairs(o),
		"fulfilment", word(o.GetFulfilment(), "FULFILMENT_"), "channel", clean(o.GetChannel()),
		"placed", timeText(o.GetPlacedAt()), "promised", timeText(o.GetPromisedAt()),
		"shipping", moneyText(o.GetShippingFee()))
	for _, l := range o.GetLines() {
		lines = append(lines, "line "+l.GetLineId(),
			clean(strings.TrimSpace(l.GetTitle()+" "+l.GetSku()))+" × "+itoa(l.GetQuantity())+" at "+moneyText(l.GetUnitPrice())+
				yes(l.GetWarehouse() != "", " from "+clean(l.GetWarehouse())))
	}
	for _, p := range o.GetPaymentPlan() {
		lines = append(lines, "pays by", word(p.GetMethod(), "PAYMENT_METHOD_")+" "+moneyText(p.GetAmount()))
	}
	return pairs(a.out, lines...)
}

type orderListCmd struct {
	pageFlags
	Customer string   `help:"Only orders of this customer."`
	State    []string `help:"Only these states: placed, confirmed, completed, cancelled." enum:"placed,confirmed,completed,cancelled"`
}

func (c *orderListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Orders.ListOrders(ctx, &orderv1.ListOrdersRequest{
		CustomerId: c.Customer, PageSize: c.Limit, PageToken: c.Page,
		States: enums[orderv1.OrderState](orderv1.OrderState_value, "ORDER_STATE_", c.State),
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"ORDER", "CUSTOMER", "STATE", "TOTAL", "PLACED", "CHANNEL"}}
	for _, o := range response.GetOrders() {
		rows = append(rows, []string{
			o.GetOrderId(), clean(o.GetCustomerId()), word(o.GetState(), "ORDER_STATE_") + yes(o.GetOnHold(), ", held"),
			moneyText(o.GetTotal()), timeText(o.GetPlacedAt()), clean(o.GetChannel()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return nil
}

type orderAmendCmd struct {
	Order string `arg:"" help:"Id of the order."`
	basketFlags
	writeFlags
	Note string `help:"Why, in a few words."`
}

func (c *orderAmendCmd) Run(a *app) error {
	lines, err := c.lines()
	if err != nil {
		return err
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	request := &orderv1.AmendOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated, OrderId: c.Order,
		Address: c.address(), PromisedAt: c.Promise.proto(), Note: c.Note, PaymentPlan: plan,
	}
	if len(lines) > 0 {
		request.Lines = &orderv1.OrderLines{Lines: lines}
	}
	if c.Fee != "" {
		if request.ShippingFee, err = parseMoney(c.Fee, c.Currency); err != nil {
			return err
		}
	}
	return write(a, &c.writeFlags, a.Orders.AmendOrder, request, showOrder)
}

type orderHoldCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
	Reason string `help:"Why it is held." required:""`
	Note   string `help:"For those who come after."`
}

func (c *orderHoldCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Orders.HoldOrder, &orderv1.HoldOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		OrderId: c.Order, Reason: c.Reason, Note: c.Note,
	}, showOrder)
}

type orderReleaseCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
	Note string `help:"For those who come after."`
}

func (c *orderReleaseCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Orders.ReleaseOrder, &orderv1.ReleaseOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		OrderId: c.Order, Note: c.Note,
	}, showOrder)
}

type orderCancelCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
	Reason string `help:"customer, unavailable, payment-declined, fraud, operator or expired." enum:"customer,unavailable,payment-declined,fraud,operator,expired" default:"customer"`
	Note   string `help:"For those who come after."`
}

func (c *orderCancelCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Orders.CancelOrder, &orderv1.CancelOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated, OrderId: c.Order,
		Reason: enums[orderv1.CancelReason](orderv1.CancelReason_value, "CANCEL_REASON_", []string{c.Reason})[0], Note: c.Note,
	}, showOrder)
}

type orderConfirmCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
	Promise moment `help:"Date promised to the customer." placeholder:"TIME"`
}

func (c *orderConfirmCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Orders.ConfirmOrder, &orderv1.ConfirmOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		OrderId: c.Order, PromisedAt: c.Promise.proto(),
	}, showOrder)
}

type orderCompleteCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
}

func (c *orderCompleteCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Orders.CompleteOrder, &orderv1.CompleteOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated, OrderId: c.Order,
	}, showOrder)
}
