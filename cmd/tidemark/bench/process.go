package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

// ProcessOptions say how hard to press the fulfilment process.
type ProcessOptions struct {
	// Dir is an empty directory for the fleets that are started.
	Dir string
	// Orders go the whole happy path, Placers place them at once.
	Orders, Placers int
	// Waiting processes are made to measure what they cost.
	Waiting int
	// Quiet is how long that is measured, three times.
	Quiet time.Duration
	// Binary is the tidemark program that is started and killed.
	Binary string
	// Kills is how often the fleet is killed; 0 leaves it out. KillAfter is for how
	// long orders arrive before each.
	Kills int
	// KillRate is how many a second, before and after: a load that is carried, so
	// that what is measured is recovery and not a backlog.
	KillAfter time.Duration
	KillRate  float64
	// Progress is told what happens; nil: nobody is.
	Progress func(what string)
}

// Process is what came out.
type Process struct {
	Machine Machine `json:"machine"`
	// Orders per second from the first placed to the last completed.
	Orders    int     `json:"orders"`
	PerSecond float64 `json:"orders_per_second"`
	// CPU seconds of the fleet and its database per thousand orders.
	CPUPerThousand float64 `json:"cpu_seconds_per_1000_orders"`
	// Kills are what came of every kill -9.
	Kills []Kill `json:"kills"`
	// Waiting processes cost this share of one core, beyond the idle fleet, and
	// so many bytes of memory of the program.
	Waiting     int     `json:"waiting_processes"`
	IdleCPU     float64 `json:"idle_cpu_percent"`
	WaitingCPU  float64 `json:"waiting_cpu_percent"`
	WaitingHeap int64   `json:"waiting_memory_bytes"`
}

// Kill is what came of one kill -9.
type Kill struct {
	// Orders were acknowledged before it, and Standing of them were not confirmed
	// when the fleet served again.
	Orders   int `json:"orders_before"`
	Standing int `json:"standing_still"`
	// ReadySeconds reach from the new start until the fleet serves,
	// RecoveredSeconds from there until all of these orders are confirmed, while
	// others arrive.
	ReadySeconds     float64 `json:"restart_seconds"`
	RecoveredSeconds float64 `json:"recovered_seconds_after_restart"`
}

// RunProcess measures throughput and the cost of waiting on one embedded fleet,
// and recovery on another that it kills.
func RunProcess(ctx context.Context, o ProcessOptions) (result Process, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	result.Machine = ThisMachine()
	if err := o.embedded(ctx, &result); err != nil {
		return result, err
	}
	if o.Kills > 0 {
		err = o.recovery(ctx, &result)
	}
	return result, err
}

func (o ProcessOptions) embedded(ctx context.Context, result *Process) (err error) {
	o.Progress("starting a fleet")
	f, to, stop, err := ownFleet(ctx, o.Dir+"/embedded")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if o.Orders > 0 {
		o.Progress(fmt.Sprintf("%d orders from place to completed", o.Orders))
		before, started := fleetCPU(), time.Now()
		if err := o.happyPath(ctx, to); err != nil {
			return err
		}
		took := time.Since(started).Seconds()
		result.Orders, result.PerSecond = o.Orders, float64(o.Orders)/took
		result.CPUPerThousand = (fleetCPU() - before) / float64(o.Orders) * 1000
	}
	if o.Waiting > 0 {
		return o.waiting(ctx, "postgres://tidemark@"+f.Addr(fleet.Postgres)+"/tidemark_order?sslmode=disable", result)
	}
	return nil
}

