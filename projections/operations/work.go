package operations

import (
	"fmt"
	"time"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
)

// WorkRow is a row of the table work_items. It says when it shows and when it
// is late; whether it does and is, the clock of a query decides. So what
// becomes late by time alone needs no new fact.
type WorkRow struct {
	OrderID    string    `db:"order_id,key"`
	Kind       int64     `db:"kind,key"`
	SubjectID  string    `db:"subject_id,key"`
	CustomerID string    `db:"customer_id"`
	Reason     string    `db:"reason"`
	Channel    string    `db:"channel"`
	Warehouse  string    `db:"warehouse"`
	Since      time.Time `db:"since"`
	ShowsAt    time.Time `db:"shows_at"`
	Deadline   time.Time `db:"deadline"`
	Severity   int64     `db:"severity"`
	Late       int64     `db:"late_severity"`
	Amount     *int64    `db:"amount"`
	Currency   *string   `db:"currency"`
}

const (
	kindStuck    = int64(operationsv1.WorkKind_WORK_KIND_STUCK)
	kindPromise  = int64(operationsv1.WorkKind_WORK_KIND_PROMISE_AT_RISK)
	kindDeclined = int64(operationsv1.WorkKind_WORK_KIND_PAYMENT_DECLINED)
	kindHeld     = int64(operationsv1.WorkKind_WORK_KIND_HELD)
	kindDelayed  = int64(operationsv1.WorkKind_WORK_KIND_SHIPMENT_DELAYED)
	kindLost     = int64(operationsv1.WorkKind_WORK_KIND_SHIPMENT_LOST)
	kindKept     = int64(operationsv1.WorkKind_WORK_KIND_CAPTURED_BUT_CANCELLED)
	kindPerson   = int64(operationsv1.WorkKind_WORK_KIND_NEEDS_PERSON)
)

// needs says in words why fulfilment needs a person; a reason that came later
// than this program is shown as it is.
var needs = map[string]string{
	"STEP_REFUSED":         "A service refused a step of fulfilment",
	"HELD_TOO_LONG":        "The order is held for too long",
	"NOT_DISPATCHED":       "A parcel was not dispatched in time",
	"NOT_DELIVERED":        "A parcel did not arrive in time",
	"RECALL":               "A parcel of the cancelled order is on its way",
	"NOT_PLANNED":          "A parcel could not be planned",
	"GOODS_MISSING":        "Goods of the order are not on their way",
	"ARRIVED_AFTER_REFUND": "A parcel arrived after it was refunded",
	"MONEY_SHORT":          "Less money was collected than is owed",
	"PAYMENT_LOST":         "A payment cannot be obtained any more",
	"FACTS_IN_DOUBT":       "Facts about the order are in doubt",
}

func (l lister) personItem() {
	o := l.s.Order
	if o == nil || o.NeedsAt == nil {
		return
	}
	reason := needs[o.Needs]
	if reason == "" {
		reason = "Fulfilment needs a person: " + o.Needs
	}
	if o.NeedsStep != "" {
		reason += " (" + o.NeedsStep + ")"
	}
	l.add(kindPerson, personRule, *o.NeedsAt, WorkRow{Reason: reason})
}

// lister makes the work items of one order.
type lister struct {
	s     *State
	order string
	st    standing
	put   func(WorkRow)
}

func workItems(id string, s *State, put func(WorkRow)) {
	l := lister{s, id, s.standing(), put}
	l.personItem()
	l.orderItems()
	l.promiseItem()
	l.paymentItems()
	l.shipmentItems()
}

// add completes a row by its rule. since is when its cause arose.
func (l lister) add(kind int64, r rule, since time.Time, row WorkRow) {
	row.OrderID, row.Kind, row.CustomerID, row.Channel = l.order, kind, l.s.customer(), l.s.channel()
	if row.SubjectID == "" {
		row.SubjectID = l.order
		if names := l.s.warehouses(); len(names) == 1 {
			row.Warehouse = names[0]
		}
	}
	row.ShowsAt = since.Add(r.after)
	row.Since = row.ShowsAt
	row.Deadline = row.ShowsAt.Add(r.act)
	row.Severity, row.Late = r.severity, r.late
	l.put(row)
}

