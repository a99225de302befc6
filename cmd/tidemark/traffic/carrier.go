package traffic

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

const (
	look = 500 * time.Millisecond // between two looks for new parcels
	page = 500
	// maxParcels bounds the parcels in hand; further ones wait in the warehouse.
	maxParcels = 5000
	// maxCalls bounds the commands under way at once.
	maxCalls = 16
)

// parcelSpace is the name space of the carrier's request ids.
var parcelSpace = uuid.MustParse("5f0f3a52-0a4b-5a43-9f0e-0c1157000002")

var (
	carriers = []string{"postal", "swift", "northline"}
	depots   = []*shipmentv1.ScanPlace{
		{Facility: "Depot 3", Area: "Leipzig", Country: "DE"}, {Facility: "Air hub", Area: "Liège", Country: "BE"},
		{Facility: "Depot West", Area: "Poznań", Country: "PL"}, {Facility: "Hub", Area: "Madrid", Country: "ES"},
	}
)

// carrier plays the warehouses and the carriers of MANAGED shipments. What it
// does with a parcel follows from the parcel's id, and so do the request ids:
// two carriers at work, or one that was killed, do nothing twice.
type carrier struct {
	fleet *client.Fleet
	pace  time.Duration
	count *Count
	calls chan struct{}

	mu     sync.Mutex
	inHand map[string]bool
	work   sync.WaitGroup
}

func newCarrier(fleet *client.Fleet, options Options) *carrier {
	return &carrier{
		fleet: fleet, pace: options.Pace, count: options.Count,
		calls: make(chan struct{}, maxCalls), inHand: map[string]bool{},
	}
}

func (c *carrier) run(ctx context.Context) error {
	defer c.work.Wait()
	// Parcels on the road belong to an earlier run; from then on each parcel is
	// met as planned and followed to its end.
	for states := []shipmentv1.ShipmentState{
		shipmentv1.ShipmentState_SHIPMENT_STATE_PLANNED, shipmentv1.ShipmentState_SHIPMENT_STATE_DISPATCHED,
	}; ; {
		if c.pickUp(ctx, states) {
			states = states[:1]
		}
		if !sleep(ctx, look) {
			return nil
		}
	}
}

// pickUp takes parcels in hand and reports whether it saw them all.
func (c *carrier) pickUp(ctx context.Context, states []shipmentv1.ShipmentState) bool {
	for token := ""; ; {
		request := &shipmentv1.ListShipmentsRequest{
			States: states, Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, PageSize: page, PageToken: token,
		}
		response, ok := try(ctx, c.count, func(ctx context.Context) (*shipmentv1.ListShipmentsResponse, error) {
			return c.fleet.Shipments.ListShipments(ctx, request)
		})
		if !ok {
			return false
		}
		for _, s := range response.GetShipments() {
			if !c.take(ctx, s) {
				return false
			}
		}
		if token = response.GetNextPageToken(); token == "" {
			return true
		}
	}
}

// take follows a parcel unless it is in hand; false: no hand is free.
func (c *carrier) take(ctx context.Context, s *shipmentv1.Shipment) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inHand[s.GetShipmentId()] {
		return true
	}
	if len(c.inHand) >= maxParcels {
		return false
	}
	c.inHand[s.GetShipmentId()] = true
	c.work.Go(func() {
		c.follow(ctx, s)
		c.mu.Lock()
		delete(c.inHand, s.GetShipmentId())
		c.mu.Unlock()
	})
	return true
}

// follow moves one parcel to its end: of 100, four are delayed (one of
// them for nobody knows how long at first) and one is lost.
func (c *carrier) follow(ctx context.Context, s *shipmentv1.Shipment) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(s.GetShipmentId())) // never fails
	p := parcel{carrier: c, id: s.GetShipmentId(), fate: hash.Sum32()}
	if s.GetState() == shipmentv1.ShipmentState_SHIPMENT_STATE_PLANNED {
		if !p.dispatch(ctx, s.GetPromisedAt()) {
			return
		}
	}
	switch draw := p.fate % 100; {
	case draw == 0:
		if p.scan(ctx, 1) {
			p.lose(ctx)
		}
	case draw <= 4 && s.GetPromisedAt() != nil:
		if p.scan(ctx, 1) && (draw < 4 || p.stall(ctx)) && p.delay(ctx, s.GetPromisedAt().AsTime().Add(72*time.Hour)) && p.scan(ctx, 2) {
			p.deliver(ctx)
		}
	default:
		if p.scan(ctx, 1) && p.scan(ctx, 2) {
			p.deliver(ctx)
		}
	}
}

