package order

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/process"
	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
	"github.com/tidemark-dev/tidemark/schemas"
)

// crash kills a process manager right before or right after its n-th step: a
// transaction that writes, or a call. What is dead reaches nobody any more.
// It is the tracer of the manager's own pool.
type crash struct {
	at    int // 0: never
	after bool
	kill  context.CancelFunc

	mu    sync.Mutex
	steps []string
	dead  bool
}

// pass is asked before and after each step, and reports whether it may go on.
func (c *crash) pass(step string, after bool) (alive bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !after && !c.dead {
		c.steps = append(c.steps, step)
	}
	if !c.dead && after == c.after && len(c.steps) == c.at {
		c.dead = true
		c.kill()
	}
	return !c.dead
}

func (c *crash) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

type stepKey struct{}

func (c *crash) start(ctx context.Context, step string) context.Context {
	if step != "" && !c.pass(step, false) || c.gone() {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		return cancelled
	}
	return context.WithValue(ctx, stepKey{}, step)
}

func (c *crash) end(ctx context.Context, err error) {
	if step, _ := ctx.Value(stepKey{}).(string); step != "" && err == nil {
		c.pass(step, true)
	}
}

func (c *crash) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	sql := strings.TrimSpace(q.SQL)
	if sql = strings.Join(strings.Fields(sql)[:min(2, len(strings.Fields(sql)))], " "); !strings.HasPrefix(sql, "UPDATE") {
		sql = ""
	}
	return c.start(ctx, sql)
}

func (c *crash) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	c.end(ctx, q.Err)
}

func (c *crash) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	step := ""
	if last := len(b.Batch.QueuedQueries) - 1; b.Batch.QueuedQueries[last].SQL == "COMMIT" {
		step = "COMMIT"
	}
	return c.start(ctx, step)
}

func (c *crash) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (c *crash) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchEndData) {
	c.end(ctx, b.Err)
}

// life is one order from its first fact to its end, whoever dies meanwhile.
type life struct {
	*service
	codec    *avro.Codec
	id       string
	number   int32 // of the partition, of which each life has one
	cancels  bool  // the customer cancels once money was collected
	till     *till
	records  []consumer.Record // the log, which outlives everybody
	taken    int64             // sequence of the order's journal up to which it is in the log
	fromTill int
	asked    bool // to cancel
}

// TestACrashBeforeAndAfterEveryStep kills the process manager at each of its
// writes and calls, one after the other, through the whole life of an order that
// goes well and of one that is cancelled after money was collected. Another goes
// on from what the database and the log hold: the order ends as it should, no
// money is lost or made, and nothing happens twice.
func TestACrashBeforeAndAfterEveryStep(t *testing.T) {
	s := start(t, func(c *Config) { c.Fulfilment.Enabled = false })
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	number := int32(0)
	for _, cancels := range []bool{false, true} {
		live := func(c *crash) {
			l := &life{service: s, codec: codec, number: number, cancels: cancels, till: newTill(codec, t)}
			number++
			l.id = s.place(placing()).GetOrder().GetOrderId()
			if l.through(c); t.Failed() {
				t.Fatalf("crashed after=%v %d. step of %v", c.after, c.at, c.steps)
			}
		}
		whole := &crash{}
		live(whole)
		crashes := 0
		for at := range whole.steps {
			for _, after := range []bool{false, true} {
				c := &crash{at: at + 1, after: after}
				if live(c); c.dead {
					crashes++
				}
			}
		}
		t.Logf("cancelled %v: %d crashes in %d steps: %v", cancels, crashes, len(whole.steps), whole.steps)
		if crashes < len(whole.steps) { // notes of what is done may come together
			t.Errorf("only %d crashes in %d steps", crashes, len(whole.steps))
		}
	}
}

// through runs the order's life with a manager that crashes, and with another
// after it.
func (l *life) through(c *crash) {
	l.Helper()
	if l.until(c) {
		// The claims of the dead lapse, as time would let them.
		if _, err := l.pool.Exec(l.Context(), `UPDATE process_command SET claimed_until = '-infinity' WHERE instance_id = $1`, l.id); err != nil {
			l.Fatal(err)
		}
		l.until(&crash{})
	}
	l.check()
}

