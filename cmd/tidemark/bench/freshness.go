// Package bench holds the benchmarks that the documentation quotes. A benchmark
// starts what it needs, measures from outside through the public APIs, and
// prints its figures as a table and as JSON together with the machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/traffic"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// FreshnessOptions say how hard to press.
type FreshnessOptions struct {
	// Dir is the data directory of the fleet that is started; it must be empty.
	Dir string
	// Rate is how many orders arrive per second, at exponentially distributed
	// intervals that do not wait for anybody (open loop).
	Rate float64
	// Orders are measured after Warmup orders that are not.
	Orders, Warmup int
	// Carrier lets carriers dispatch, scan and deliver the parcels too, so that the
	// orders are collected and completed while later ones arrive.
	Carrier bool
	// Rebuild builds the timeline anew and switches to it, over and over, meanwhile.
	Rebuild bool
	// Arrived is called after each order that is due, warm-up included.
	Arrived func()
}

// Freshness is what came out, in milliseconds.
type Freshness struct {
	Machine Machine `json:"machine"`
	Rate    float64 `json:"orders_per_second_wanted"`
	Reached float64 `json:"orders_per_second_reached"`
	Orders  int     `json:"orders"`
	Failed  int     `json:"failed"`
	// Place is the command alone; Visible reaches from the moment the order was
	// due to arrive to the answer of the query that carries the command's token.
	Place   Quantiles `json:"place_ms"`
	Visible Quantiles `json:"place_to_visible_ms"`
	// Answered reaches from the command's answer to that of the query.
	Answered Quantiles `json:"answered_to_visible_ms"`
	// Confirmed and Completed are how many of all orders the fulfilment process had
	// brought that far when the last order was visible.
	Confirmed int64 `json:"orders_confirmed"`
	Completed int64 `json:"orders_completed"`
	Carrier   bool  `json:"carrier"`
	// Rebuilds is nil unless asked for.
	Rebuilds *Rebuilds `json:"rebuilds,omitempty"`
}

// RunFreshness starts a durable embedded fleet with the fulfilment process and,
// if asked, a carrier, and measures how long after it was due an order is visible in the
// timeline to a reader who demands it.
func RunFreshness(ctx context.Context, o FreshnessOptions) (result Freshness, err error) {
	_, to, stop, err := ownFleet(ctx, o.Dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	var count traffic.Count
	carrying, stopCarrier := context.WithCancel(ctx)
	var carrier sync.WaitGroup
	if o.Carrier {
		carrier.Go(func() { _ = traffic.Run(carrying, to, traffic.Options{Pace: time.Second, Count: &count}) })
	}
	defer carrier.Wait()
	defer stopCarrier()

	rebuilding, stopRebuilds := context.WithCancel(ctx)
	var rebuilds sync.WaitGroup
	var rebuildErr error
	defer rebuilds.Wait()
	defer stopRebuilds()
	total := o.Warmup + o.Orders
	place, visible := make([]time.Duration, total), make([]time.Duration, total)
	failures := make([]error, total)
	var readers sync.WaitGroup
	due, first := time.Now(), time.Time{}
	for i := range total {
		due = due.Add(time.Duration(rand.ExpFloat64() / o.Rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			readers.Wait()
			return result, ctx.Err()
		case <-time.After(time.Until(due)):
		}
		if i == o.Warmup {
			first = due
			if o.Rebuild {
				rebuilds.Go(func() { result.Rebuilds, rebuildErr = rebuildOver(rebuilding, to, probe) })
			}
		}
		at := due // the loop moves due on while the reader still runs
		readers.Go(func() { place[i], visible[i], failures[i] = placeAndSee(ctx, to, i, at) })
		o.Arrived()
	}
	last := due
	readers.Wait()
	stopRebuilds()
	rebuilds.Wait()
	if rebuildErr != nil {
		return result, rebuildErr
	}
	for _, err := range failures {
		if err != nil {
			result.Failed++
		}
	}
	if result.Failed > 0 {
		return result, fmt.Errorf("%d of %d orders failed, the first with: %w", result.Failed, total, firstError(failures))
	}
	result.Machine = ThisMachine()
	result.Rate, result.Orders = o.Rate, o.Orders
	result.Reached = float64(o.Orders) / last.Sub(first).Seconds()
	result.Place, result.Visible = quantiles(place[o.Warmup:]), quantiles(visible[o.Warmup:])
	answered := make([]time.Duration, 0, o.Orders)
	for i := o.Warmup; i < total; i++ {
		answered = append(answered, visible[i]-place[i])
	}
	result.Answered = quantiles(answered)
	result.Carrier = o.Carrier
	result.Completed = inState(ctx, to, orderv1.OrderState_ORDER_STATE_COMPLETED)
	result.Confirmed = result.Completed + inState(ctx, to, orderv1.OrderState_ORDER_STATE_CONFIRMED)
	return result, nil
}

// probe is the order that is read beside rebuilds: the first.
var probe = orderID(0)

func orderID(i int) string { return fmt.Sprintf("bench-order-%d", i) }

// placeAndSee places one managed order and reads it back with its token.
func placeAndSee(ctx context.Context, to *client.Fleet, i int, due time.Time) (placed, seen time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	eur := func(cents int64) *commercev1.Money { return &commercev1.Money{Amount: cents, Currency: "EUR"} }
	answer, err := to.Orders.PlaceOrder(ctx, &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), OrderId: orderID(i), CustomerId: fmt.Sprintf("bench-%d", i%500),
		Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, Channel: "bench", ShippingFee: eur(490),
		Lines: []*orderv1.OrderLine{
			{LineId: "1", Sku: "teapot", Quantity: 1, UnitPrice: eur(2490), Warehouse: "north"},
			{LineId: "2", Sku: "cup", Quantity: 4, UnitPrice: eur(390), Warehouse: "north"},
		},
		PaymentPlan: []*orderv1.PlannedPayment{{Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: eur(4540)}},
	})
	if err != nil {
		return 0, 0, err
	}
	placed = time.Since(due)
	_, err = to.Timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{
		OrderId: answer.GetOrder().GetOrderId(),
		Read: &freshnessv1.ReadOptions{
			Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: []*freshnessv1.Token{answer.GetToken()}}},
			WaitBudget:  durationpb.New(30 * time.Second),
		},
	})
	return placed, time.Since(due), err
}

// inState counts the orders in one state.
func inState(ctx context.Context, to *client.Fleet, state orderv1.OrderState) int64 {
	request := &orderv1.ListOrdersRequest{States: []orderv1.OrderState{state}, PageSize: 500}
	var n int64
	for {
		page, err := to.Orders.ListOrders(ctx, request)
		if err != nil {
			return n
		}
		n += int64(len(page.GetOrders()))
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return n
		}
	}
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