// parcel is one shipment in the carrier's hands.
type parcel struct {
	*carrier
	id   string
	fate uint32
}

// step waits its time and sends one command; it reports whether to go on.
func step[Resp any](ctx context.Context, p parcel, call func(context.Context) (Resp, error)) bool {
	if !sleep(ctx, p.pace/2+p.pace*time.Duration(p.fate/100%100)/100) {
		return false
	}
	select {
	case p.calls <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-p.calls }()
	_, ok := try(ctx, p.count, call)
	return ok
}

func (p parcel) request(name string) string {
	return uuid.NewSHA1(parcelSpace, []byte(p.id+"\x00"+name)).String()
}

func (p parcel) dispatch(ctx context.Context, promised *timestamppb.Timestamp) bool {
	request := &shipmentv1.DispatchShipmentRequest{
		RequestId: p.request("dispatch"), Actor: "warehouse", ShipmentId: p.id, ExpectedAt: promised,
		Carrier: carriers[p.fate%uint32(len(carriers))], TrackingNumber: fmt.Sprintf("TM%08d", p.fate%100_000_000),
	}
	ok := step(ctx, p, func(ctx context.Context) (*shipmentv1.DispatchShipmentResponse, error) {
		return p.fleet.Shipments.DispatchShipment(ctx, request)
	})
	if ok {
		p.count.Dispatched.Add(1)
	}
	return ok
}

func (p parcel) scan(ctx context.Context, n int) bool {
	request := &shipmentv1.RecordScanRequest{
		RequestId: p.request(fmt.Sprintf("scan %d", n)), Actor: "carrier", ShipmentId: p.id,
		Place: depots[(p.fate/7+uint32(n))%uint32(len(depots))], Description: "sorted",
	}
	ok := step(ctx, p, func(ctx context.Context) (*shipmentv1.RecordScanResponse, error) {
		return p.fleet.Shipments.RecordScan(ctx, request)
	})
	if ok {
		p.count.Scanned.Add(1)
	}
	return ok
}

func (p parcel) delay(ctx context.Context, expected time.Time) bool {
	request := &shipmentv1.ReportDelayRequest{
		RequestId: p.request("delay"), Actor: "carrier", ShipmentId: p.id, ExpectedAt: timestamppb.New(expected), Reason: "road closed",
	}
	ok := step(ctx, p, func(ctx context.Context) (*shipmentv1.ReportDelayResponse, error) {
		return p.fleet.Shipments.ReportDelay(ctx, request)
	})
	if ok {
		p.count.Delayed.Add(1)
	}
	return ok
}

func (p parcel) stall(ctx context.Context) bool {
	request := &shipmentv1.ReportDelayRequest{RequestId: p.request("stall"), Actor: "carrier", ShipmentId: p.id, Reason: "held at a border"}
	return step(ctx, p, func(ctx context.Context) (*shipmentv1.ReportDelayResponse, error) {
		return p.fleet.Shipments.ReportDelay(ctx, request)
	})
}

func (p parcel) lose(ctx context.Context) {
	request := &shipmentv1.LoseShipmentRequest{
		RequestId: p.request("lose"), Actor: "carrier", ShipmentId: p.id, Reason: "not found in the depot",
	}
	if step(ctx, p, func(ctx context.Context) (*shipmentv1.LoseShipmentResponse, error) {
		return p.fleet.Shipments.LoseShipment(ctx, request)
	}) {
		p.count.Lost.Add(1)
	}
}

func (p parcel) deliver(ctx context.Context) {
	request := &shipmentv1.DeliverShipmentRequest{
		RequestId: p.request("deliver"), Actor: "carrier", ShipmentId: p.id, Location: "front door", SignedByRole: "recipient",
	}
	if step(ctx, p, func(ctx context.Context) (*shipmentv1.DeliverShipmentResponse, error) {
		return p.fleet.Shipments.DeliverShipment(ctx, request)
	}) {
		p.count.Delivered.Add(1)
	}
}