// until lets a manager work until it is dead or the order has ended.
func (l *life) until(c *crash) (dead bool) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	c.kill = cancel
	config := l.pool.Config()
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		l.Fatal(err)
	}
	defer pool.Close()
	to := participants{order: l.OrderServiceClient, requests: map[string]journalv1.RequestServiceClient{"order": l.requests}}
	call := func(what string, send func() error) error {
		if !c.pass(what, false) {
			return status.Error(codes.Unavailable, "dead")
		}
		err := send()
		if !c.pass(what, true) {
			return status.Error(codes.Unavailable, "dead")
		}
		return err
	}
	manager, err := process.NewManager(pool, process.Participants{
		Targets: targets, Target: target,
		Send: func(ctx context.Context, request proto.Message, cause process.Cause) error {
			return call(fmt.Sprintf("%T", request), func() error {
				if target(request) == "order" {
					return to.send(context.WithoutCancel(ctx), request, cause)
				}
				return l.till.take(l.id, request)
			})
		},
		Resolve: func(ctx context.Context, target, id, method string, cause process.Cause) (effective bool, err error) {
			err = call("resolve "+method, func() (err error) {
				if effective = l.till.resolve(id); target == "order" {
					effective, err = to.resolve(context.WithoutCancel(ctx), target, id, method, cause)
				}
				return err
			})
			return effective, err
		},
	}, slog.New(slog.DiscardHandler), fulfilmentVersions()...)
	if err != nil {
		l.Fatal(err)
	}
	manager.Beside = markDispatched
	feed := process.NewFeed(manager, l.codec)
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	next, err := feed.Claim(ctx, l.number, nil)
	if err != nil && !c.gone() {
		l.Fatal(err)
	}
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !c.gone() {
		l.act()
		l.collect()
		for _, r := range l.records {
			if r.Offset < next[r.Topic] {
				continue
			}
			if err := feed.Handle(ctx, l.number, []consumer.Record{r}); err != nil {
				if c.gone() {
					return true
				}
				l.Fatal(err)
			}
			next[r.Topic] = r.Offset + 1
		}
		var ended bool
		if err := l.pool.QueryRow(l.Context(), `SELECT count(*) > 0 FROM process_instance AS i WHERE id = $1 AND status = 'ended'
			AND NOT EXISTS (SELECT FROM process_command AS c WHERE c.instance_id = i.id AND c.status = 'pending')`, l.id).Scan(&ended); err != nil {
			l.Fatal(err)
		}
		if ended {
			return c.gone()
		}
		select {
		case <-ctx.Done():
			if !c.gone() {
				var stands string
				err := l.pool.QueryRow(l.Context(), `SELECT coalesce(string_agg(concat_ws(' ', i.status, i.attention, c.step, c.status, c.outcome), '; '), 'no process')
					FROM process_instance AS i LEFT JOIN process_command AS c ON c.instance_id = i.id WHERE i.id = $1`, l.id).Scan(&stands)
				l.Fatalf("the order does not end; the log holds %d records, the till %v: %s (%v)", len(l.records), l.till.effects, stands, err)
			}
		case <-ticker.C:
		}
	}
	return true
}

// act is what the warehouse, the carrier and the customer do.
func (l *life) act() {
	l.Helper()
	collected := l.till.moveParcels(l.id, !l.cancels)
	if l.cancels && collected && !l.asked {
		l.asked = true
		if _, err := l.CancelOrder(l.Context(), &orderpb.CancelOrderRequest{
			RequestId: uuid.NewString(), OrderId: l.id, Reason: orderpb.CancelReason_CANCEL_REASON_CUSTOMER,
		}); err != nil {
			l.Fatal(err)
		}
	}
}

// check looks at how it ended.
func (l *life) check() {
	l.Helper()
	got, err := l.GetOrder(l.Context(), &orderpb.GetOrderRequest{OrderId: l.id})
	if err != nil {
		l.Fatal(err)
	}
	history := l.history(l.id)
	end, kept := "Completed", int64(3000)
	effects := []string{"AuthorizePayment", "CapturePayment", "PlanShipment"}
	if l.cancels {
		end, kept = "Cancelled", 0
		effects = []string{"AuthorizePayment", "CapturePayment", "PlanShipment", "RefundPayment"}
	}
	want := []string{"Placed", "Confirmed", end}
	if diff := cmp.Diff(want, history); diff != "" {
		l.Errorf("the order is %s: %s", got.GetOrder().GetState(), diff)
	}
	slices.Sort(l.till.effects)
	if diff := cmp.Diff(effects, l.till.effects); diff != "" {
		l.Errorf("side effects: %s", diff)
	}
	if l.till.captured-l.till.refunded != kept || l.till.held != 0 {
		l.Errorf("captured %d, refunded %d, held %d; owed %d", l.till.captured, l.till.refunded, l.till.held, kept)
	}
}
