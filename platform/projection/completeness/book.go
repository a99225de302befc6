// Package completeness decides whether a copy has all that its source has sent:
// it counts facts as the source does, and compares at the source's control
// records. Equal totals prove that nothing is lost and nothing is foreign.
package completeness

import (
	"maps"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Totals are what was counted of a set of facts: how many, and the sum of their
// identities. A source and its copies count the same set, each identity once,
// so equal totals mean that nothing is lost and nothing is foreign.
type Totals struct {
	Count int64     `json:"n"`
	Sum   event.Sum `json:"s"`
}

// With returns the totals with one more fact.
func (t Totals) With(e event.Envelope) Totals {
	return Totals{t.Count + 1, t.Sum.Add(e)}
}

// State says what comparing totals with the source has shown.
type State string

// The states.
const (
	Unproven State = "UNPROVEN"
	Proven   State = "PROVEN"
	Violated State = "VIOLATED"
)

// Task is what must be done before a partition of a source is proven (again).
// When one does not help, the next comparison asks for the one below it.
type Task string

// The tasks.
const (
	// TaskInterval feeds what the owner has between two sequences.
	TaskInterval Task = "interval"
	// TaskHeads compares every aggregate with its newest event at the owner.
	TaskHeads Task = "heads"
	// TaskRecount does that, and then counts anew, from the owner's journal, what
	// is in the copy.
	TaskRecount Task = "recount"
)

// Books are those of one partition, by source. They are stored in the position
// row, so they are always those of the position.
type Books struct {
	// Revision is the position's when the books were written. Whoever moves the
	// position without counting leaves it behind.
	Revision int64            `json:"r"`
	Sources  map[string]*Book `json:"s"`
}

// Book is what one partition of a source was counted to, and what comparing
// showed.
//
//	UNPROVEN ──totals agree, nothing left to do──▶ PROVEN until as_of of the record
//	    ▲                                            │ ▲
//	    │ new epoch, other log                 fewer │ │ healed, totals agree
//	    └──────────────── any state                  ▼ │
//	                                               VIOLATED
type Book struct {
	// Epoch is the newest that was opened. Facts of older ones that come after
	// its opening are superseded.
	Epoch  string            `json:"e"`
	Totals map[string]Totals `json:"t"` // by epoch; none below Epoch

	State  State     `json:"c"`
	Reason string    `json:"y,omitempty"` // why it is not proven
	Until  time.Time `json:"u"`           // as_of of the last record that agreed
	Since  time.Time `json:"w"`           // when State began

	// Low and High are the least and the highest sequence that was marked since
	// totals agreed, 0 if none. Hole says that a control record of these is
	// missing, and that they are not all.
	Low   int64 `json:"l,omitempty"`
	High  int64 `json:"h,omitempty"`
	Hole  bool  `json:"o,omitempty"`
	Task  Task  `json:"k,omitempty"` // what to do
	Tried Task  `json:"d,omitempty"` // what was done since totals agreed
	Doubt bool  `json:"x,omitempty"` // even if totals agree, the task must be done first

	Blocked []string `json:"b,omitempty"` // aggregates that the source cannot send
	Names   int64    `json:"a,omitempty"` // how many these are; more than Blocked has if too many
}

// Of returns the book of a source, opening it if needed.
func (b *Books) Of(source string) *Book {
	if b.Sources == nil {
		b.Sources = map[string]*Book{}
	}
	if b.Sources[source] == nil {
		b.Sources[source] = &Book{State: Unproven, Reason: "not compared yet"}
	}
	return b.Sources[source]
}

// Clone copies the books, for a pass that may come to nothing.
func (b *Books) Clone() Books {
	c := Books{Revision: b.Revision, Sources: map[string]*Book{}}
	for source, of := range b.Sources {
		copied := *of
		copied.Totals = maps.Clone(of.Totals)
		c.Sources[source] = &copied
	}
	return c
}

// Count adds a fact that was not counted before.
func (b *Books) Count(e event.Envelope) {
	of := b.Of(e.Source)
	if e.Epoch < of.Epoch {
		return // nobody compares these any more
	}
	if of.Totals == nil {
		of.Totals = map[string]Totals{}
	}
	of.Totals[e.Epoch] = of.Totals[e.Epoch].With(e)
}

func (b *Book) become(state State, reason string) {
	if b.State != state || b.Since.IsZero() {
		b.Since = time.Now().UTC()
	}
	b.State, b.Reason = state, reason
}

// Require asks for a task before the book is proven again. A graver task that is
// to be done already includes the lesser one.
func (b *Book) Require(t Task, reason string) {
	b.become(Unproven, reason)
	b.Doubt = true
	if graver(t, b.Task) {
		b.Task = t
	}
}

func graver(a, b Task) bool {
	rank := map[Task]int{TaskInterval: 1, TaskHeads: 2, TaskRecount: 3}
	return rank[a] > rank[b]
}

// Open begins a new epoch at its opening record. It reports whether there was
// another one before, which makes everything of the source doubtful.
func (b *Book) Open(epoch string, first bool) (went bool) {
	went = b.Epoch != "" || !first
	b.Epoch = epoch
	for e := range b.Totals {
		if e < epoch {
			delete(b.Totals, e)
		}
	}
	b.Low, b.High, b.Hole, b.Tried = 0, 0, false, ""
	if went {
		b.Require(TaskHeads, "the source began epoch "+epoch+"; its newest events are being compared")
	}
	return went
}

// Settlement is what one comparison showed.
type Settlement int

// The settlements.
const (
	Agrees Settlement = iota
	Fewer             // facts of the source are not in the copy
	More              // the copy has what the source has not marked yet
	Other             // as many, but not the same
)

// String names it in logs and metrics.
func (s Settlement) String() string {
	return [...]string{"agrees", "fewer", "more", "other"}[s]
}

func (t Totals) compare(theirs Totals) Settlement {
	switch {
	case t == theirs:
		return Agrees
	case t.Count < theirs.Count:
		return Fewer
	case t.Count > theirs.Count:
		return More
	}
	return Other
}

// Check compares, at the place of a control record, what was counted with what
// the source has marked sent. hole says that a control record before it is
// missing. overdue says that a surplus has had its time.
func (b *Book) Check(r Mark, hole, overdue bool) Settlement {
	b.widen(r.Low, r.High)
	b.Hole = b.Hole || hole
	result := b.Totals[r.Epoch].compare(r.Totals)
	switch {
	case result == Agrees:
		b.Low, b.High, b.Hole, b.Tried = 0, 0, false, ""
		if !b.Doubt {
			b.Task, b.Until = "", r.AsOf
			b.become(Proven, "")
		}
	case b.Doubt:
		// Nothing is claimed, so nothing is broken, until the task is done.
	case result == More && !overdue:
		// Sent but not marked, or fetched from the owner ahead of the reader.
		// What was proven stays so, and nothing new is.
	default:
		b.fault(result, r)
	}
	return result
}

func (b *Book) widen(low, high int64) {
	if low > 0 && (b.Low == 0 || low < b.Low) {
		b.Low = low
	}
	b.High = max(b.High, high)
}

// fault is a proven one. What is tried goes from the near to the far.
func (b *Book) fault(result Settlement, r Mark) {
	b.become(Violated, map[Settlement]string{
		Fewer: "facts that the source sent are missing here",
		More:  "facts are here that the source has never marked sent",
		Other: "the facts here are not those that the source sent",
	}[result])
	if b.Task != "" {
		return
	}
	switch {
	case b.Tried == "" && b.High > 0 && !b.Hole:
		b.Task = TaskInterval
	case b.Tried == "" || b.Tried == TaskInterval:
		b.Task = TaskHeads
	default:
		b.Task = TaskRecount
	}
}

// Finished notes that a task was done, unless there is more of it by now.
func (b *Book) Finished(did Task, low, high int64) {
	if b.Task != did || did == TaskInterval && (b.Low != low || b.High != high) {
		return
	}
	b.Task, b.Tried, b.Doubt = "", did, false
}
