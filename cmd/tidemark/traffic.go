package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/traffic"
)

type trafficCmd struct {
	Rate        float64       `help:"Orders per second on average." default:"2"`
	Customers   int           `help:"Different people who order." default:"200"`
	Pace        time.Duration `help:"Average time between two steps of a parcel." default:"2s"`
	Seed        uint64        `help:"Makes the sequence of orders repeatable."`
	CarrierOnly bool          `help:"No customers: only warehouses and carriers, for the orders that you place." xor:"role"`
	NoCarrier   bool          `help:"No carriers: only customers." xor:"role"`
	Every       time.Duration `help:"How often to print the counts." default:"5s"`
}

func (c *trafficCmd) Run(a *app) error {
	if c.Rate < 0 || c.Rate > 100_000 || c.Rate != c.Rate {
		return usage("--rate %v: want 0 to 100000 orders per second", c.Rate)
	}
	if c.Every <= 0 {
		return usage("--every %s: want a positive time", c.Every)
	}
	if c.CarrierOnly {
		c.Rate = 0
	}
	var counts traffic.Count
	group, ctx := errgroup.WithContext(a.ctx)
	group.Go(func() error {
		return traffic.Run(ctx, a.Fleet, traffic.Options{
			Rate: c.Rate, Customers: c.Customers, Pace: c.Pace, Seed: c.Seed, NoCarrier: c.NoCarrier, Count: &counts,
		})
	})
	group.Go(func() error { return c.print(ctx, a, &counts) })
	err := group.Wait()
	fmt.Fprintln(a.out, counts.String())
	return err
}

func (c *trafficCmd) print(ctx context.Context, a *app, counts *traffic.Count) error {
	ticker := time.NewTicker(c.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			fmt.Fprintln(a.out, counts.String())
		}
	}
}
