// Package traffic makes synthetic life for a fleet: customers who place orders,
// and the warehouses and carriers that move their parcels.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
)

const (
	attempt  = 5 * time.Second
	patience = 15 * time.Second
	// maxCustomers bounds the customers that wait for an answer at once. Arrivals
	// beyond it are counted as turned away: the load stays open-loop, and a dead
	// fleet costs no memory.
	maxCustomers = 512
)

// Options steer the traffic. The zero value makes carriers only.
type Options struct {
	// Rate is how many orders arrive per second on average (Poisson); 0 for none.
	Rate float64
	// Customers is how many different people order; 0 means 200.
	Customers int
	// Seed makes the sequence of orders repeatable; 0 picks one.
	Seed uint64
	// NoCarrier leaves the parcels to somebody else.
	NoCarrier bool
	// Pace is the average time between two steps of a parcel; 0 means 2 s.
	Pace time.Duration
	// Count receives what happened; nil: nobody counts.
	Count *Count
}

// Count is what the traffic did so far. Safe for concurrent use.
type Count struct {
	Placed, TurnedAway, Refused, Failed           atomic.Int64
	Dispatched, Scanned, Delayed, Lost, Delivered atomic.Int64
}

// String writes the counts in one line.
func (c *Count) String() string {
	return fmt.Sprintf("orders: %d placed, %d turned away · parcels: %d dispatched, %d scanned, %d delayed, %d lost, %d delivered · commands: %d refused, %d failed",
		c.Placed.Load(), c.TurnedAway.Load(), c.Dispatched.Load(), c.Scanned.Load(), c.Delayed.Load(), c.Lost.Load(), c.Delivered.Load(),
		c.Refused.Load(), c.Failed.Load())
}

// Run makes traffic until ctx ends; then it returns nil. A fleet that does not
// answer is no error: customers come again.
func Run(ctx context.Context, fleet *client.Fleet, options Options) error {
	if options.Customers <= 0 {
		options.Customers = 200
	}
	if options.Pace <= 0 {
		options.Pace = 2 * time.Second
	}
	if options.Count == nil {
		options.Count = &Count{}
	}
	group, ctx := errgroup.WithContext(ctx)
	if options.Rate > 0 {
		group.Go(func() error { return customers(ctx, fleet, options) })
	}
	if !options.NoCarrier {
		group.Go(func() error { return newCarrier(fleet, options).run(ctx) })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// try sends one command and counts a refusal, which is part of life: somebody
// else was faster. It reports whether the command took effect.
func try[Resp any](ctx context.Context, count *Count, call func(context.Context) (Resp, error)) (Resp, bool) {
	response, err := client.Retry(ctx, attempt, patience, call)
	switch {
	case err == nil:
		return response, true
	case ctx.Err() != nil:
	case status.Code(err) == codes.FailedPrecondition:
		count.Refused.Add(1)
	default:
		count.Failed.Add(1)
	}
	return response, false
}

// sleep waits unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
