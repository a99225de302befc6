package shipment

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/journal"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// request is what every command's message has.
type request interface {
	proto.Message
	GetRequestId() string
	GetActor() string
	GetOccurredAt() *timestamppb.Timestamp
	GetTimeEstimated() bool
}

func metaIn(r request, now time.Time) Meta {
	m := Meta{Actor: r.GetActor(), OccurredAt: now, TimeEstimated: r.GetTimeEstimated()}
	if m.Actor == "" {
		m.Actor = "carrier"
	}
	if at := timeIn(r.GetOccurredAt()); at != nil {
		m.OccurredAt = *at
	}
	return m
}

func planIn(r *shipmentpb.PlanShipmentRequest) Plan {
	p := Plan{
		OrderID: r.GetOrderId(), CustomerID: r.GetCustomerId(), Fulfilment: Fulfilment(enumIn(r.GetFulfilment(), "FULFILMENT_")),
		Warehouse: r.GetWarehouse(), PromisedAt: timeIn(r.GetPromisedAt()),
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

// timeIn cuts to microseconds, which is what facts and the database keep.
func timeIn(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime().Truncate(time.Microsecond)
	return &at
}

func timeOut(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// enumIn returns the name of a protobuf enum value without its prefix, which is
// the word that the domain and the facts use.
func enumIn(e fmt.Stringer, prefix string) string { return strings.TrimPrefix(e.String(), prefix) }

func shipmentOut(s *Shipment, h journal.Head) *shipmentpb.Shipment {
	out := &shipmentpb.Shipment{
		ShipmentId: s.ID, OrderId: s.OrderID, CustomerId: s.CustomerID, Warehouse: s.Warehouse,
		State:      shipmentpb.ShipmentState(shipmentpb.ShipmentState_value["SHIPMENT_STATE_"+string(s.State)]),
		Fulfilment: commercepb.Fulfilment(commercepb.Fulfilment_value["FULFILMENT_"+string(s.Fulfilment)]),
		Carrier:    s.Carrier, TrackingNumber: s.TrackingNumber, PromisedAt: timeOut(s.PromisedAt), ExpectedAt: timeOut(s.ExpectedAt),
		Stalled: s.Stalled,
		Version: h.Version, UpdatedAt: timestamppb.New(h.RecordedAt),
	}
	for _, l := range s.Lines {
		out.Lines = append(out.Lines, &shipmentpb.ShipmentLine{LineId: l.ID, Sku: l.SKU, Quantity: l.Quantity})
	}
	return out
}

func tokenOut(s *Shipment, h journal.Head) *freshnesspb.Token {
	return &freshnesspb.Token{AggregateType: table.Type, AggregateId: s.ID, Version: h.Version, Epoch: h.Epoch, EventId: h.EventID}
}
