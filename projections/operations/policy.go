package operations

import "time"

// The view's own policy, all in one place: how long an order may stay in a
// state, when something becomes work, how soon somebody must act, how urgent it
// is. A change here needs a new version of the view. It is written out in
// readmodel.yaml, too, for those who do not read Go.

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

// allowances are how long an order may stay in a status before it counts as
// stuck; zero is for ever.
var allowances = map[string]struct{ managed, external time.Duration }{
	statusPlaced:    {managed: 1 * hour, external: 2 * day},
	statusConfirmed: {managed: 1 * day, external: 7 * day},
	statusShipped:   {managed: 14 * day, external: 30 * day},
	statusDelivered: {managed: 1 * day}, // another system's orders are never completed here
}

// Severities, as in operations.v1.Severity.
const (
	low    = 1
	medium = 2
	high   = 3
)

// rule says how one kind of work is treated. An item shows from its start plus
// after; somebody must have acted within act of that.
type rule struct {
	after, act     time.Duration
	severity, late int64 // before and after the deadline
}

var (
	stuckRule    = rule{act: 4 * hour, severity: low, late: medium} // shows after its allowance
	promiseRule  = rule{after: -1 * day, act: 1 * day, severity: medium, late: high}
	declinedRule = rule{act: 4 * hour, severity: medium, late: high}
	heldRule     = rule{act: 1 * day, severity: medium, late: high}
	delayedRule  = rule{act: 1 * day, severity: medium, late: high}
	lostRule     = rule{act: 8 * hour, severity: high, late: high}
	keptRule     = rule{act: 1 * day, severity: high, late: high}
	personRule   = rule{act: 4 * hour, severity: medium, late: high}
)

// delayLimit is how late a parcel may be before it is work.
const delayLimit = 48 * hour
