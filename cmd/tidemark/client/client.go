// Package client is how the command line, the importer and the traffic
// generator reach a fleet: five typed clients, consistency tokens as text, and
// the knowledge of which errors are worth a retry.
package client

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// maxReceive bounds one answer; a page of 500 orders with 200 lines fits.
const maxReceive = 32 << 20

// Addresses says where the five servers of a fleet listen, as host:port.
type Addresses struct {
	Order, Payment, Shipment, Timeline, Operations string
}

// Conns are connections to the five servers of a fleet. They may be shared.
type Conns struct {
	Order, Payment, Shipment, Timeline, Operations grpc.ClientConnInterface
}

// Fleet is the typed clients of a fleet.
type Fleet struct {
	Orders     orderv1.OrderServiceClient
	Processes  orderv1.ProcessServiceClient
	Payments   paymentv1.PaymentServiceClient
	Shipments  shipmentv1.ShipmentServiceClient
	Timeline   timelinev1.TimelineServiceClient
	Operations operationsv1.OperationsServiceClient
	// Sources are the operators' service of each context, by its name.
	Sources map[string]journalv1.JournalAdminServiceClient
	// Views are the connections to the read models' servers, by view, for what
	// every read model serves its operators.
	Views map[string]grpc.ClientConnInterface
	close []func() error
}

// New makes the typed clients over connections that the caller owns.
func New(conns Conns) *Fleet {
	return &Fleet{
		Orders:     orderv1.NewOrderServiceClient(conns.Order),
		Processes:  orderv1.NewProcessServiceClient(conns.Order),
		Payments:   paymentv1.NewPaymentServiceClient(conns.Payment),
		Shipments:  shipmentv1.NewShipmentServiceClient(conns.Shipment),
		Timeline:   timelinev1.NewTimelineServiceClient(conns.Timeline),
		Operations: operationsv1.NewOperationsServiceClient(conns.Operations),
		Sources: map[string]journalv1.JournalAdminServiceClient{
			"order":    journalv1.NewJournalAdminServiceClient(conns.Order),
			"payment":  journalv1.NewJournalAdminServiceClient(conns.Payment),
			"shipment": journalv1.NewJournalAdminServiceClient(conns.Shipment),
		},
		Views: map[string]grpc.ClientConnInterface{"timeline": conns.Timeline, "operations": conns.Operations},
	}
}

// Dial makes clients for the addresses. No connection is made before the first
// call, so a wrong address shows there. The caller closes the fleet.
func Dial(addresses Addresses, options ...grpc.DialOption) (*Fleet, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
	}, options...)
	var opened []func() error
	var failed []error
	dial := func(name, address string) *grpc.ClientConn {
		conn, err := grpc.NewClient(address, options...)
		if err != nil {
			failed = append(failed, fmt.Errorf("address %q of the %s server: %w", address, name, err))
			return nil
		}
		opened = append(opened, conn.Close)
		return conn
	}
	conns := Conns{
		Order:      dial("order", addresses.Order),
		Payment:    dial("payment", addresses.Payment),
		Shipment:   dial("shipment", addresses.Shipment),
		Timeline:   dial("timeline", addresses.Timeline),
		Operations: dial("operations", addresses.Operations),
	}
	fleet := New(conns)
	fleet.close = opened
	if err := errors.Join(failed...); err != nil {
		return nil, errors.Join(err, fleet.Close())
	}
	return fleet, nil
}

// Close closes the connections that Dial made; those given to New stay open.
func (f *Fleet) Close() error {
	var failed []error
	for _, c := range f.close {
		failed = append(failed, c())
	}
	f.close = nil
	return errors.Join(failed...)
}
