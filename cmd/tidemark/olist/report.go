package olist

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

const (
	// readers bounds the queries under way at once.
	readers = 16
	// waitBudget is how long one query may wait for the import's own writes.
	waitBudget = 5 * time.Second
	recheck    = 200 * time.Millisecond
)

// Report compares the files with what the read models answer.
type Report struct {
	Dir      string         `json:"dir"`
	Channel  string         `json:"channel"`
	Rows     map[string]int `json:"rows"`
	Orders   int            `json:"orders"`
	Sent     *Sent          `json:"sent,omitempty"` // absent: nothing was sent
	States   []StateLine    `json:"states"`
	Money    []MoneyLine    `json:"money"`
	Refused  []Group        `json:"refused"`
	NotTaken []Group        `json:"not_taken"`
	// Mismatches names orders whose read model differs from the files.
	Mismatches []Mismatch `json:"mismatches"`
	Balances   bool       `json:"balances"`
}

// StateLine counts the orders of one end state.
type StateLine struct {
	State      string `json:"state"`
	Files      int64  `json:"files"`
	Timeline   int64  `json:"timeline"`
	Operations int64  `json:"operations"`
}

// MoneyLine sums the money of one payment method, in cents.
type MoneyLine struct {
	Method     string `json:"method"`
	Currency   string `json:"currency"`
	Files      Sums   `json:"files"`
	Timeline   Sums   `json:"timeline"`
	Operations Sums   `json:"operations"`
}

// Sums is a number of payments and their money in cents.
type Sums struct {
	Payments  int64 `json:"payments"`
	Requested int64 `json:"requested"`
	Captured  int64 `json:"captured"`
}

func (s *Sums) add(requested, captured int64) {
	s.Payments++
	s.Requested += requested
	s.Captured += captured
}

// Group is the rows refused for one reason.
type Group struct {
	Reason string   `json:"reason"`
	Count  int      `json:"count"`
	First  []string `json:"first"`
}

// Mismatch is an order whose read model differs from the files.
type Mismatch struct {
	OrderID string   `json:"order_id"`
	Differs []string `json:"differs"`
}

// tally counts orders and money as one side has them.
type tally struct {
	states map[timelinev1.OrderStatus]int64
	money  map[commercev1.PaymentMethod]*Sums
}

func newTally() *tally {
	return &tally{states: map[timelinev1.OrderStatus]int64{}, money: map[commercev1.PaymentMethod]*Sums{}}
}

func (t *tally) method(m commercev1.PaymentMethod) *Sums {
	if t.money[m] == nil {
		t.money[m] = &Sums{}
	}
	return t.money[m]
}

// captured is what was collected by a payment according to the files.
func (o *Order) captured(p Payment) int64 {
	if o.paid() {
		return p.Amount
	}
	return 0
}

