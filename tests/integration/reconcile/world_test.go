// Package reconcile compares the read models of a running fleet with their
// owners, while orders come in: nothing is wrong, and then exactly what was made
// wrong is named.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/traffic"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/readmodel"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

const partitions = 2

// world is a running fleet, its databases, and one more read model: a timeline
// that misreads the refund of one order.
type world struct {
	*testing.T
	*client.Fleet
	pools  map[string]*pgxpool.Pool
	views  map[string]grpc.ClientConnInterface
	placed *traffic.Count
}

// misread is the order whose refund the read model "misread" takes for twice as
// much.
const misread = "q-misread"

func open(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, pools: map[string]*pgxpool.Pool{}, placed: &traffic.Count{}}
	urls := map[string]string{}
	for _, part := range []string{fleet.Order, fleet.Payment, fleet.Shipment, fleet.Timeline, fleet.Operations} {
		urls[part] = testkit.PostgresURL(t)
		pool, err := pgxpool.New(t.Context(), urls[part])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		w.pools[part] = pool
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f, err := fleet.Start(ctx, fleet.Options{Dir: testkit.Dir(t, "reconcile"), Partitions: partitions, DatabaseURL: func(part string) string { return urls[part] }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.Fleet, err = client.Dial(client.Addresses{
		Order: f.Addr(fleet.Order), Payment: f.Addr(fleet.Payment), Shipment: f.Addr(fleet.Shipment),
		Timeline: f.Addr(fleet.Timeline), Operations: f.Addr(fleet.Operations),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Fleet.Close() })
	w.views = map[string]grpc.ClientConnInterface{"timeline": w.Views["timeline"], "operations": w.Views["operations"], "misread": w.misreader(f)}
	return w
}

// misreader runs the timeline's view with one fact misread, beside the others.
func (w *world) misreader(f *fleet.Fleet) grpc.ClientConnInterface {
	w.Helper()
	cfg, err := lifecycle.Defaults[readmodel.Config]()
	if err != nil {
		w.Fatal(err)
	}
	cfg.Postgres.URL = testkit.PostgresURL(w.T)
	cfg.Kafka.Brokers, cfg.Kafka.RegistryURL, cfg.Kafka.Partitions = f.Addr(fleet.Broker), "http://"+f.Addr(fleet.Registry), partitions
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	cfg.Owners = projection.Owners{Order: f.Addr(fleet.Order), Payment: f.Addr(fleet.Payment), Shipment: f.Addr(fleet.Shipment)}
	addr, done := make(chan string, 1), make(chan error, 1)
	cfg.Ready = func(at string) { addr <- at }
	view := timeline.View()
	view.Name = "misread"
	fold := view.Fold
	view.Fold = func(s *timeline.State, f event.Fact) {
		if r, ok := f.Body.(*facts.PaymentRefunded); ok && f.Key == misread {
			twice := *r
			twice.TotalRefunded.Amount *= 2
			f.Body = &twice
		}
		fold(s, f)
	}
	contract, err := os.ReadFile("../../../projections/timeline/readmodel.yaml")
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(lifecycle.WithLogger(w.Context(), slog.New(slog.DiscardHandler)))
	go func() {
		done <- readmodel.Run(ctx, cfg, view, strings.Replace(string(contract), "name: timeline", "name: misread", 1), func(readmodel.Parts[timeline.State]) {}, timeline.Truths()...)
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	select {
	case at := <-addr:
		conn, err := rpc.Dial(at, telemetry.Off())
		if err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() { _ = conn.Close() })
		return conn
	case err := <-done:
		w.Fatal(err)
	}
	return nil
}

// works lets orders come in and be delivered until the test ends.
func (w *world) works() {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	rate := 1.0 // every pass compares all that came before it: on a slow machine more would never end
	if *loaded > 0 {
		rate = 5
	}
	go func() {
		done <- traffic.Run(ctx, w.Fleet, traffic.Options{Rate: rate, Pace: 500 * time.Millisecond, Seed: 1, Count: w.placed})
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		w.Log(w.placed.String())
	})
}

// full compares everything that a view has with its owners.
func (w *world) full(view string) *readmodelv1.GateReport {
	w.Helper()
	r, err := readmodelv1.NewReconcileServiceClient(w.views[view]).StartReconcile(w.Context(), &readmodelv1.StartReconcileRequest{
		Request: &readmodelv1.Request{RequestId: uuid.NewString(), Actor: "operator:test", Reason: "test"},
	})
	if err != nil {
		w.Fatal(err)
	}
	stream, err := readmodelv1.NewGenerationServiceClient(w.views[view]).WatchOperation(w.Context(), &readmodelv1.WatchOperationRequest{Id: r.GetOperation().GetId()})
	if err != nil {
		w.Fatal(err)
	}
	for said := ""; ; {
		m, err := stream.Recv()
		if err != nil {
			w.Fatalf("%s: %v", view, err)
		}
		o := m.GetOperation()
		if now := o.GetPhase() + ": " + o.GetError(); now != said && o.GetError() != "" {
			said = now
			w.Logf("%s cannot go on after %d orders and tries again: %s", view, o.GetDone(), now)
		}
		if o.GetFinishedAt() != nil {
			if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
				w.Fatalf("%s: %v", view, o)
			}
			var tally []string
			for _, t := range o.GetReport().GetOwners() {
				tally = append(tally, fmt.Sprintf("%s %d compared, %d moved", t.GetSource(), t.GetCompared(), t.GetMoved()))
			}
			w.Logf("%s: %d orders in %v: %s", view, o.GetReport().GetOrdersCompared(), o.GetFinishedAt().AsTime().Sub(o.GetCreatedAt().AsTime()).Round(time.Millisecond), strings.Join(tally, "; "))
			return o.GetReport()
		}
	}
}

