package main

import (
	"strings"

	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

type shipmentCmd struct {
	Plan     shipmentPlanCmd     `cmd:"" help:"Plan what one warehouse is to ship for an order."`
	Dispatch shipmentDispatchCmd `cmd:"" help:"Hand a shipment to the carrier."`
	Scan     shipmentScanCmd     `cmd:"" help:"Record where the carrier saw it."`
	Delay    shipmentDelayCmd    `cmd:"" help:"Move the expected date, or say that nobody knows it any more."`
	Deliver  shipmentDeliverCmd  `cmd:"" help:"Record that the customer has it."`
	Lose     shipmentLoseCmd     `cmd:"" help:"Record that the carrier lost it."`
	Return   shipmentReturnCmd   `cmd:"" help:"Record that it came back."`
	Cancel   shipmentCancelCmd   `cmd:"" help:"Cancel it before dispatch."`
	Get      shipmentGetCmd      `cmd:"" help:"Show a shipment as its owner sees it now."`
	List     shipmentListCmd     `cmd:"" help:"List shipments, newest first."`
}

// customerOf asks the order service whose order it is.
func (a *app) customerOf(orderID string) (string, error) {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: orderID})
	if err != nil {
		return "", err
	}
	return response.GetOrder().GetCustomerId(), nil
}

// showShipment shows the shipment after a command, for write.
func showShipment[R interface{ GetShipment() *shipmentv1.Shipment }](response R) (lines []string, orderID string) {
	s := response.GetShipment()
	return shipmentPairs(s), s.GetOrderId()
}

func shipmentPairs(s *shipmentv1.Shipment) []string {
	expected := timeText(s.GetExpectedAt())
	if s.GetStalled() {
		expected = "nobody knows, it is stalled"
	}
	return []string{
		"shipment", s.GetShipmentId(), "order", s.GetOrderId(), "state", word(s.GetState(), "SHIPMENT_STATE_"),
		"warehouse", clean(s.GetWarehouse()), "carrier", clean(strings.TrimSpace(s.GetCarrier() + " " + s.GetTrackingNumber())),
		"promised", timeText(s.GetPromisedAt()), "expected", expected,
	}
}

type shipmentPlanCmd struct {
	Order string `arg:"" help:"Id of the order."`
	writeFlags
	ID        string   `help:"Id of the shipment. Default: made by the service." placeholder:"SHIPMENT"`
	Customer  string   `help:"Id of the customer. Default: the order's."`
	Warehouse string   `help:"Warehouse or seller that ships." default:"main"`
	Line      []string `help:"LINE:SKU:QUANTITY, repeatable, as in 1:mug:2." placeholder:"LINE" sep:"none"`
	Promise   moment   `help:"Date promised to the customer." placeholder:"TIME"`
	External  bool     `help:"Another system moves it on."`
}

func (c *shipmentPlanCmd) Run(a *app) error {
	var lines []*shipmentv1.ShipmentLine
	for _, text := range c.Line {
		parts := strings.Split(text, ":")
		if len(parts) != 3 {
			return usage("--line %q: want LINE:SKU:QUANTITY, as in 1:mug:2", text)
		}
		quantity, err := parseQuantity(parts[2])
		if err != nil {
			return err
		}
		lines = append(lines, &shipmentv1.ShipmentLine{LineId: parts[0], Sku: parts[1], Quantity: quantity})
	}
	if c.Customer == "" {
		var err error
		if c.Customer, err = a.customerOf(c.Order); err != nil {
			return err
		}
	}
	request := &shipmentv1.PlanShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.ID, OrderId: c.Order, CustomerId: c.Customer, Warehouse: c.Warehouse, Lines: lines,
		PromisedAt: c.Promise.proto(), Fulfilment: fulfilment("managed"),
	}
	if c.External {
		request.Fulfilment = fulfilment("external")
	}
	return write(a, &c.writeFlags, a.Shipments.PlanShipment, request, showShipment)
}

type shipmentDispatchCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Carrier  string `help:"Carrier." default:"postal"`
	Tracking string `help:"The carrier's number."`
	Expected moment `help:"Date expected by the carrier." placeholder:"TIME"`
}

