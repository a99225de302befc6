package shipment

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

func planIn(r *shipmentpb.PlanShipmentRequest) Plan {
	p := Plan{
		OrderID: r.GetOrderId(), CustomerID: r.GetCustomerId(), Fulfilment: Fulfilment(owner.EnumIn(r.GetFulfilment(), "FULFILMENT_")),
		Warehouse: r.GetWarehouse(), PromisedAt: owner.TimeIn(r.GetPromisedAt()),
	}
	for _, l := range r.GetLines() {
		p.Lines = append(p.Lines, Line{ID: l.GetLineId(), SKU: l.GetSku(), Quantity: l.GetQuantity()})
	}
	return p
}

func placeIn(p *shipmentpb.ScanPlace) *Place {
	if p == nil {
		return nil
	}
	return &Place{Facility: p.GetFacility(), Area: p.GetArea(), Country: p.GetCountry()}
}

func shipmentOut(s *Shipment, h journal.Head) *shipmentpb.Shipment {
	out := &shipmentpb.Shipment{
		ShipmentId: s.ID, OrderId: s.OrderID, CustomerId: s.CustomerID, Warehouse: s.Warehouse,
		State:      shipmentpb.ShipmentState(shipmentpb.ShipmentState_value["SHIPMENT_STATE_"+string(s.State)]),
		Fulfilment: commercepb.Fulfilment(commercepb.Fulfilment_value["FULFILMENT_"+string(s.Fulfilment)]),
		Carrier:    s.Carrier, TrackingNumber: s.TrackingNumber, PromisedAt: owner.TimeOut(s.PromisedAt), ExpectedAt: owner.TimeOut(s.ExpectedAt),
		Stalled: s.Stalled,
		Version: h.Version, UpdatedAt: timestamppb.New(h.RecordedAt),
	}
	for _, l := range s.Lines {
		out.Lines = append(out.Lines, &shipmentpb.ShipmentLine{LineId: l.ID, Sku: l.SKU, Quantity: l.Quantity})
	}
	return out
}