// Compare asks the query APIs, and nothing else, what became of every order of
// the source. Writes that sent made itself are demanded by token; without sent
// it waits for the read models no longer than options.Settle.
func Compare(ctx context.Context, fleet *client.Fleet, source *Source, sent *Sent, options Options) (*Report, error) {
	report := &Report{
		Dir: source.Dir, Channel: options.Channel, Rows: source.Rows, Orders: len(source.Orders), Sent: sent,
		Refused: groups(source.Refused), NotTaken: groups(source.NotTaken), Mismatches: []Mismatch{},
	}
	files, timeline := newTally(), newTally()
	for _, o := range source.Orders {
		files.states[o.End]++
		for _, p := range o.Payments {
			files.method(p.Method).add(p.Amount, o.captured(p))
		}
	}
	c := &comparer{fleet: fleet, options: options, until: time.Now().Add(options.Settle)}
	advance, finish := options.phase("compare", len(source.Orders))
	defer finish()
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, o := range source.Orders {
		group.Go(func() error {
			var tokens []*freshnessv1.Token
			if sent != nil {
				tokens = sent.tokens[o.ID]
			}
			view, differs, err := c.order(groupCtx, o, tokens)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if view != nil {
				timeline.states[view.GetStatus()]++
				for _, p := range view.GetPayments() {
					timeline.method(p.GetMethod()).add(p.GetRequested().GetAmount(), p.GetCaptured().GetAmount())
				}
			}
			if len(differs) > 0 {
				report.Mismatches = append(report.Mismatches, Mismatch{OrderID: o.ID, Differs: differs})
			}
			advance()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("compare with the timeline: %w", err)
	}
	slices.SortFunc(report.Mismatches, func(a, b Mismatch) int { return cmp.Compare(a.OrderID, b.OrderID) })
	if sent != nil {
		c.until = time.Now().Add(max(options.Settle, options.Patience))
	}
	if err := c.totals(ctx, report, files, timeline); err != nil {
		return nil, fmt.Errorf("compare with the operations totals: %w", err)
	}
	return report, nil
}

type comparer struct {
	fleet   *client.Fleet
	options Options
	until   time.Time // read models not asked by token may catch up until then
}

// order asks for one order until it agrees, or until its answer is final.
func (c *comparer) order(ctx context.Context, o *Order, tokens []*freshnessv1.Token) (*timelinev1.OrderView, []string, error) {
	request := &timelinev1.GetOrderStatusRequest{OrderId: o.ID}
	until := c.until
	if len(tokens) > 0 {
		until = time.Now().Add(c.options.Patience)
		request.Read = &freshnessv1.ReadOptions{
			Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}},
			WaitBudget:  durationpb.New(waitBudget),
			OnViolation: freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE,
		}
	}
	for {
		response, err := client.Retry(ctx, attempt+waitBudget, c.options.Patience, func(ctx context.Context) (*timelinev1.GetOrderStatusResponse, error) {
			return c.fleet.Timeline.GetOrderStatus(ctx, request)
		})
		var differs []string
		switch {
		case err == nil:
			differs = difference(o, response.GetOrder())
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case status.Code(err) == codes.NotFound:
			differs = []string{"not in the timeline"}
		default:
			if _, answered := status.FromError(err); !answered {
				return nil, nil, err
			}
			return nil, []string{describe(err)}, nil
		}
		final := len(differs) == 0 || len(tokens) > 0 && response.GetFreshness().GetDemandMet()
		if final || time.Now().After(until) {
			return response.GetOrder(), differs, nil
		}
		if err := pause(ctx, recheck); err != nil {
			return nil, nil, err
		}
	}
}

// difference says in what a view differs from the files.
func difference(o *Order, view *timelinev1.OrderView) (differs []string) {
	differ := func(what string, want, got any) {
		if want != got {
			differs = append(differs, fmt.Sprintf("%s is %v, the files say %v", what, got, want))
		}
	}
	differ("status", o.End.String(), view.GetStatus().String())
	reason := strings.TrimPrefix(o.CancelReason.String(), "CANCEL_REASON_")
	if !o.cancelled() {
		reason = ""
	}
	differ("cancel reason", reason, view.GetCancelReason())
	differ("customer", o.Customer.ID, view.GetCustomerId())
	differ("number of payments", len(o.Payments), len(view.GetPayments()))
	payments := map[string]*timelinev1.PaymentSummary{}
	for _, p := range view.GetPayments() {
		payments[p.GetPaymentId()] = p
	}
	for _, p := range o.Payments {
		id := PaymentID(o.ID, p.Sequence)
		differ(id+" method", p.Method, payments[id].GetMethod())
		differ(id+" requested", p.Amount, payments[id].GetRequested().GetAmount())
		differ(id+" captured", o.captured(p), payments[id].GetCaptured().GetAmount())
	}
	parcels := o.Parcels()
	differ("number of shipments", len(parcels), len(view.GetShipments()))
	shipments := map[string]*timelinev1.ShipmentSummary{}
	for _, s := range view.GetShipments() {
		shipments[s.GetShipmentId()] = s
	}
	for i, parcel := range parcels {
		id, want := ShipmentID(o.ID, i+1), "dispatched"
		if parcel.Delivered {
			want = "delivered"
		}
		differ(id+" state", want, shipments[id].GetState())
		differ(id+" seller", parcel.Seller, shipments[id].GetWarehouse())
	}
	return differs
}

// totals asks the operations view until it agrees with the files, or time is up.
func (c *comparer) totals(ctx context.Context, report *Report, files, timeline *tally) error {
	for {
		response, err := client.Retry(ctx, attempt, c.options.Patience, func(ctx context.Context) (*operationsv1.GetTotalsResponse, error) {
			return c.fleet.Operations.GetTotals(ctx, &operationsv1.GetTotalsRequest{Channel: c.options.Channel})
		})
		if err != nil {
			return err
		}
		report.fill(files, timeline, response)
		if report.Balances || len(report.Mismatches) > 0 || time.Now().After(c.until) {
			return nil
		}
		if err := pause(ctx, recheck); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