func (c *shipmentDispatchCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.DispatchShipment, &shipmentv1.DispatchShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Carrier: c.Carrier, TrackingNumber: c.Tracking, ExpectedAt: c.Expected.proto(),
	}, showShipment)
}

type shipmentScanCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Location    string `help:"Place in one text, as in 'CD 4, Campinas'." xor:"place" required:""`
	Facility    string `help:"Place in parts: the depot, hub or shop." xor:"place" required:""`
	Area        string `help:"Town or district of the facility."`
	Country     string `help:"Its country, as in BR."`
	Description string `help:"What happened there."`
}

func (c *shipmentScanCmd) Run(a *app) error {
	request := &shipmentv1.RecordScanRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Location: c.Location, Description: c.Description,
	}
	if c.Location == "" {
		request.Place = &shipmentv1.ScanPlace{Facility: c.Facility, Area: c.Area, Country: strings.ToUpper(c.Country)}
	} else if c.Area+c.Country != "" {
		return usage("--area and --country go with --facility")
	}
	return write(a, &c.writeFlags, a.Shipments.RecordScan, request, showShipment)
}

type shipmentDelayCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Expected moment `help:"Date expected now. Default: nobody knows; the parcel is stalled." placeholder:"TIME"`
	Reason   string `help:"Why."`
}

func (c *shipmentDelayCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.ReportDelay, &shipmentv1.ReportDelayRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, ExpectedAt: c.Expected.proto(), Reason: c.Reason,
	}, showShipment)
}

type shipmentDeliverCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Location string `help:"Where it was left."`
	SignedBy string `help:"Who took it: recipient, neighbour …; never a name."`
}

func (c *shipmentDeliverCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.DeliverShipment, &shipmentv1.DeliverShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Location: c.Location, SignedByRole: c.SignedBy,
	}, showShipment)
}

type shipmentLoseCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Reason string `help:"Why." required:""`
}

func (c *shipmentLoseCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.LoseShipment, &shipmentv1.LoseShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Reason: c.Reason,
	}, showShipment)
}

type shipmentReturnCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Reason string `help:"Why." required:""`
}

func (c *shipmentReturnCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.ReturnShipment, &shipmentv1.ReturnShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Reason: c.Reason,
	}, showShipment)
}

type shipmentCancelCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
	writeFlags
	Reason string `help:"Why."`
}

func (c *shipmentCancelCmd) Run(a *app) error {
	return write(a, &c.writeFlags, a.Shipments.CancelShipment, &shipmentv1.CancelShipmentRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		ShipmentId: c.Shipment, Reason: c.Reason,
	}, showShipment)
}

type shipmentGetCmd struct {
	Shipment string `arg:"" help:"Id of the shipment."`
}

func (c *shipmentGetCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Shipments.GetShipment(ctx, &shipmentv1.GetShipmentRequest{ShipmentId: c.Shipment})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	lines := shipmentPairs(response.GetShipment())
	for _, l := range response.GetShipment().GetLines() {
		lines = append(lines, "line "+l.GetLineId(), clean(l.GetSku())+" × "+itoa(l.GetQuantity()))
	}
	return pairs(a.out, lines...)
}

type shipmentListCmd struct {
	pageFlags
	Order string   `help:"Only shipments of this order."`
	State []string `help:"Only these states." enum:"planned,dispatched,delivered,lost,returned,cancelled"`
}

func (c *shipmentListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Shipments.ListShipments(ctx, &shipmentv1.ListShipmentsRequest{
		OrderId: c.Order, PageSize: c.Limit, PageToken: c.Page,
		States: enums[shipmentv1.ShipmentState](shipmentv1.ShipmentState_value, "SHIPMENT_STATE_", c.State),
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"SHIPMENT", "ORDER", "STATE", "WAREHOUSE", "CARRIER", "EXPECTED"}}
	for _, s := range response.GetShipments() {
		rows = append(rows, []string{
			s.GetShipmentId(), s.GetOrderId(), word(s.GetState(), "SHIPMENT_STATE_"), clean(s.GetWarehouse()),
			clean(s.GetCarrier()), dateText(s.GetExpectedAt()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return nil
}