// happyPath places orders and plays warehouse and carrier without delay, until
// every order is completed.
func (o ProcessOptions) happyPath(ctx context.Context, to *client.Fleet) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var placing, carrying sync.WaitGroup
	for range o.Placers {
		placing.Go(func() {
			for i := next.Add(1); i <= int64(o.Orders) && ctx.Err() == nil; i = next.Add(1) {
				if _, err := to.Orders.PlaceOrder(ctx, anOrder(int(i))); err != nil {
					cancel(fmt.Errorf("place: %w", err))
				}
			}
		})
	}
	defer carrying.Wait()
	defer cancel(nil)
	carrying.Go(func() { carry(ctx, to) })
	placing.Wait()
	for ctx.Err() == nil {
		open, err := to.Orders.ListOrders(ctx, &orderv1.ListOrdersRequest{PageSize: 1, States: []orderv1.OrderState{
			orderv1.OrderState_ORDER_STATE_PLACED, orderv1.OrderState_ORDER_STATE_CONFIRMED,
		}})
		if err == nil && len(open.GetOrders()) == 0 {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return context.Cause(ctx)
}

// carry dispatches and delivers every parcel as soon as it sees it.
func carry(ctx context.Context, to *client.Fleet) {
	calls := make(chan struct{}, 12)
	var work sync.WaitGroup
	defer work.Wait()
	seen := map[string]bool{}
	for ctx.Err() == nil {
		page, err := to.Shipments.ListShipments(ctx, &shipmentv1.ListShipmentsRequest{
			States: []shipmentv1.ShipmentState{shipmentv1.ShipmentState_SHIPMENT_STATE_PLANNED}, PageSize: 500,
		})
		if err != nil || len(page.GetShipments()) == 0 {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		fresh := 0
		for _, s := range page.GetShipments() {
			id := s.GetShipmentId()
			if seen[id] {
				continue
			}
			seen[id] = true
			fresh++
			calls <- struct{}{}
			work.Go(func() {
				defer func() { <-calls }()
				_, err := to.Shipments.DispatchShipment(ctx, &shipmentv1.DispatchShipmentRequest{RequestId: uuid.NewString(), Actor: "warehouse", ShipmentId: id})
				if err == nil {
					_, _ = to.Shipments.DeliverShipment(ctx, &shipmentv1.DeliverShipmentRequest{RequestId: uuid.NewString(), Actor: "carrier", ShipmentId: id})
				}
			})
		}
		if fresh == 0 {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

func anOrder(i int) *orderv1.PlaceOrderRequest {
	eur := func(cents int64) *commercev1.Money { return &commercev1.Money{Amount: cents, Currency: "EUR"} }
	return &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: "bench-" + strconv.Itoa(i%500), Channel: "bench",
		Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, ShippingFee: eur(490),
		Lines: []*orderv1.OrderLine{
			{LineId: "1", Sku: "teapot", Quantity: 1, UnitPrice: eur(2490), Warehouse: "north"},
			{LineId: "2", Sku: "cup", Quantity: 4, UnitPrice: eur(390), Warehouse: "north"},
		},
		PaymentPlan: []*orderv1.PlannedPayment{{Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: eur(4540)}},
	}
}

// waiting puts processes into the table that wait for a timer, and measures
// what the fleet spends on them.
func (o ProcessOptions) waiting(ctx context.Context, url string, result *Process) error {
	o.Progress("idle")
	pause(ctx, 5*time.Second)
	share := func() (percent float64) { // the median of three: now and then the database tidies up
		var shares []float64
		for range 3 {
			before := fleetCPU()
			pause(ctx, o.Quiet)
			shares = append(shares, (fleetCPU()-before)/o.Quiet.Seconds()*100)
		}
		slices.Sort(shares)
		return shares[1]
	}
	result.IdleCPU = share()
	memory := rssBytes()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to the order database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	o.Progress(fmt.Sprintf("%d waiting processes", o.Waiting))
	for _, sql := range []string{
		`INSERT INTO process_instance (process, id, definition, state, book, revision, status)
		 SELECT 'fulfilment', 'waiting-' || n, 2, '{"order": {"ID": "w", "State": "PLACED", "Managed": true, "Held": true, "Holds": 1}}', '{"timers": {"held/1": false}}', 1, 'running'
		   FROM generate_series(1, $1::int) AS n`,
		`INSERT INTO process_timer (process, instance_id, name, due_at)
		 SELECT 'fulfilment', 'waiting-' || n, 'held/1', clock_timestamp() + interval '1 day' + n * interval '1 second' FROM generate_series(1, $1::int) AS n`,
	} {
		if _, err := conn.Exec(ctx, sql, o.Waiting); err != nil {
			return fmt.Errorf("make waiting processes: %w", err)
		}
	}
	// What making them leaves behind is not what their waiting costs.
	for _, sql := range []string{`VACUUM ANALYZE process_instance, process_timer`, `CHECKPOINT`} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	pause(ctx, 5*time.Second)
	result.Waiting, result.WaitingCPU = o.Waiting, share()
	result.WaitingHeap = rssBytes() - memory
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// fleetCPU is what this process and the processes below it, the database's, have
// used, in seconds; without those where /proc does not tell.
func fleetCPU() float64 {
	total := cpuSeconds()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return total
	}
	const ticks = 100 // a second, on every Linux that Go runs on
	parents, used := map[string]string{}, map[string]float64{}
	for _, e := range entries {
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		if _, rest, ok := strings.Cut(string(raw), ") "); ok {
			if fields := strings.Fields(rest); len(fields) > 12 {
				user, _ := strconv.ParseFloat(fields[11], 64)
				system, _ := strconv.ParseFloat(fields[12], 64)
				parents[e.Name()], used[e.Name()] = fields[1], (user+system)/ticks
			}
		}
	}
	self := strconv.Itoa(os.Getpid())
	for pid := range used {
		for at := parents[pid]; at != ""; at = parents[at] {
			if at == self {
				total += used[pid]
				break
			}
		}
	}
	return total
}