func (l lister) orderItems() {
	o := l.s.Order
	if o == nil {
		return
	}
	if o.HeldAt != nil && l.st.open() {
		reason := "The order is held"
		if o.HoldReason != "" {
			reason += ": " + o.HoldReason
		}
		l.add(kindHeld, heldRule, *o.HeldAt, WorkRow{Reason: reason})
		return // a held order is not also stuck
	}
	allowed := allowances[l.st.status].managed
	if o.External {
		allowed = allowances[l.st.status].external
	}
	if allowed > 0 && l.st.since != nil {
		r := stuckRule
		r.after = allowed
		l.add(kindStuck, r, *l.st.since, WorkRow{
			Reason: fmt.Sprintf("The order is %s for longer than %s", l.st.status, words(allowed)),
		})
	}
}

func words(d time.Duration) string {
	if d%day == 0 && d > day {
		return fmt.Sprintf("%d days", d/day)
	}
	return fmt.Sprintf("%d h", d/hour)
}

// promiseItem shows a day before the promised date and is late behind it.
func (l lister) promiseItem() {
	if l.s.Order == nil || !l.st.open() {
		return
	}
	promised := l.s.Order.PromisedAt
	pending := 0
	for _, p := range l.s.Shipments {
		if p.pending() {
			pending++
			if l.s.Order.PromisedAt == nil {
				promised = pick(promised, p.PromisedAt, time.Time.Before)
			}
		}
	}
	if promised == nil {
		return
	}
	reason := "Promised for " + promised.UTC().Format("2 January 2006") + ", and nothing is planned"
	if len(l.s.Shipments) > 0 {
		reason = fmt.Sprintf("Promised for %s, parcels not delivered: %d of %d", promised.UTC().Format("2 January 2006"), pending, len(l.s.Shipments))
	}
	l.add(kindPromise, promiseRule, *promised, WorkRow{Reason: reason})
}

func (l lister) paymentItems() {
	cancelled := l.s.Order != nil && l.s.Order.Step == statusCancelled
	for id, p := range l.s.Payments {
		currency := p.Currency
		if kept := p.Captured - p.Refunded; cancelled && kept > 0 {
			since := l.s.Order.CancelledAt
			l.add(kindKept, keptRule, *pick(since, p.CapturedAt, time.Time.After), WorkRow{
				SubjectID: id, Reason: "Money was collected for a cancelled order and not given back", Amount: &kept, Currency: &currency,
			})
		}
		if p.Step == "declined" && p.DeclinedAt != nil && l.st.open() && !l.covered() {
			reason := "A payment was declined"
			if p.Reason != "" {
				reason += ": " + p.Reason
			}
			if p.Retryable {
				reason += "; it may be tried again"
			}
			asked := p.Requested
			l.add(kindDeclined, declinedRule, *p.DeclinedAt, WorkRow{SubjectID: id, Reason: reason, Amount: &asked, Currency: &currency})
		}
	}
}

// covered reports whether other payments cover the order's total, so that a
// declined one needs nobody.
func (l lister) covered() bool {
	if l.s.Order == nil {
		return false
	}
	var sum int64
	for _, p := range l.s.Payments {
		if p.Currency == l.s.Order.Total.Currency {
			sum += max(p.Authorized, p.Captured)
		}
	}
	return sum >= l.s.Order.Total.Amount
}

func (l lister) shipmentItems() {
	if l.s.Order != nil && l.s.Order.Step == statusCancelled {
		return
	}
	for id, p := range l.s.Shipments {
		row := WorkRow{SubjectID: id, Warehouse: p.Warehouse}
		switch {
		case p.Step == "lost" && p.LostAt != nil:
			row.Reason = "A parcel is lost"
			l.add(kindLost, lostRule, *p.LostAt, row)
		case p.pending() && p.StalledAt != nil:
			row.Reason = "A parcel is delayed, and nobody knows until when"
			l.add(kindDelayed, delayedRule, *p.StalledAt, row)
		case !p.pending() || p.ExpectedAt == nil:
		case p.DelayedAt != nil && p.ExpectedAt.Sub(*p.FirstAt) > delayLimit:
			row.Reason = fmt.Sprintf("A parcel expected on %s is announced for %s",
				p.FirstAt.UTC().Format("2 January 2006"), p.ExpectedAt.UTC().Format("2 January 2006"))
			l.add(kindDelayed, delayedRule, *p.DelayedAt, row)
		default:
			row.Reason = "A parcel expected on " + p.ExpectedAt.UTC().Format("2 January 2006") + " has not arrived 48 hours later"
			r := delayedRule
			r.after = delayLimit
			l.add(kindDelayed, r, *p.ExpectedAt, row)
		}
	}
}
