package order

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	paymentv1 "github.com/tidemark-dev/tidemark/proto/payment/v1"
	shipmentv1 "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// paymentID names the payment for one entry of one payment plan, for ever; from
// round 1 on those that are asked for anew.
func (s *fulfilment) paymentID(plan, entry, round int) string {
	parts := []string{fulfilmentName, s.Order.ID, "payment", strconv.Itoa(plan), strconv.Itoa(entry)}
	if round > 0 {
		parts = append(parts, strconv.Itoa(round))
	}
	return process.ID(parts...)
}

// shipmentID names the n-th parcel of one warehouse, for ever.
func (s *fulfilment) shipmentID(warehouse string, number int) string {
	parts := []string{fulfilmentName, s.Order.ID, "shipment", warehouse}
	if number > 1 {
		parts = append(parts, strconv.Itoa(number))
	}
	return process.ID(parts...)
}

// Steps whose names are needed before, or after, they are issued.
func authorizeStep(plan, entry, round int) string {
	if round > 0 {
		return fmt.Sprintf("authorize/%d/%d/%d", plan, entry, round)
	}
	return fmt.Sprintf("authorize/%d/%d", plan, entry)
}

func planStep(warehouse string, number int) string {
	if number > 1 {
		return fmt.Sprintf("plan/%s/%d", warehouse, number)
	}
	return "plan/" + warehouse
}

func captureStep(shipment, payment string) string { return "capture/" + shipment + "/" + payment }

// step makes a command whose request carries the step's request id.
func (s *fulfilment) step(name string, request func(requestID string) proto.Message) process.Command {
	return process.Command{Step: name, Request: request(process.RequestID(fulfilmentName, s.Order.ID, name))}
}

func (s *fulfilment) authorize(id string, pay facts.PlannedPayment, part paymentPart) process.Command {
	return s.step(part.Step, func(requestID string) proto.Message {
		return &paymentv1.AuthorizePaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: id,
			OrderId: s.Order.ID, CustomerId: s.Order.CustomerID,
			Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED,
			Method:     commercev1.PaymentMethod(commercev1.PaymentMethod_value["PAYMENT_METHOD_"+string(pay.Method)]),
			Amount:     &commercev1.Money{Amount: part.Asked, Currency: pay.Amount.Currency}, Reference: pay.Reference,
		}
	})
}

// confirm accepts the order as the process knows it: one amendment more, and the
// order refuses.
func (p *planner) confirm() process.Command {
	number := p.Order.PlanNumber
	if p.guardAmendments {
		number = p.Order.Amendments + 1
	}
	return p.step(fmt.Sprintf("confirm/%d/%d", number, p.Order.Holds), func(requestID string) proto.Message {
		request := &orderv1.ConfirmOrderRequest{RequestId: requestID, Actor: fulfilmentName, OrderId: p.Order.ID}
		if p.guardAmendments {
			seen := int32(p.Order.Amendments)
			request.AmendmentsSeen = &seen
		}
		if at := p.promise(); at != nil && p.Order.PromisedAt != nil && at.After(*p.Order.PromisedAt) {
			request.PromisedAt = timestamppb.New(*at)
		}
		return request
	})
}

// promise is when the goods can be expected, by what was asked for and what we
// were the cause of since; nil if nothing was promised, or little changes.
func (p *planner) promise() *time.Time {
	if p.Order.Asked == nil || p.promiseMoves == 0 {
		return nil
	}
	later := p.Order.HeldFor.Truncate(time.Minute)
	for _, part := range p.Shipments {
		if part.Fate == reship {
			later += p.reshipTakes
		}
	}
	if later < p.promiseMoves {
		return nil
	}
	at := p.Order.Asked.Add(later)
	return &at
}

func (s *fulfilment) amendPromise(at time.Time) process.Command {
	return s.step(fmt.Sprintf("promise/%d", at.Unix()), func(requestID string) proto.Message {
		return &orderv1.AmendOrderRequest{
			RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID, PromisedAt: timestamppb.New(at), Note: "held, or sent again",
		}
	})
}

func (s *fulfilment) cancel(reason string) process.Command {
	return s.step("cancel", func(requestID string) proto.Message {
		return &orderv1.CancelOrderRequest{
			RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID,
			Reason: orderv1.CancelReason(orderv1.CancelReason_value["CANCEL_REASON_"+reason]),
		}
	})
}

func (s *fulfilment) completeOrder() process.Command {
	return s.step(fmt.Sprintf("complete/%d", s.Order.Holds), func(requestID string) proto.Message {
		return &orderv1.CompleteOrderRequest{RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID}
	})
}

func (s *fulfilment) plan(id string, part shipmentPart) process.Command {
	return s.step(part.Step, func(requestID string) proto.Message {
		request := &shipmentv1.PlanShipmentRequest{
			RequestId: requestID, Actor: fulfilmentName, ShipmentId: id,
			OrderId: s.Order.ID, CustomerId: s.Order.CustomerID,
			Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, Warehouse: part.Warehouse,
		}
		for _, line := range s.linesOf(part.Warehouse) {
			if n := part.Lines[line.LineID]; n > 0 {
				request.Lines = append(request.Lines, &shipmentv1.ShipmentLine{LineId: line.LineID, Sku: line.SKU, Quantity: n})
			}
		}
		if s.Order.PromisedAt != nil {
			request.PromisedAt = timestamppb.New(*s.Order.PromisedAt)
		}
		return request
	})
}

