package olist

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
)

const (
	// attempt is how long one call may take before it is tried again.
	attempt = 10 * time.Second
	// maxFailures ends an import in which something is wrong with everything.
	maxFailures = 100
	// maxTokens is how many writes one query may demand to see.
	maxTokens = 50
)

// Options steer an import.
type Options struct {
	// Channel under which the orders are placed, part of every request id.
	Channel string
	// Concurrency is how many orders are under way at once.
	Concurrency int
	// Patience is how long a server may be out of reach before the import stops.
	Patience time.Duration
	// Settle is how long the report waits for read models whose writes it did
	// not make itself.
	Settle time.Duration
	// Phase announces a phase of so many orders; it returns what to call after
	// each of them and at the end. Nil: nobody watches.
	Phase func(name string, total int) (advance, finish func())
}

func (o Options) phase(name string, total int) (advance, finish func()) {
	if o.Phase == nil {
		return func() {}, func() {}
	}
	return o.Phase(name, total)
}

// Failure is an order that a service refused to take further.
type Failure struct {
	OrderID string `json:"order_id"`
	Step    string `json:"step"`
	Reason  string `json:"reason"`
}

// Sent is what an import did.
type Sent struct {
	Orders   int           `json:"orders"`   // finished, failures not counted
	Commands int64         `json:"commands"` // answered
	Replayed int64         `json:"replayed"` // of these, in effect before
	Elapsed  time.Duration `json:"elapsed_ns"`
	Failed   []Failure     `json:"failed"`

	tokens map[string][]*freshnessv1.Token // by order id, the last of each aggregate
}

// Import sends the commands of every order: orders by purchase time, the
// commands of one order strictly one after the other. It stops early with an
// error when ctx ends, when a server stays away longer than the patience, or
// when too many orders fail; running it again resumes, because every command
// carries the same request id as before.
func Import(ctx context.Context, fleet *client.Fleet, source *Source, options Options) (*Sent, error) {
	started := time.Now()
	sent := &Sent{Failed: []Failure{}, tokens: make(map[string][]*freshnessv1.Token, len(source.Orders))}
	s := &sender{fleet: fleet, patience: options.Patience}
	advance, finish := options.phase("import", len(source.Orders))
	var mu sync.Mutex
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range max(1, options.Concurrency) {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(source.Orders) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				order := source.Orders[i]
				tokens, failure, err := s.order(ctx, order.ID, Plan(order, options.Channel))
				if err != nil {
					return err
				}
				mu.Lock()
				if failure == nil {
					sent.Orders++
				} else {
					sent.Failed = append(sent.Failed, *failure)
				}
				sent.tokens[order.ID] = tokens
				tooMany := len(sent.Failed) >= maxFailures
				mu.Unlock()
				if tooMany {
					return fmt.Errorf("%d orders failed, the last one (%s) at %q: %s", maxFailures, failure.OrderID, failure.Step, failure.Reason)
				}
				advance()
			}
		})
	}
	err := group.Wait()
	finish()
	sent.Commands, sent.Replayed, sent.Elapsed = s.commands.Load(), s.replayed.Load(), time.Since(started)
	return sent, err
}

// sender sends the steps of orders.
type sender struct {
	fleet              *client.Fleet
	patience           time.Duration
	commands, replayed atomic.Int64
}

// tracedEvery says which share of the orders is recorded by the tracing backend;
// a bulk load would otherwise drown everything else there, and cost a fifth more.
const tracedEvery = 100

// traceOf returns the trace context of one order's commands. Every entry of the
// order then names one trace, which is recorded for one order in tracedEvery.
func traceOf(id string) string {
	sum := sha256.Sum256([]byte("olist/" + id))
	sampled := "00"
	if binary.BigEndian.Uint32(sum[24:])%tracedEvery == 0 {
		sampled = "01"
	}
	return fmt.Sprintf("00-%x-%x-%s", sum[:16], sum[16:24], sampled)
}

// order sends the steps of one order until one is refused. The tokens are the
// last of each aggregate.
func (s *sender) order(ctx context.Context, id string, steps []Step) ([]*freshnessv1.Token, *Failure, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceOf(id))
	var tokens []*freshnessv1.Token
	last := map[string]int{}
	for _, step := range steps {
		answer, err := client.Retry(ctx, attempt, s.patience, func(ctx context.Context) (written, error) {
			return s.send(ctx, step)
		})
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, client.ErrPatience):
			return nil, nil, fmt.Errorf("order %s, %s: %w", id, step.Name, err)
		default:
			return tokens, &Failure{OrderID: id, Step: step.Name, Reason: describe(err)}, nil
		}
		s.commands.Add(1)
		if answer.GetReplayed() {
			s.replayed.Add(1)
		}
		token := answer.GetToken()
		key := token.GetAggregateType() + "/" + token.GetAggregateId()
		if i, seen := last[key]; seen {
			tokens[i] = token
		} else {
			last[key] = len(tokens)
			tokens = append(tokens, token)
		}
	}
	if len(tokens) > maxTokens {
		tokens = tokens[len(tokens)-maxTokens:]
	}
	return tokens, nil, nil
}

// written is what every command answers.
type written interface {
	GetToken() *freshnessv1.Token
	GetReplayed() bool
}

func (s *sender) send(ctx context.Context, step Step) (written, error) {
	switch r := step.Request.(type) {
	case *orderv1.PlaceOrderRequest:
		return s.fleet.Orders.PlaceOrder(ctx, r)
	case *orderv1.ConfirmOrderRequest:
		return s.fleet.Orders.ConfirmOrder(ctx, r)
	case *orderv1.CancelOrderRequest:
		return s.fleet.Orders.CancelOrder(ctx, r)
	case *paymentv1.AuthorizePaymentRequest:
		return s.fleet.Payments.AuthorizePayment(ctx, r)
	case *paymentv1.CapturePaymentRequest:
		return s.fleet.Payments.CapturePayment(ctx, r)
	case *shipmentv1.PlanShipmentRequest:
		return s.fleet.Shipments.PlanShipment(ctx, r)
	case *shipmentv1.DispatchShipmentRequest:
		return s.fleet.Shipments.DispatchShipment(ctx, r)
	case *shipmentv1.DeliverShipmentRequest:
		return s.fleet.Shipments.DeliverShipment(ctx, r)
	}
	return nil, fmt.Errorf("step %q: no service takes a %T", step.Name, step.Request)
}

// describe writes a refusal in one line.
func describe(err error) string {
	s := status.Convert(err)
	text := fmt.Sprintf("%s: %s", s.Code(), s.Message())
	if reason := client.Reason(err); reason != "" {
		text += " (" + reason + ")"
	}
	return text
}
