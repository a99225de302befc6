package fulfilment

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

const (
	attempt  = 10 * time.Second
	patience = 3 * time.Minute
)

// tally counts what truly happened, by its name.
type tally struct {
	mu    sync.Mutex
	count map[string]int64
}

func (t *tally) add(what string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count[what] += n
}

// script is what becomes of one order, as far as its customer and its bank have
// a say in it.
type script struct {
	id, token string
	total     int64
	split     bool // voucher and card
}

// customers place the orders, on a rate, and see each script through. They go on
// until the faults are over.
func (w *world) customers(ctx context.Context, over <-chan struct{}) <-chan []script {
	done := make(chan []script, 1)
	go func() {
		var all []*script
		var work sync.WaitGroup
		for striking := true; striking || len(all) < *orders; {
			s, i := &script{}, len(all)
			all = append(all, s)
			work.Go(func() { *s = w.customer(ctx, i) })
			if !pass(ctx, time.Duration(float64(time.Second) / *rate)) {
				break
			}
			select {
			case <-over:
				striking = false
			default:
			}
		}
		work.Wait()
		var scripts []script
		for _, s := range all {
			scripts = append(scripts, *s)
		}
		done <- scripts
	}()
	return done
}

// share deals the n-th of many a number below 100, so that each hundred of them
// gets every number once.
func (w *world) share(n int, factor uint64) int { return int((uint64(n)*factor + w.seed%100) % 100) }

// customer places one order and does what its dice say.
func (w *world) customer(ctx context.Context, i int) script {
	dice := rand.New(rand.NewPCG(w.seed, uint64(i)+100))
	s := script{id: fmt.Sprintf("order-%d", i), token: token(w.share(i, 37), dice), split: dice.IntN(3) == 0}
	place := &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), OrderId: s.id, CustomerId: fmt.Sprintf("customer-%d", i%97), Channel: "web",
		Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, ShippingFee: eur(490),
	}
	place.Lines, s.total = lines(dice)
	place.PaymentPlan = s.plan(s.total)
	if !say(ctx, w, func(ctx context.Context) (*orderv1.PlaceOrderResponse, error) {
		return w.to.Orders.PlaceOrder(ctx, place)
	}) {
		w.t.Errorf("%s could not be placed", s.id)
		return s
	}
	switch draw := w.share(i, 61); {
	case draw < 12:
		pass(ctx, time.Duration(dice.IntN(2500))*time.Millisecond)
		w.cancelOrder(ctx, s.id)
	case draw < 20:
		pass(ctx, time.Duration(dice.IntN(600))*time.Millisecond)
		w.hold(ctx, s.id, time.Duration(300+dice.IntN(1500))*time.Millisecond)
	case draw < 32:
		amend := &orderv1.AmendOrderRequest{RequestId: uuid.NewString(), OrderId: s.id, Lines: &orderv1.OrderLines{}}
		amend.Lines.Lines, s.total = lines(dice)
		amend.PaymentPlan = s.plan(s.total)
		if say(ctx, w, func(ctx context.Context) (*orderv1.AmendOrderResponse, error) {
			return w.to.Orders.AmendOrder(ctx, amend)
		}) {
			w.met.add("amended before it was confirmed", 1)
		}
	}
	return s
}

// token chooses how the bank of a customer behaves; see payment.SimulatorConfig.
func token(draw int, dice *rand.Rand) string {
	switch {
	case draw < 6:
		return "tok_decline"
	case draw < 9:
		return "tok_timeout"
	case draw < 15:
		return "tok_duplicate"
	case draw < 21:
		return fmt.Sprintf("tok_slow_%d", 100+dice.IntN(900))
	case draw < 24:
		return "tok_decline_capture"
	case draw < 30:
		return "tok_lapse_3602" // the process asks anew an hour before
	}
	return ""
}

// plan pays an amount: by card, or first by voucher.
func (s script) plan(total int64) []*orderv1.PlannedPayment {
	card := &orderv1.PlannedPayment{Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: eur(total), Reference: s.token}
	if !s.split {
		return []*orderv1.PlannedPayment{card}
	}
	card.Amount = eur(total - total/3)
	return []*orderv1.PlannedPayment{{Method: commercev1.PaymentMethod_PAYMENT_METHOD_VOUCHER, Amount: eur(total / 3)}, card}
}

func lines(dice *rand.Rand) (all []*orderv1.OrderLine, total int64) {
	total = 490
	for i := range 1 + dice.IntN(3) {
		quantity, price := 1+dice.IntN(3), int64(100+dice.IntN(9000))
		total += int64(quantity) * price
		all = append(all, &orderv1.OrderLine{
			LineId: fmt.Sprint(i + 1), Sku: "sku", Quantity: int32(quantity), UnitPrice: eur(price),
			Warehouse: []string{"north", "south"}[dice.IntN(2)],
		})
	}
	return all, total
}

