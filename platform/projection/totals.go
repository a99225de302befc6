package projection

import (
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// totals are what was counted of a set of facts: how many, and the sum of their
// identities. A source and its copies count the same set, each identity once,
// so equal totals mean that nothing is lost and nothing is foreign.
type totals struct {
	Count int64     `json:"n"`
	Sum   event.Sum `json:"s"`
}

func (t totals) with(e event.Envelope) totals {
	return totals{t.Count + 1, t.Sum.Add(e)}
}

// completeness says what comparing totals with the source has shown.
type completeness string

const (
	unproven completeness = "UNPROVEN"
	proven   completeness = "PROVEN"
	violated completeness = "VIOLATED"
)

// task is what must be done before a partition of a source is proven (again).
// When one does not help, the next comparison asks for the one below it.
type task string

const (
	// taskInterval feeds what the owner has between two sequences.
	taskInterval task = "interval"
	// taskHeads compares every aggregate with its newest event at the owner.
	taskHeads task = "heads"
	// taskRecount does that, and then counts anew, from the owner's journal, what
	// is in the copy.
	taskRecount task = "recount"
)

// books are those of one partition, by source. They are stored in the position
// row, so they are always those of the position.
type books struct {
	// Revision is the position's when the books were written. Whoever moves the
	// position without counting leaves it behind.
	Revision int64            `json:"r"`
	Sources  map[string]*book `json:"s"`
}

// book is what one partition of a source was counted to, and what comparing
// showed.
//
//	UNPROVEN ──totals agree, nothing left to do──▶ PROVEN until as_of of the record
//	    ▲                                            │ ▲
//	    │ new epoch, other log                 fewer │ │ healed, totals agree
//	    └──────────────── any state                  ▼ │
//	                                               VIOLATED
type book struct {
	// Epoch is the newest that was opened. Facts of older ones that come after
	// its opening are superseded.
	Epoch  string            `json:"e"`
	Totals map[string]totals `json:"t"` // by epoch; none below Epoch

	State  completeness `json:"c"`
	Reason string       `json:"y,omitempty"` // why it is not proven
	Until  time.Time    `json:"u"`           // as_of of the last record that agreed
	Since  time.Time    `json:"w"`           // when State began

	// Low and High are the least and the highest sequence that was marked since
	// totals agreed, 0 if none. Hole says that a control record of these is
	// missing, and that they are not all.
	Low   int64 `json:"l,omitempty"`
	High  int64 `json:"h,omitempty"`
	Hole  bool  `json:"o,omitempty"`
	Task  task  `json:"k,omitempty"` // what to do
	Tried task  `json:"d,omitempty"` // what was done since totals agreed
	Doubt bool  `json:"x,omitempty"` // even if totals agree, the task must be done first

	Blocked []string `json:"b,omitempty"` // aggregates that the source cannot send
	Names   int64    `json:"a,omitempty"` // how many these are; more than Blocked has if too many
}

func (b *books) of(source string) *book {
	if b.Sources == nil {
		b.Sources = map[string]*book{}
	}
	if b.Sources[source] == nil {
		b.Sources[source] = &book{State: unproven, Reason: "not compared yet"}
	}
	return b.Sources[source]
}

// count adds a fact that was not counted before.
func (b *books) count(e event.Envelope) {
	of := b.of(e.Source)
	if e.Epoch < of.Epoch {
		return // nobody compares these any more
	}
	if of.Totals == nil {
		of.Totals = map[string]totals{}
	}
	of.Totals[e.Epoch] = of.Totals[e.Epoch].with(e)
}

func (b *book) become(state completeness, reason string) {
	if b.State != state || b.Since.IsZero() {
		b.Since = time.Now().UTC()
	}
	b.State, b.Reason = state, reason
}

// doubt asks for a task before the book is proven again. A graver task that is
// to be done already includes the lesser one.
func (b *book) doubt(t task, reason string) {
	b.become(unproven, reason)
	b.Doubt = true
	if graver(t, b.Task) {
		b.Task = t
	}
}

func graver(a, b task) bool {
	rank := map[task]int{taskInterval: 1, taskHeads: 2, taskRecount: 3}
	return rank[a] > rank[b]
}

// open begins a new epoch at its opening record. It reports whether there was
// another one before, which makes everything of the source doubtful.
func (b *book) open(epoch string, first bool) (went bool) {
	went = b.Epoch != "" || !first
	b.Epoch = epoch
	for e := range b.Totals {
		if e < epoch {
			delete(b.Totals, e)
		}
	}
	b.Low, b.High, b.Hole, b.Tried = 0, 0, false, ""
	if went {
		b.doubt(taskHeads, "the source began epoch "+epoch+"; its newest events are being compared")
	}
	return went
}

// settlement is what one comparison showed.
type settlement int

const (
	agrees settlement = iota
	fewer             // facts of the source are not in the copy
	more              // the copy has what the source has not marked yet
	other             // as many, but not the same
)

func (s settlement) String() string {
	return [...]string{"agrees", "fewer", "more", "other"}[s]
}

func (t totals) compare(theirs totals) settlement {
	switch {
	case t == theirs:
		return agrees
	case t.Count < theirs.Count:
		return fewer
	case t.Count > theirs.Count:
		return more
	}
	return other
}

// check compares, at the place of a control record, what was counted with what
// the source has marked sent. hole says that a control record before it is
// missing. overdue says that a surplus has had its time.
func (b *book) check(r mark, hole, overdue bool) settlement {
	b.widen(r.low, r.high)
	b.Hole = b.Hole || hole
	result := b.Totals[r.epoch].compare(r.totals)
	switch {
	case result == agrees:
		b.Low, b.High, b.Hole, b.Tried = 0, 0, false, ""
		if !b.Doubt {
			b.Task, b.Until = "", r.asOf
			b.become(proven, "")
		}
	case b.Doubt:
		// Nothing is claimed, so nothing is broken, until the task is done.
	case result == more && !overdue:
		// Sent but not marked, or fetched from the owner ahead of the reader.
		// What was proven stays so, and nothing new is.
	default:
		b.fault(result, r)
	}
	return result
}

func (b *book) widen(low, high int64) {
	if low > 0 && (b.Low == 0 || low < b.Low) {
		b.Low = low
	}
	b.High = max(b.High, high)
}

// fault is a proven one. What is tried goes from the near to the far.
func (b *book) fault(result settlement, r mark) {
	b.become(violated, map[settlement]string{
		fewer: "facts that the source sent are missing here",
		more:  "facts are here that the source has never marked sent",
		other: "the facts here are not those that the source sent",
	}[result])
	if b.Task != "" {
		return
	}
	switch {
	case b.Tried == "" && b.High > 0 && !b.Hole:
		b.Task = taskInterval
	case b.Tried == "" || b.Tried == taskInterval:
		b.Task = taskHeads
	default:
		b.Task = taskRecount
	}
}

// finished notes that a task was done, unless there is more of it by now.
func (b *book) finished(did task, low, high int64) {
	if b.Task != did || did == taskInterval && (b.Low != low || b.High != high) {
		return
	}
	b.Task, b.Tried, b.Doubt = "", did, false
}
