// Package replicas runs a read model as it is scaled out: several processes on
// one database, behind a balancer of the clients', restarted one after another.
package replicas

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/session"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

const (
	users = 4
	// budget is more than any rebalance takes.
	budget = 30 * time.Second
)

// Two replicas share the partitions. Users write, and read what they wrote at
// whichever replica the balancer picks, while each replica is restarted in
// turn, and one is killed: no call fails, and nobody sees time go backwards.
func TestRollingRestartFailsNoQuery(t *testing.T) {
	dir := testkit.Dir(t, "replicas")
	w := open(t, dir)
	a, b := w.replicas[0], w.replicas[1]
	a.start()
	b.start()
	share := func() {
		t.Helper()
		a.until("both own partitions", func() bool { return a.owns() > 0 && b.owns() > 0 && a.owns()+b.owns() == int(kafka.DefaultPartitions) })
	}
	share()

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for user := range users {
		all.Go(func() { w.use(ctx, fmt.Sprintf("user-%d", user)) })
	}
	w.rounds(1)
	for _, r := range []*replica{a, b} {
		began := time.Now()
		r.end(syscall.SIGTERM)
		w.rounds(2)
		r.start()
		share()
		w.traffic(r) // the next one is restarted when clients have found this one again
		w.rounds(2)
		t.Logf("%s was restarted in %v; longest read so far %v", r.name, time.Since(began).Round(time.Millisecond), w.longest())
	}
	if longest := w.longest(); longest > budget*2/3 {
		t.Errorf("a read took %v: nobody woke it", longest)
	}
	began := time.Now()
	a.end(syscall.SIGKILL)
	b.until("it took everything over", func() bool { return b.owns() == int(kafka.DefaultPartitions) })
	w.rounds(2)
	t.Logf("after a kill, the other one owns everything in %v; longest read %v", time.Since(began).Round(time.Millisecond), w.longest())
	stop()
	all.Wait()
	t.Logf("%d reads", w.reads.Load())
}

// world is a fleet whose timeline is replicated.
type world struct {
	t        *testing.T
	replicas []*replica
	orders   orderv1.OrderServiceClient
	timeline timelinev1.TimelineServiceClient // behind the balancer

	reads atomic.Int64
	slow  atomic.Int64

	mu   sync.Mutex
	done []int          // rounds of each user
	turn chan struct{}  // closed and renewed after every round
	from map[string]int // answers, by the address they came from
}

func open(t *testing.T, dir string) *world {
	t.Helper()
	urls := map[string]string{}
	for _, part := range []string{fleet.Order, fleet.Payment, fleet.Shipment, fleet.Timeline} {
		urls[part] = testkit.PostgresURL(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	f, err := fleet.Start(ctx, fleet.Options{
		Dir: dir, Partitions: kafka.DefaultPartitions, DatabaseURL: func(part string) string { return urls[part] },
		Parts: []string{fleet.Broker, fleet.Registry, fleet.Payment, fleet.Shipment, fleet.Order},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, done: make([]int, users), turn: make(chan struct{}), from: map[string]int{}}
	binary := build(t, dir)
	list := resolver.State{}
	for _, name := range []string{"a", "b"} {
		r := newReplica(t, dir, binary, name, "--postgres-url", urls[fleet.Timeline], "--kafka-brokers", f.Addr(fleet.Broker),
			"--kafka-registry-url", "http://"+f.Addr(fleet.Registry), "--page-secret", "the same at every replica",
			"--owner-order", f.Addr(fleet.Order), "--owner-payment", f.Addr(fleet.Payment), "--owner-shipment", f.Addr(fleet.Shipment))
		w.replicas = append(w.replicas, r)
		list.Endpoints = append(list.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: r.addr}}})
	}
	addresses := manual.NewBuilderWithScheme("replicas")
	addresses.InitialState(list)
	w.orders = orderv1.NewOrderServiceClient(dial(t, f.Addr(fleet.Order)))
	w.timeline = timelinev1.NewTimelineServiceClient(dial(t, "replicas:///timeline", grpc.WithResolvers(addresses)))
	return w
}