func eur(cents int64) *commercev1.Money { return &commercev1.Money{Amount: cents, Currency: "EUR"} }

// say sends one command until it is answered; false if it was refused.
func say[R any](ctx context.Context, w *world, call func(context.Context) (R, error)) bool {
	_, err := client.Retry(ctx, attempt, patience, call)
	if err != nil && ctx.Err() == nil && status.Code(err) != codes.FailedPrecondition {
		w.t.Errorf("%v (%s)", err, client.Reason(err))
	}
	return err == nil
}

func (w *world) cancelOrder(ctx context.Context, id string) {
	request := &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: orderv1.CancelReason_CANCEL_REASON_CUSTOMER}
	if say(ctx, w, func(ctx context.Context) (*orderv1.CancelOrderResponse, error) {
		return w.to.Orders.CancelOrder(ctx, request)
	}) {
		w.met.add("cancelled by the customer", 1)
	}
}

func (w *world) hold(ctx context.Context, id string, d time.Duration) {
	hold := &orderv1.HoldOrderRequest{RequestId: uuid.NewString(), Actor: "operator:test", OrderId: id, Reason: "ADDRESS_CHECK"}
	if !say(ctx, w, func(ctx context.Context) (*orderv1.HoldOrderResponse, error) { return w.to.Orders.HoldOrder(ctx, hold) }) {
		return
	}
	w.met.add("held and released", 1)
	pass(ctx, d)
	release := &orderv1.ReleaseOrderRequest{RequestId: uuid.NewString(), Actor: "operator:test", OrderId: id}
	say(ctx, w, func(ctx context.Context) (*orderv1.ReleaseOrderResponse, error) {
		return w.to.Orders.ReleaseOrder(ctx, release)
	})
}

// carriers follow every parcel to its end, until ctx ends.
func (w *world) carriers(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var work sync.WaitGroup
		defer work.Wait()
		calls := make(chan struct{}, 16)
		inHand := map[string]bool{}
		for ctx.Err() == nil {
			for token := ""; ; {
				page, err := w.to.Shipments.ListShipments(ctx, &shipmentv1.ListShipmentsRequest{
					States: []shipmentv1.ShipmentState{shipmentv1.ShipmentState_SHIPMENT_STATE_PLANNED}, PageSize: 500, PageToken: token,
				})
				if err != nil {
					break
				}
				for _, s := range page.GetShipments() {
					if id := s.GetShipmentId(); !inHand[id] {
						n := len(inHand)
						inHand[id] = true
						work.Go(func() { w.follow(ctx, id, n, calls) })
					}
				}
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			pass(ctx, 200*time.Millisecond)
		}
	}()
	return done
}

// follow moves the n-th parcel to its end.
func (w *world) follow(ctx context.Context, id string, n int, calls chan struct{}) {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(id))
	dice := rand.New(rand.NewPCG(w.seed, hash.Sum64()))
	step := func(call func(context.Context) (any, error)) bool {
		if !pass(ctx, time.Duration(dice.IntN(800))*time.Millisecond) {
			return false
		}
		select {
		case calls <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		defer func() { <-calls }()
		return say(ctx, w, call)
	}
	request := func() string { return uuid.NewString() }
	dispatch := &shipmentv1.DispatchShipmentRequest{RequestId: request(), Actor: "warehouse", ShipmentId: id, Carrier: "postal"}
	deliver := &shipmentv1.DeliverShipmentRequest{RequestId: request(), Actor: "carrier", ShipmentId: id}
	lose := &shipmentv1.LoseShipmentRequest{RequestId: request(), Actor: "carrier", ShipmentId: id, Reason: "not found"}
	back := &shipmentv1.ReturnShipmentRequest{RequestId: request(), Actor: "carrier", ShipmentId: id, Reason: "refused"}
	delivered := func() bool {
		return step(func(ctx context.Context) (any, error) { return w.to.Shipments.DeliverShipment(ctx, deliver) })
	}
	returned := func() bool {
		return step(func(ctx context.Context) (any, error) { return w.to.Shipments.ReturnShipment(ctx, back) })
	}
	if !step(func(ctx context.Context) (any, error) { return w.to.Shipments.DispatchShipment(ctx, dispatch) }) {
		return // recalled before it left
	}
	switch draw := w.share(n, 37); {
	case draw < 5:
		if step(func(ctx context.Context) (any, error) { return w.to.Shipments.LoseShipment(ctx, lose) }) {
			w.met.add("parcel lost", 1)
		}
	case draw < 8:
		if returned() {
			w.met.add("parcel came back undelivered", 1)
		}
	case draw < 11:
		if delivered() && returned() {
			w.met.add("parcel sent back by the customer", 1)
		}
	default:
		delivered()
	}
}
