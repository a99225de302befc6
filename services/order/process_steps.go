package order

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/process"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
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