func (s *fulfilment) cancelShipment(id string) process.Command {
	return s.step("cancel-shipment/"+id, func(requestID string) proto.Message {
		return &shipmentv1.CancelShipmentRequest{RequestId: requestID, Actor: fulfilmentName, ShipmentId: id, Reason: "not needed any more"}
	})
}

func (s *fulfilment) capture(shipment, payment string, amount int64) process.Command {
	return s.step(captureStep(shipment, payment), func(requestID string) proto.Message {
		return &paymentv1.CapturePaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment, ShipmentId: shipment,
			Amount: &commercev1.Money{Amount: amount, Currency: s.Payments[payment].Currency},
		}
	})
}

func (s *fulfilment) void(payment string) process.Command {
	return s.step("void/"+payment, func(requestID string) proto.Message {
		return &paymentv1.VoidPaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment, Reason: "not needed any more",
		}
	})
}

// refund gives back so much more that the payment gave back total in all.
func (s *fulfilment) refund(payment string, amount, total int64, p paymentPart) process.Command {
	return s.step(fmt.Sprintf("refund/%s/%d", payment, total), func(requestID string) proto.Message {
		return &paymentv1.RefundPaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment,
			Amount: &commercev1.Money{Amount: amount, Currency: p.Currency}, Reason: "not owed",
		}
	})
}

func (s *fulfilment) linesOf(warehouse string) []facts.OrderLine {
	var lines []facts.OrderLine
	for _, line := range s.Order.Lines {
		if warehouseOf(line) == warehouse {
			lines = append(lines, line)
		}
	}
	return lines
}

func (s *fulfilment) warehouses() []string {
	var names []string
	for _, line := range s.Order.Lines {
		names = append(names, warehouseOf(line))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func warehouseOf(line facts.OrderLine) string {
	if line.Warehouse == "" {
		return defaultWarehouse
	}
	return line.Warehouse
}

// ProcessConfig says where the process finds the services it commands.
type ProcessConfig struct {
	Enabled      bool   `help:"Let the fulfilment process move MANAGED orders on." default:"true" negatable:""`
	PaymentAddr  string `help:"gRPC address of the payment service." default:"127.0.0.1:7102"`
	ShipmentAddr string `help:"gRPC address of the shipment service." default:"127.0.0.1:7103"`
}

// markDispatched tells the order's row, in the transaction that learns of it,
// that a parcel left: it waits for a command that holds the row, and the next
// command sees it.
func markDispatched(b *pgx.Batch, id string, s *fulfilment) {
	if s.Marked || !s.dispatched() {
		return
	}
	s.Marked = true
	b.Queue(`UPDATE orders SET dispatched = true WHERE id = $1`, id)
}

// startFulfilment adds the process to the service: a consumer of all three
// contexts' topics that folds facts, and a dispatcher that sends commands. self
// is the service's own gRPC address.
func startFulfilment(ctx context.Context, g *lifecycle.Group, cfg Config, self string, pool *pgxpool.Pool, codec *avro.Codec, tel *telemetry.Telemetry, log *slog.Logger) error {
	var conns []*grpc.ClientConn
	for _, addr := range []string{self, cfg.Fulfilment.PaymentAddr, cfg.Fulfilment.ShipmentAddr} {
		conn, err := rpc.Dial(addr, tel)
		if err != nil {
			return err
		}
		g.OnStop("connection", func(context.Context) error { return conn.Close() })
		conns = append(conns, conn)
	}
	to := participants{
		order:    orderv1.NewOrderServiceClient(conns[0]),
		payment:  paymentv1.NewPaymentServiceClient(conns[1]),
		shipment: shipmentv1.NewShipmentServiceClient(conns[2]),
		requests: map[string]journalv1.RequestServiceClient{},
	}
	for i, name := range targets {
		to.requests[name] = journalv1.NewRequestServiceClient(conns[i])
	}
	manager, err := process.NewManager(pool, process.Participants{
		Targets: targets, Target: target, Send: to.send, Resolve: to.resolve,
	}, log, fulfilmentVersions()...)
	if err != nil {
		return err
	}
	manager.Beside = markDispatched
	facts, err := consumer.New(consumer.Config{
		Kafka: cfg.Kafka, Group: "tidemark-" + fulfilmentName,
		Topics:    []string{kafka.TopicOrder, kafka.TopicPayment, kafka.TopicShipment},
		Telemetry: tel, Log: log,
	}, process.NewFeed(manager, codec))
	if err != nil {
		return err
	}
	g.Go("fulfilment commands", manager.Run)
	g.Go("fulfilment facts", facts.Run)
	return nil
}
