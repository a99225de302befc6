package fold

import (
	"fmt"
	"maps"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Input is one fact on its way into an order, with where it was read.
type Input struct {
	Fact event.Fact
	Ref  Ref
	Err  error // why it cannot be decoded; the envelope was readable
	// Opened is the newest epoch that its source had opened at its place; empty
	// if it comes from a journal, which holds facts of all epochs.
	Opened string
	Given  *Given // takes what was decided; may be nil
}

// Given is what was decided about a fact.
type Given struct {
	Verdict Verdict
	Stood   bool // its aggregate was parked before
}

// Counts reports whether the fact was applied or adopted now.
func (g Given) Counts() bool { return g.Verdict == Apply || g.Verdict == Adopt }

// waits reports whether the fact was set aside.
func (g Given) waits() bool {
	return !g.Counts() && g.Verdict != Duplicate && g.Verdict != Superseded && g.Verdict != ""
}

// MayBeCounted reports whether the fact may be one that was set aside before,
// and was counted then.
func (g Given) MayBeCounted() bool { return g.waits() || g.Stood && g.Counts() }

// Ref says where a fact can be read again: a place in a topic, or its owner's
// journal when Topic is empty.
type Ref struct {
	Topic   string
	TopicID string
	Offset  int64
}

// ParkedFact is a reference to a fact that waits. Facts are never copied:
// a retry reads them again, through the code of that day.
type ParkedFact struct {
	Ref     Ref
	Token   event.Token // zero when the record has no readable identity
	Order   string
	Verdict Verdict
	Reason  string
}

// Reference identifies a parked fact: by what it is, or, if that cannot be
// read, by where it is.
func (p ParkedFact) Reference(partition int32) string {
	if p.Token.EventID == "" {
		return fmt.Sprintf("%s/%d/%d", p.Ref.TopicID, partition, p.Ref.Offset)
	}
	return fmt.Sprintf("%s/%s/%d/%s/%s", p.Token.Aggregate, p.Token.Epoch, p.Token.Version, p.Token.EventID, p.Order)
}

// Quarantine is an aggregate that was parked, or parked for another reason.
type Quarantine struct {
	Aggregate event.Aggregate
	Order     string
	Verdict   Verdict
	Reason    string
}

// Outcome is what a run of facts did to one order. It changes nothing until
// it is merged into a delta.
type Outcome struct {
	Before      []map[string]Row // per table, as before the first applied fact
	After       []map[string]Row
	Logs        [][]Row // per log
	Parked      []ParkedFact
	Quarantined []Quarantine
	Members     []event.Aggregate          // aggregates seen for the first time
	Touched     map[string]event.Aggregate // nil if nobody waits for it
	Counts      map[Verdict]int
	Dirty       bool
	Encoded     Encoded
}

// Engine runs a view's pure functions over orders.
type Engine[S any] struct {
	View View[S]
}

// Run takes facts of one order, in the order they arrived, and returns what
// they did. A fact that cannot be folded, or that makes the state too large,
// parks; the others are as if it had not come.
func (e *Engine[S]) Run(o *Order[S], facts []Input) (*Outcome, error) {
	out, err := e.try(o, facts)
	if err == nil {
		return out, nil
	}
	// Something in there is bad. Go back and find it, one fact at a time.
	if err := o.restore(o.Stored); err != nil {
		return nil, err
	}
	first := e.Derive(o)
	total := &Outcome{Before: first, Counts: map[Verdict]int{}}
	for _, in := range facts {
		mark, err := o.Encode()
		if err != nil {
			return nil, err
		}
		out, bad := e.try(o, []Input{in})
		if bad != nil {
			if err := o.restore(mark); err != nil {
				return nil, err
			}
			in.Err = bad
			if out, err = e.try(o, []Input{in}); err != nil {
				return nil, fmt.Errorf("park a fact of an order: %w", err)
			}
		}
		total.Append(out)
	}
	total.After = e.Derive(o)
	total.Encoded, err = o.Encode()
	return total, err
}

// restore goes back to encoded bytes; no bytes are a new order.
func (o *Order[S]) restore(bytes Encoded) error {
	again, err := OpenOrder[S](o.ID, bytes)
	if err != nil {
		return err
	}
	again.Stored = o.Stored
	*o = *again
	return nil
}

// tooLarge reports a state over MaxState.
type tooLarge struct{ bytes int }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("state of %d bytes is over the limit of %d", e.bytes, MaxState)
}

// Check refuses a state that is over [MaxState].
func (e Encoded) Check() error {
	if size := len(e.State); size > MaxState {
		return &tooLarge{size}
	}
	return nil
}

