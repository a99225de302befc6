package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// CompletenessOptions say how hard to press.
type CompletenessOptions struct {
	// Dir is the data directory of the fleet that is started; it must be empty.
	Dir string
	// Rate is how many commands are due per second, open loop, for Duration.
	Rate     float64
	Duration time.Duration
	// Queries are asked per second meanwhile.
	Queries float64
	// Fresh is the age of as_of up to which an answer counts as fresh.
	Fresh time.Duration
	// Asked is called after each question that counts.
	Asked func()
}

// Completeness is what came out.
type Completeness struct {
	Machine Machine `json:"machine"`
	Wanted  float64 `json:"commits_per_second_wanted"`
	Reached float64 `json:"commits_per_second_reached"`
	// TurnedAway commands were due while too many others were unanswered.
	TurnedAway int64 `json:"turned_away"`
	Answers    int   `json:"answers"`
	// Good answers say of every source that it is PROVEN, and fresh.
	Good  int     `json:"answers_proven_and_fresh"`
	Share float64 `json:"share"`
	// Proven, Unproven and Violated count single sources inside answers.
	Proven   int `json:"sources_proven"`
	Unproven int `json:"sources_unproven"`
	Violated int `json:"sources_violated"`
	// AsOf is the age of the oldest as_of of an answer, in milliseconds.
	AsOf Quantiles `json:"as_of_age_ms"`
}

// maxUnanswered bounds the commands that wait for an answer at once.
const maxUnanswered = 256

// warmUp is how long the load runs before answers count.
const warmUp = 3 * time.Second

// RunCompleteness starts a durable embedded fleet, places orders at a steady
// rate, and asks meanwhile how complete and how fresh the timeline says it is.
func RunCompleteness(ctx context.Context, o CompletenessOptions) (result Completeness, err error) {
	_, to, stop, err := ownFleet(ctx, o.Dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	load := &steadyLoad{to: to}
	started := time.Now()
	ends := started.Add(warmUp + o.Duration)
	bounded, cancel := context.WithDeadline(ctx, ends)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { load.run(ctx, bounded.Done(), o.Rate) })
	var ages []time.Duration
	ticks := time.NewTicker(time.Duration(float64(time.Second) / o.Queries))
	defer ticks.Stop()
	for bounded.Err() == nil {
		select {
		case <-bounded.Done():
			continue
		case <-ticks.C:
		}
		id, ok := load.some()
		if !ok || time.Since(started) < warmUp {
			continue
		}
		o.Asked()
		answer, err := to.Timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: id})
		if status.Code(err) == codes.NotFound { // not even seconds later
			result.Answers++
			continue
		}
		if err != nil {
			return result, fmt.Errorf("ask for an order: %w", err)
		}
		ages = append(ages, result.add(answer.GetFreshness(), o.Fresh))
	}
	group.Wait()
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	if err := load.failure(); err != nil {
		return result, err
	}
	result.Machine, result.Wanted, result.TurnedAway = ThisMachine(), o.Rate, load.away.Load()
	result.Reached = float64(load.done.Load()) / (warmUp + o.Duration).Seconds()
	result.Share = float64(result.Good) / float64(max(1, result.Answers))
	result.AsOf = quantiles(ages)
	return result, nil
}

// add counts one answer and returns the age of its oldest source.
func (c *Completeness) add(f *freshnessv1.Freshness, fresh time.Duration) (oldest time.Duration) {
	now := time.Now()
	good := len(f.GetSources()) > 0
	for _, s := range f.GetSources() {
		age := time.Hour // unknown
		if s.GetAsOf() != nil {
			age = now.Sub(s.GetAsOf().AsTime())
		}
		oldest = max(oldest, age)
		switch s.GetCompleteness() {
		case freshnessv1.Completeness_COMPLETENESS_PROVEN:
			c.Proven++
		case freshnessv1.Completeness_COMPLETENESS_VIOLATED:
			c.Violated++
		default:
			c.Unproven++
		}
		good = good && s.GetCompleteness() == freshnessv1.Completeness_COMPLETENESS_PROVEN && age <= fresh
	}
	c.Answers++
	if good {
		c.Good++
	}
	return oldest
}

// steadyLoad places orders that nobody fulfils, one fact each.
type steadyLoad struct {
	to   *client.Fleet
	done atomic.Int64
	away atomic.Int64

	mu     sync.Mutex
	placed []string // the last few
	failed error
}

func (l *steadyLoad) run(ctx context.Context, stop <-chan struct{}, rate float64) {
	slots := make(chan struct{}, maxUnanswered)
	var group sync.WaitGroup
	defer group.Wait()
	due := time.Now()
	for i := 0; ; i++ {
		due = due.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		select {
		case <-stop:
			return
		case <-time.After(time.Until(due)): // at once, if it is over
		}
		select {
		case slots <- struct{}{}:
			group.Go(func() { l.place(ctx, i); <-slots })
		default:
			l.away.Add(1)
		}
	}
}

func (l *steadyLoad) place(ctx context.Context, i int) {
	zero := &commercev1.Money{Currency: "EUR"}
	answer, err := l.to.Orders.PlaceOrder(ctx, &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: fmt.Sprintf("bench-%d", i%500),
		Fulfilment: commercev1.Fulfilment_FULFILMENT_EXTERNAL, Channel: "bench", ShippingFee: zero,
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = err
		return
	}
	l.done.Add(1)
	if len(l.placed) < 1000 {
		l.placed = append(l.placed, answer.GetOrder().GetOrderId())
	}
}

// some returns the id of an order that was placed early on.
func (l *steadyLoad) some() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.placed) == 0 {
		return "", false
	}
	return l.placed[rand.IntN(len(l.placed))], true
}

func (l *steadyLoad) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return fmt.Errorf("place an order: %w", l.failed)
	}
	return nil
}