func dial(t *testing.T, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(target, telemetry.Off(), append(opts,
		grpc.WithChainUnaryInterceptor(session.UnaryClientInterceptor), grpc.WithChainStreamInterceptor(session.StreamClientInterceptor))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// rounds waits until every user has done n more rounds: a round that began
// before does not count.
func (w *world) rounds(n int) {
	w.t.Helper()
	w.mu.Lock()
	from := slices.Clone(w.done)
	w.mu.Unlock()
	limit := time.After(90 * time.Second)
	for {
		w.mu.Lock()
		enough, turn := true, w.turn
		for user, done := range w.done {
			enough = enough && done > from[user]+n
		}
		w.mu.Unlock()
		if w.t.Failed() {
			w.t.FailNow()
		}
		if enough {
			return
		}
		select {
		case <-turn:
		case <-limit:
			w.t.Fatalf("users stand still: %v", w.done)
		}
	}
}

// traffic waits until the balancer sends queries to a replica.
func (w *world) traffic(r *replica) {
	w.t.Helper()
	answers := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.from[r.addr]
	}
	before := answers()
	r.until("clients found it", func() bool { return answers() > before || w.t.Failed() })
}

func (w *world) longest() time.Duration { return time.Duration(w.slow.Load()).Round(time.Millisecond) }

func (w *world) took(d time.Duration, from string) {
	w.reads.Add(1)
	w.mu.Lock()
	w.from[from]++
	w.mu.Unlock()
	for {
		slow := w.slow.Load()
		if int64(d) <= slow || w.slow.CompareAndSwap(slow, int64(d)) {
			return
		}
	}
}

// next counts rounds of a user, and wakes who waits for them.
func (w *world) next(user, rounds int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[user] += rounds
	close(w.turn)
	w.turn = make(chan struct{})
}

// user is somebody who works on one order after another.
type user struct {
	w    *world
	name string
	// What was seen of the order: it must not be seen younger again.
	version int64
	asOf    map[string]time.Time
}

// use works until the context ends.
func (w *world) use(ctx context.Context, name string) {
	s := &session.Session{}
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	number := int(name[len(name)-1] - '0')
	for round := 0; ; round++ {
		u := &user{w: w, name: name, asOf: map[string]time.Time{}}
		if err := u.work(ctx, s); err != nil {
			if ctx.Err() == nil {
				w.t.Errorf("%s, round %d: %v", name, round, err)
				w.next(number, 0)
			}
			return
		}
		// A session goes on from its text, as in a cookie.
		again, err := session.Parse(s.String())
		if err != nil {
			w.t.Error(err)
			return
		}
		s = again
		w.next(number, 1)
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
	}
}

// work is one order: placed, held and released, and looked at after each step,
// at whatever replica.
func (u *user) work(ctx context.Context, s *session.Session) error {
	ctx = session.NewContext(ctx, s)
	placed, err := u.w.orders.PlaceOrder(ctx, &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: u.name, Fulfilment: commercev1.Fulfilment_FULFILMENT_EXTERNAL,
		ShippingFee: &commercev1.Money{Currency: "EUR"},
		Lines:       []*orderv1.OrderLine{{LineId: "1", Sku: "cup", Title: "Cup", Quantity: 1, UnitPrice: &commercev1.Money{Amount: 400, Currency: "EUR"}, Warehouse: "south"}},
	})
	if err != nil {
		return fmt.Errorf("place: %w", err)
	}
	id := placed.GetOrder().GetOrderId()
	if err := u.look(ctx, id, placed.GetToken(), false); err != nil {
		return err
	}
	held, err := u.w.orders.HoldOrder(ctx, &orderv1.HoldOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: "address"})
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	if err := u.look(ctx, id, held.GetToken(), true); err != nil {
		return err
	}
	released, err := u.w.orders.ReleaseOrder(ctx, &orderv1.ReleaseOrderRequest{RequestId: uuid.NewString(), OrderId: id})
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return u.look(ctx, id, released.GetToken(), false)
}

// look reads what was just written, several times over, so that both replicas
// are asked, with the session's demand and with none.
func (u *user) look(ctx context.Context, id string, token *freshnessv1.Token, onHold bool) error {
	for i, read := range []*freshnessv1.ReadOptions{
		{WaitBudget: durationpb.New(budget)}, nil, {Consistency: &freshnessv1.ReadOptions_Any{Any: &freshnessv1.Any{}}}, nil,
	} {
		began := time.Now()
		var from peer.Peer
		status, err := u.w.timeline.GetOrderStatus(within(ctx), &timelinev1.GetOrderStatusRequest{OrderId: id, Read: read}, grpc.Peer(&from))
		if err != nil {
			return fmt.Errorf("look %d at version %d: %w", i, token.GetVersion(), err)
		}
		u.w.took(time.Since(began), from.Addr.String())
		if status.GetOrder().GetOnHold() != onHold {
			return fmt.Errorf("look %d at version %d: on hold is %v: %v", i, token.GetVersion(), !onHold, status.GetFreshness())
		}
		if err := u.forward(status.GetFreshness(), id, token); err != nil {
			return fmt.Errorf("look %d at version %d: %w", i, token.GetVersion(), err)
		}
	}
	entries, err := u.w.timeline.ListOrderTimeline(within(ctx), &timelinev1.ListOrderTimelineRequest{OrderId: id})
	if err != nil {
		return fmt.Errorf("list version %d: %w", token.GetVersion(), err)
	}
	if n := int64(len(entries.GetEntries())); n != token.GetVersion() {
		return fmt.Errorf("list version %d: %d entries", token.GetVersion(), n)
	}
	return u.forward(entries.GetFreshness(), id, token)
}

// within gives a call the time that its wait budget may take.
func within(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 2*budget)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// forward says that an answer is not older than one seen before.
func (u *user) forward(f *freshnessv1.Freshness, id string, token *freshnessv1.Token) error {
	for _, v := range f.GetEntityVersions() {
		if v.GetAggregateType() == "order" && v.GetAggregateId() == id {
			if v.GetVersion() < max(u.version, token.GetVersion()) {
				return fmt.Errorf("version %d after %d", v.GetVersion(), max(u.version, token.GetVersion()))
			}
			u.version = v.GetVersion()
		}
	}
	if u.version < token.GetVersion() {
		return fmt.Errorf("version %d of it is not in %v", token.GetVersion(), f)
	}
	for _, s := range f.GetSources() {
		if s.GetAsOf() == nil {
			continue
		}
		if at := s.GetAsOf().AsTime(); at.Before(u.asOf[s.GetSource()]) {
			return fmt.Errorf("as_of of %s went back from %v to %v", s.GetSource(), u.asOf[s.GetSource()], at)
		} else {
			u.asOf[s.GetSource()] = at
		}
	}
	return nil
}
