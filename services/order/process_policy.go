package order

import (
	"time"

	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// policy is what the business decided about fulfilment. Nothing else in the
// process is a number. A version of the process is a row of policies: an order
// keeps the row that it was started with.
type policy struct {
	// answerWithin is how long a payment may wait for its provider, by method;
	// then the order is cancelled. Methods not named wait answerElse.
	answerWithin map[facts.PaymentMethod]time.Duration
	answerElse   time.Duration
	// authorizeRounds is how often one planned payment is asked for in all:
	// again after an authorisation lapsed, or a refusal that may be tried again.
	authorizeRounds int
	// reauthorizeBefore is how long before an authorisation lapses it is given
	// back and asked for anew.
	reauthorizeBefore time.Duration
	// heldFor, dispatchWithin and deliverWithin are how long an order may be
	// held, and a parcel planned or on its way, before a person looks at it.
	heldFor, dispatchWithin, deliverWithin time.Duration
	// reships is how often lost or undeliverable goods are sent again, per
	// warehouse; further losses are refunded. Goods that a customer sent back
	// are always refunded.
	reships int
	// refundLosses: without it, what is lost or comes back is left to people.
	refundLosses bool
	// reshipTakes is how much later the promise is then.
	reshipTakes time.Duration
	// promiseMoves is the least delay, by holds and by sending again, that moves
	// the promise. What a carrier is late never does: it must be seen as late.
	promiseMoves time.Duration
	// guardAmendments: an order is confirmed only as the process knows it.
	guardAmendments bool
}

const (
	hour = time.Hour
	day  = 24 * hour
)

// policies by version of the process. A row that orders were started with never
// changes; what the business changes its mind about is a new row.
var policies = map[int]policy{
	1: {authorizeRounds: 1},
	2: {
		answerWithin: map[facts.PaymentMethod]time.Duration{
			facts.PaymentMethodBankSlip:     7 * day,
			facts.PaymentMethodBankTransfer: 7 * day,
		},
		answerElse:        15 * time.Minute,
		authorizeRounds:   3,
		reauthorizeBefore: hour,
		heldFor:           3 * day,
		dispatchWithin:    5 * day,
		deliverWithin:     21 * day,
		reships:           1,
		refundLosses:      true,
		reshipTakes:       3 * day,
		promiseMoves:      hour,
		guardAmendments:   true,
	},
}

// answer returns how long a payment may wait for its provider; 0: for ever.
func (p policy) answer(method facts.PaymentMethod) time.Duration {
	if d, ok := p.answerWithin[method]; ok {
		return d
	}
	return p.answerElse
}
