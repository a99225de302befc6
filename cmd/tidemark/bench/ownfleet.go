package bench

import (
	"context"
	"errors"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
)

// ownFleet starts a durable embedded fleet that nobody else uses, and clients of
// it. Stop ends both.
func ownFleet(ctx context.Context, dir string) (f *fleet.Fleet, to *client.Fleet, stop func() error, err error) {
	f, err = fleet.Start(ctx, fleet.Options{Dir: dir, Durable: true})
	if err != nil {
		return nil, nil, nil, err
	}
	to, err = client.Dial(client.Addresses{
		Order: f.Addr(fleet.Order), Payment: f.Addr(fleet.Payment), Shipment: f.Addr(fleet.Shipment),
		Timeline: f.Addr(fleet.Timeline), Operations: f.Addr(fleet.Operations),
	})
	if err != nil {
		return nil, nil, nil, errors.Join(err, f.Stop())
	}
	return f, to, func() error { return errors.Join(to.Close(), f.Stop()) }, nil
}
