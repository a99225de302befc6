package main

import (
	"strconv"
	"strings"

	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

type orderCmd struct {
	Place    orderPlaceCmd    `cmd:"" help:"Place an order. Without flags: a demo order."`
	Get      orderGetCmd      `cmd:"" help:"Show an order as its owner sees it now."`
	List     orderListCmd     `cmd:"" help:"List orders, newest first."`
	Explain  orderExplainCmd  `cmd:"" help:"Why is it where it is, and what happens next?"`
	Amend    orderAmendCmd    `cmd:"" help:"Change lines, fee, address or promise before dispatch."`
	Hold     orderHoldCmd     `cmd:"" help:"Stop an order until it is released."`
	Release  orderReleaseCmd  `cmd:"" help:"Lift a hold."`
	Cancel   orderCancelCmd   `cmd:"" help:"End an order; what was done is undone."`
	Confirm  orderConfirmCmd  `cmd:"" help:"Accept a placed order."`
	Complete orderCompleteCmd `cmd:"" help:"End an order of which everything is delivered and paid."`
}

// basketFlags describe what is bought and where it goes.
type basketFlags struct {
	Line       []string `help:"SKU:QUANTITY:PRICE[:WAREHOUSE], repeatable, as in mug:2:12.50:berlin." placeholder:"LINE" sep:"none"`
	Fee        string   `help:"Fee for shipping, as in 4.90." placeholder:"AMOUNT"`
	Currency   string   `help:"ISO 4217 code of all amounts." default:"EUR"`
	Pay        []string `help:"METHOD:AMOUNT[:REFERENCE], repeatable, as in voucher:10.00. Methods: card, debit-card, voucher, bank-slip, bank-transfer." placeholder:"PAYMENT" sep:"none"`
	Promise    moment   `help:"Date promised to the customer." placeholder:"TIME"`
	Recipient  string   `help:"Name on the parcel." group:"Address"`
	Street     string   `help:"Street and number." group:"Address"`
	PostalCode string   `help:"Postal code." group:"Address"`
	City       string   `help:"Town." group:"Address"`
	Country    string   `help:"Two capital letters." group:"Address"`
}

func (f *basketFlags) lines() ([]*orderv1.OrderLine, error) {
	var lines []*orderv1.OrderLine
	for i, text := range f.Line {
		parts := strings.SplitN(text, ":", 4)
		if len(parts) < 3 {
			return nil, usage("--line %q: want SKU:QUANTITY:PRICE[:WAREHOUSE], as in mug:2:12.50:berlin", text)
		}
		quantity, err := parseQuantity(parts[1])
		if err != nil {
			return nil, err
		}
		price, err := parseMoney(parts[2], f.Currency)
		if err != nil {
			return nil, err
		}
		line := &orderv1.OrderLine{LineId: strconv.Itoa(i + 1), Sku: parts[0], Quantity: quantity, UnitPrice: price, Warehouse: "main"}
		if len(parts) == 4 {
			line.Warehouse = parts[3]
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func (f *basketFlags) plan() ([]*orderv1.PlannedPayment, error) {
	var plan []*orderv1.PlannedPayment
	for _, text := range f.Pay {
		parts := strings.SplitN(text, ":", 3)
		if len(parts) < 2 {
			return nil, usage("--pay %q: want METHOD:AMOUNT[:REFERENCE], as in card:25.00", text)
		}
		method, err := paymentMethod(parts[0])
		if err != nil {
			return nil, err
		}
		amount, err := parseMoney(parts[1], f.Currency)
		if err != nil {
			return nil, err
		}
		payment := &orderv1.PlannedPayment{Method: method, Amount: amount}
		if len(parts) == 3 {
			payment.Reference = parts[2]
		}
		plan = append(plan, payment)
	}
	return plan, nil
}

func (f *basketFlags) address() *commercev1.Address {
	if f.Recipient+f.Street+f.PostalCode+f.City+f.Country == "" {
		return nil
	}
	return &commercev1.Address{
		Recipient: f.Recipient, Line1: f.Street, PostalCode: f.PostalCode, City: f.City, Country: f.Country,
	}
}

type orderPlaceCmd struct {
	basketFlags
	writeFlags
	ID         string `help:"Id of the order. Default: made by the service." placeholder:"ORDER"`
	Customer   string `help:"Id of the customer." default:"customer-1"`
	Channel    string `help:"Where it was sold." default:"web"`
	Fulfilment string `help:"managed: Tidemark moves the order on; external: another system does." enum:"managed,external" default:"managed"`
	Name       string `help:"Name of the customer." group:"Contact"`
	Email      string `help:"E-mail address." group:"Contact"`
	Phone      string `help:"Telephone number." group:"Contact"`
}

func (c *orderPlaceCmd) Run(a *app) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	return write(a, &c.writeFlags, a.Orders.PlaceOrder, request, showOrder)
}

func (c *orderPlaceCmd) request() (*orderv1.PlaceOrderRequest, error) {
	if len(c.Line) == 0 && c.Fulfilment == "managed" {
		c.Line = []string{"mug:2:12.50:berlin", "poster:1:8.00:lisbon"}
		if c.Fee == "" && len(c.Pay) == 0 {
			c.Fee = "4.90"
		}
	}
	if c.Fee == "" {
		c.Fee = "0"
	}
	fee, err := parseMoney(c.Fee, c.Currency)
	if err != nil {
		return nil, err
	}
	lines, err := c.lines()
	if err != nil {
		return nil, err
	}
	plan, err := c.plan()
	if err != nil {
		return nil, err
	}
	total := fee.GetAmount()
	for _, l := range lines {
		total += int64(l.GetQuantity()) * l.GetUnitPrice().GetAmount()
	}
	if len(plan) == 0 && total > 0 {
		plan = []*orderv1.PlannedPayment{{
			Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD,
			Amount: &commercev1.Money{Amount: total, Currency: c.Currency},
		}}
	}
	request := &orderv1.PlaceOrderRequest{
		RequestId: c.id(), Actor: c.Actor, OccurredAt: c.At.proto(), TimeEstimated: c.Estimated,
		OrderId: c.ID, CustomerId: c.Customer, Channel: c.Channel, Lines: lines, ShippingFee: fee,
		Address: c.address(), PromisedAt: c.Promise.proto(), PaymentPlan: plan,
		Fulfilment: fulfilment(c.Fulfilment),
	}
	if c.Name+c.Email+c.Phone != "" {
		request.Contact = &commercev1.Contact{Name: c.Name, Email: c.Email, Phone: c.Phone}
	}
	return request, nil
}

func fulfilment(word string) commercev1.Fulfilment {
	return commercev1.Fulfilment(commercev1.Fulfilment_value["FULFILMENT_"+strings.ToUpper(word)])
}
