// Package fulfilment runs orders through the whole fleet under everything that
// can go wrong with one: the provider declines, is late, answers twice or not at
// all; customers cancel and change their minds; parcels are lost and come back;
// services, database and broker are killed, connections are cut and replies
// swallowed. In the end every order is completed or compensated or in the hands
// of a person, and the money is where the provider says it is.
//
// What truly happened is read from those who did it: the provider's own table,
// the payments and shipments of their services. Each kind of trouble counts how
// often it truly met an order; a run in which one never did fails.
package fulfilment

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

var (
	orders = flag.Int("orders", ordersWanted(), "orders to place at least; also TIDEMARK_FULFILMENT_ORDERS")
	bites  = flag.Int("bites", 0, "how often every kind of fault must meet a command under way; 0 means once per 700 orders")
	seed   = flag.Uint64("seed", 0, "seed of the choices; 0 draws one")
	rate   = flag.Float64("rate", 15, "orders per second at most")
)

func ordersWanted() int {
	if n, err := strconv.Atoi(os.Getenv("TIDEMARK_FULFILMENT_ORDERS")); err == nil && n > 0 {
		return n
	}
	return 150
}

// settle bounds how long the fleet may take to end every order.
const settle = 5 * time.Minute

// world is a fleet with somebody in between.
type world struct {
	*processes.Fleet
	t      *testing.T
	seed   uint64
	choice *rand.Rand
	to     *client.Fleet

	database, payment, shipment *processes.Proxy
	met                         *tally
}

func TestEveryOrderEndsWell(t *testing.T) {
	w := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	started := time.Now()
	carrying := w.carriers(ctx)
	over := make(chan struct{})
	placed := w.customers(ctx, over)
	w.strikeAll(ctx)
	close(over)
	scripts := <-placed
	t.Logf("%d orders were placed and the last fault is over after %.0f s", len(scripts), time.Since(started).Seconds())
	w.rest(ctx, len(scripts))
	t.Logf("the fleet came to rest after %.0f s", time.Since(started).Seconds())
	w.board(ctx)
	w.byHand(ctx)
	w.rest(ctx, len(scripts))
	w.board(ctx)
	cancel()
	<-carrying

	w.balance(t.Context(), scripts)
	w.met.report(t)
	t.Logf("starts per part: %v", w.Starts())
}

// open starts the fleet. Payment and shipment service run on ports of their own,
// so that the test stands between them and whoever calls them.
func open(t *testing.T) *world {
	t.Helper()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	if *bites == 0 {
		*bites = 1 + *orders/700
	}
	t.Logf("seed %d, %d orders", *seed, *orders)
	dir := testkit.Dir(t, "fulfilment")
	front := processes.FreeBase(t)
	behind := processes.FreeBase(t, front)
	store := processes.FreeBase(t, front, behind)
	between := func(from, to, offset int) *processes.Proxy {
		return processes.Listen(t, processes.Address(from+offset), processes.Address(to+offset), nil)
	}
	w := &world{t: t, seed: *seed, choice: rand.New(rand.NewPCG(*seed, 1)), met: &tally{count: map[string]int64{}}}
	w.payment, w.shipment = between(front, behind, 102), between(front, behind, 103)
	w.database = between(front, store, 432)
	between(behind, store, 432) // of the two that stand behind
	between(behind, front, 92)
	between(behind, front, 81)
	w.Fleet = processes.Start(t, processes.Options{
		Dir: dir, Parts: processes.Parts(), Base: front,
		Bases: map[string]int{"postgres": store, "payment": behind, "shipment": behind},
	})
	// Customers, carriers and clerks have lines of their own.
	to, err := client.Dial(client.Addresses{
		Order: processes.Address(front + 101), Payment: processes.Address(behind + 102), Shipment: processes.Address(behind + 103),
		Timeline: processes.Address(front + 201), Operations: processes.Address(front + 202),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.to = to
	t.Cleanup(func() { _ = w.to.Close() })
	return w
}

// pass lets time go by while the fleet works; false once ctx has ended.
func pass(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// until asks every 50 ms until the answer is yes; false if it never is.
func until(ctx context.Context, limit time.Duration, yes func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !yes() {
		if !pass(ctx, 50*time.Millisecond) {
			return false
		}
	}
	return true
}
