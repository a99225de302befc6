package order

import (
	"fmt"
	"math"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

const maxTotal = int64(1_000_000_000_000) // far from the ends of int64

// sum checks the lines and the fee and adds them up.
func sum(lines []Line, fee Money) (Money, error) {
	if fee.Amount < 0 {
		return Money{}, fault.Invalid("shipping_fee.amount", "must not be negative")
	}
	total := Money{Amount: fee.Amount, Currency: fee.Currency}
	seen := make(map[string]bool, len(lines))
	for i, l := range lines {
		field := func(name string) string { return fmt.Sprintf("lines[%d].%s", i, name) }
		switch {
		case seen[l.ID]:
			return Money{}, fault.Invalid(field("line_id"), "%q appears twice", l.ID)
		case l.Quantity < 1 || l.Quantity > 10_000:
			return Money{}, fault.Invalid(field("quantity"), "must be between 1 and 10000")
		case l.UnitPrice.Amount < 0:
			return Money{}, fault.Invalid(field("unit_price.amount"), "must not be negative")
		case l.UnitPrice.Currency != fee.Currency:
			return Money{}, fault.Invalid(field("unit_price.currency"), "must be %s as the shipping fee is", fee.Currency)
		case l.UnitPrice.Amount > (math.MaxInt64-total.Amount)/int64(l.Quantity):
			return Money{}, fault.Invalid(field("unit_price.amount"), "the total is above what an order may cost")
		}
		seen[l.ID] = true
		total.Amount += l.UnitPrice.Amount * int64(l.Quantity)
	}
	if total.Amount > maxTotal {
		return Money{}, fault.Invalid("lines", "the total of %d is above %d minor units", total.Amount, maxTotal)
	}
	return total, nil
}

// checkPlan wants a plan of one currency; for a MANAGED order it pays the total.
func checkPlan(f Fulfilment, plan []PlannedPayment, total Money) error {
	var planned int64
	for i, p := range plan {
		switch {
		case p.Amount.Currency != total.Currency:
			return fault.Invalid(fmt.Sprintf("payment_plan[%d].amount.currency", i), "must be %s as the order is", total.Currency)
		case p.Amount.Amount < 0 || p.Amount.Amount == 0 && f == Managed:
			return fault.Invalid(fmt.Sprintf("payment_plan[%d].amount.amount", i), "must be positive")
		case p.Amount.Amount > maxTotal:
			return fault.Invalid(fmt.Sprintf("payment_plan[%d].amount.amount", i), "is above %d minor units", maxTotal)
		}
		planned += p.Amount.Amount
	}
	if f == Managed && planned != total.Amount {
		return fault.Invalid("payment_plan", "adds up to %d, the order to %d minor units", planned, total.Amount)
	}
	return nil
}
