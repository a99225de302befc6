package order

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

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

// paymentID names the payment for one entry of one payment plan, for ever.
func (s *fulfilment) paymentID(plan, entry int) string {
	return process.ID(fulfilmentName, s.Order.ID, "payment", strconv.Itoa(plan), strconv.Itoa(entry))
}

// shipmentID names the shipment of one warehouse, for ever.
func (s *fulfilment) shipmentID(warehouse string) string {
	return process.ID(fulfilmentName, s.Order.ID, "shipment", warehouse)
}

// step makes a command whose request carries the step's request id.
func (s *fulfilment) step(name string, request func(requestID string) proto.Message) process.Command {
	return process.Command{Step: name, Request: request(process.RequestID(fulfilmentName, s.Order.ID, name))}
}

func (s *fulfilment) authorize(id string, entry int, pay facts.PlannedPayment) process.Command {
	return s.step(fmt.Sprintf("authorize/%d/%d", s.Order.PlanNumber, entry), func(requestID string) proto.Message {
		return &paymentv1.AuthorizePaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: id,
			OrderId: s.Order.ID, CustomerId: s.Order.CustomerID,
			Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED,
			Method:     commercev1.PaymentMethod(commercev1.PaymentMethod_value["PAYMENT_METHOD_"+string(pay.Method)]),
			Amount:     money(pay.Amount), Reference: pay.Reference,
		}
	})
}

func (s *fulfilment) cancel() process.Command {
	return s.step("cancel", func(requestID string) proto.Message {
		return &orderv1.CancelOrderRequest{
			RequestId: requestID, Actor: fulfilmentName, OrderId: s.Order.ID,
			Reason: orderv1.CancelReason_CANCEL_REASON_PAYMENT_DECLINED,
		}
	})
}

func (s *fulfilment) plan(warehouse string) process.Command {
	return s.step("plan/"+warehouse, func(requestID string) proto.Message {
		request := &shipmentv1.PlanShipmentRequest{
			RequestId: requestID, Actor: fulfilmentName, ShipmentId: s.shipmentID(warehouse),
			OrderId: s.Order.ID, CustomerId: s.Order.CustomerID,
			Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, Warehouse: warehouse,
		}
		for _, line := range s.linesOf(warehouse) {
			request.Lines = append(request.Lines, &shipmentv1.ShipmentLine{
				LineId: line.LineID, Sku: line.SKU, Quantity: line.Quantity,
			})
		}
		if s.Order.PromisedAt != nil {
			request.PromisedAt = timestamppb.New(*s.Order.PromisedAt)
		}
		return request
	})
}

func (s *fulfilment) capture(shipment, payment string, amount int64) process.Command {
	return s.step("capture/"+shipment+"/"+payment, func(requestID string) proto.Message {
		return &paymentv1.CapturePaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment, ShipmentId: shipment,
			Amount: &commercev1.Money{Amount: amount, Currency: s.Payments[payment].Currency},
		}
	})
}

func (s *fulfilment) void(payment string) process.Command {
	return s.step("void/"+payment, func(requestID string) proto.Message {
		return &paymentv1.VoidPaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment, Reason: "order cancelled or amended",
		}
	})
}

func (s *fulfilment) refund(payment string, amount int64, p paymentPart) process.Command {
	return s.step(fmt.Sprintf("refund/%s/%d", payment, p.Captured), func(requestID string) proto.Message {
		return &paymentv1.RefundPaymentRequest{
			RequestId: requestID, Actor: fulfilmentName, PaymentId: payment,
			Amount: &commercev1.Money{Amount: amount, Currency: p.Currency}, Reason: "order cancelled",
		}
	})
}

func money(m facts.Money) *commercev1.Money {
	return &commercev1.Money{Amount: m.Amount, Currency: m.Currency}
}

// ProcessConfig says where the process finds the services it commands.
type ProcessConfig struct {
	Enabled      bool   `help:"Let the fulfilment process move MANAGED orders on." default:"true" negatable:""`
	PaymentAddr  string `help:"gRPC address of the payment service." default:"127.0.0.1:7102"`
	ShipmentAddr string `help:"gRPC address of the shipment service." default:"127.0.0.1:7103"`
}

// dispatchKnown reports whether the process knows of a shipment of the order
// that left the house.
func dispatchKnown(ctx context.Context, pool *pgxpool.Pool, orderID string) (bool, error) {
	var known bool
	err := pool.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM process_instance, jsonb_each(state->'shipments') AS s
			WHERE process = $1 AND id = $2 AND s.value->>'State' = ANY ($3))`,
		fulfilmentName, orderID, []string{gone, delivered}).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look for dispatched shipments: %w", err)
	}
	return known, nil
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
	}, log, fulfilmentProcess())
	if err != nil {
		return err
	}
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