// try runs facts and derives what follows. A panic of the view, or a state
// that is too large, is an error, and leaves the order half changed.
func (e *Engine[S]) try(o *Order[S], facts []Input) (out *Outcome, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			out, err = nil, fmt.Errorf("view %s panicked: %v", e.View.Name, cause)
		}
	}()
	out = &Outcome{Counts: map[Verdict]int{}, Touched: map[string]event.Aggregate{}}
	for _, in := range facts {
		e.Step(o, in, out)
	}
	if !out.Dirty {
		return out, nil
	}
	if out.Before != nil {
		out.After = e.Derive(o)
	}
	if out.Encoded, err = o.Encode(); err != nil {
		return nil, err
	}
	if err := out.Encoded.Check(); err != nil {
		return nil, err
	}
	return out, nil
}

// Derive returns the rows and sums of an order, per table.
func (e *Engine[S]) Derive(o *Order[S]) []map[string]Row {
	all := make([]map[string]Row, len(e.View.Tables))
	for i, table := range e.View.Tables {
		all[i] = table.derive(o.ID, &o.State)
	}
	return all
}

// Step gives one fact its verdict and acts on it.
func (e *Engine[S]) Step(o *Order[S], in Input, out *Outcome) {
	f := in.Fact
	verdict, stood := Superseded, false
	defer func() {
		if out.Counts[verdict]++; in.Given != nil {
			*in.Given = Given{verdict, stood}
		}
	}()
	if f.Epoch < in.Opened {
		return
	}
	record, fresh := o.of(f.Aggregate)
	if fresh {
		out.Members = append(out.Members, f.Aggregate)
		out.Dirty = true
	}
	stood = record.Parked != ""
	if verdict = record.judge(f.Envelope); verdict == Duplicate || verdict == Superseded {
		return
	}
	// A fact that fills the hole a gap waits for goes on; all else waits.
	waits := record.Parked != "" && !(record.Parked == Gap && (verdict == Apply || verdict == Adopt))
	switch {
	case waits:
		verdict = Behind
	case o.Blocked != "":
		verdict = o.Blocked
	case in.Err != nil && verdict == Apply:
		verdict = causeOf(in.Err)
	}
	switch verdict {
	case Apply:
		if _, void := f.Body.(*control.FactVoided); !void {
			e.fold(o, f, out)
		}
		record.advance(f.Envelope)
	case Adopt:
		record.adopt(f.Envelope)
	default:
		e.park(o, record, in, verdict, out)
	}
	if out.Touched != nil {
		out.Touched[f.Aggregate.String()] = f.Aggregate
	}
	out.Dirty = true
}

// fold applies a fact to the state and takes its log entries. What stands in
// the place of a fact that was given up folds nothing.
func (e *Engine[S]) fold(o *Order[S], f event.Fact, out *Outcome) {
	if out.Before == nil {
		if out.Before = o.rows; out.Before == nil {
			out.Before = e.Derive(o)
		}
	}
	e.View.Fold(&o.State, f)
	for i, log := range e.View.Logs {
		if rows := log.derive(f); len(rows) > 0 {
			if out.Logs == nil {
				out.Logs = make([][]Row, len(e.View.Logs))
			}
			out.Logs[i] = append(out.Logs[i], rows...)
		}
	}
}

func causeOf(err error) Verdict {
	if _, ok := err.(*tooLarge); ok {
		return TooLarge
	}
	return Poison
}

// park sets a fact aside, and its aggregate with it.
func (e *Engine[S]) park(o *Order[S], record *Applied, in Input, verdict Verdict, out *Outcome) {
	reason := ""
	switch {
	case in.Err != nil:
		reason = in.Err.Error()
	case verdict == Gap:
		reason = fmt.Sprintf("version %d came after version %d", in.Fact.Version, record.Version)
	case verdict == Equivocation:
		reason = fmt.Sprintf("version %d came with another event id than was applied", in.Fact.Version)
	case verdict == NewerEpoch:
		reason = fmt.Sprintf("version %d of a newer epoch does not follow version %d", in.Fact.Version, record.Version)
	}
	out.Parked = append(out.Parked, ParkedFact{
		Ref: in.Ref, Token: in.Fact.Token(), Order: o.ID, Verdict: verdict, Reason: reason,
	})
	if verdict == TooLarge {
		o.Blocked = TooLarge
	}
	if verdict == Behind || record.Parked == verdict {
		return
	}
	record.Parked = verdict
	out.Quarantined = append(out.Quarantined, Quarantine{
		Aggregate: in.Fact.Aggregate, Order: o.ID, Verdict: verdict, Reason: reason,
	})
}

// Append adds what a later run did.
func (out *Outcome) Append(later *Outcome) {
	if out.Touched == nil {
		out.Touched = map[string]event.Aggregate{}
	}
	maps.Copy(out.Touched, later.Touched)
	for verdict, n := range later.Counts {
		out.Counts[verdict] += n
	}
	if out.Logs == nil {
		out.Logs = later.Logs
	} else {
		for i := range later.Logs {
			out.Logs[i] = append(out.Logs[i], later.Logs[i]...)
		}
	}
	out.Parked = append(out.Parked, later.Parked...)
	out.Quarantined = append(out.Quarantined, later.Quarantined...)
	out.Members = append(out.Members, later.Members...)
	out.Dirty = out.Dirty || later.Dirty
}