// named is what a report names, as text.
func named(r *readmodelv1.GateReport) (all []string) {
	for _, d := range r.GetDifferences() {
		all = append(all, strings.Join([]string{d.GetOrderId(), d.GetTable(), d.GetKey(), d.GetField()}, " "))
	}
	for _, v := range r.GetViolations() {
		all = append(all, v.GetSubject()+": "+v.GetDescription())
	}
	slices.Sort(all)
	return all
}

// exec changes rows behind everybody's back.
func (w *world) exec(part, sql string) {
	w.Helper()
	tag, err := w.pools[part].Exec(w.Context(), sql)
	if err != nil || tag.RowsAffected() != 1 {
		w.Fatalf("%s: %v, %v", sql, tag, err)
	}
}

// rows is the schema in which a view that answers keeps its rows.
func (w *world) rows(view string) (schema string) {
	w.Helper()
	if err := w.pools[view].QueryRow(w.Context(), "SELECT schema FROM tidemark.pointer WHERE name = $1", view).Scan(&schema); err != nil {
		w.Fatal(err)
	}
	return schema
}

func euros(cents int64) *commercev1.Money { return &commercev1.Money{Amount: cents, Currency: "EUR"} }

// quiet makes an order that nobody moves on, with a payment of a hundred euros of
// the same id: collected, given back, released and corrected, in cents.
type quiet struct {
	id                          string
	captured, refunded, release int64
	corrected                   []int64
}

func must[Resp any](w *world) func(r Resp, err error) Resp {
	return func(r Resp, err error) Resp {
		w.Helper()
		if err != nil {
			w.Fatal(err)
		}
		return r
	}
}

func (w *world) place(q quiet) {
	w.Helper()
	external := commercev1.Fulfilment_FULFILMENT_EXTERNAL
	must[*orderv1.PlaceOrderResponse](w)(w.Orders.PlaceOrder(w.Context(), &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), OrderId: q.id, CustomerId: "quiet", Fulfilment: external, ShippingFee: euros(500),
		Contact: &commercev1.Contact{Name: "Ada"}, Address: &commercev1.Address{City: "Hamburg", Country: "DE"},
	}))
	must[*paymentv1.AuthorizePaymentResponse](w)(w.Payments.AuthorizePayment(w.Context(), &paymentv1.AuthorizePaymentRequest{
		RequestId: uuid.NewString(), PaymentId: q.id, OrderId: q.id, CustomerId: "quiet", Fulfilment: external, Amount: euros(10_000),
		Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, ExternalOutcome: paymentv1.ExternalOutcome_EXTERNAL_OUTCOME_AUTHORIZED,
	}))
	if q.captured > 0 {
		must[*paymentv1.CapturePaymentResponse](w)(w.Payments.CapturePayment(w.Context(), &paymentv1.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: q.id, Amount: euros(q.captured)}))
	}
	if q.release > 0 {
		must[*paymentv1.VoidPaymentResponse](w)(w.Payments.VoidPayment(w.Context(), &paymentv1.VoidPaymentRequest{RequestId: uuid.NewString(), PaymentId: q.id, Reason: "the rest"}))
	}
	if q.refunded > 0 {
		must[*paymentv1.RefundPaymentResponse](w)(w.Payments.RefundPayment(w.Context(), &paymentv1.RefundPaymentRequest{RequestId: uuid.NewString(), PaymentId: q.id, Amount: euros(q.refunded)}))
	}
	for _, c := range q.corrected {
		must[*paymentv1.CorrectPaymentResponse](w)(w.Payments.CorrectPayment(w.Context(), &paymentv1.CorrectPaymentRequest{
			RequestId: uuid.NewString(), PaymentId: q.id, CorrectedCaptured: euros(c), EffectiveAt: timestamppb.Now(), Reason: "the books",
		}))
	}
}

// knows waits until the timeline shows an order.
func (w *world) knows(id string) {
	w.Helper()
	o := must[*orderv1.GetOrderResponse](w)(w.Orders.GetOrder(w.Context(), &orderv1.GetOrderRequest{OrderId: id}))
	must[*timelinev1.GetOrderStatusResponse](w)(w.Timeline.GetOrderStatus(w.Context(), &timelinev1.GetOrderStatusRequest{OrderId: id, Read: atLeast(o.GetToken())}))
}
