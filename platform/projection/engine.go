package projection

import (
	"fmt"
	"maps"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// input is one fact on its way into an order, with where it was read.
type input struct {
	fact event.Fact
	ref  Ref
	err  error // why it cannot be decoded; the envelope was readable
	// opened is the newest epoch that its source had opened at its place; empty
	// if it comes from a journal, which holds facts of all epochs.
	opened string
	given  *given // takes what was decided; may be nil
}

// given is what was decided about a fact.
type given struct {
	verdict Verdict
	stood   bool // its aggregate was parked before
}

// counts reports whether the fact was applied or adopted now.
func (g given) counts() bool { return g.verdict == Apply || g.verdict == Adopt }

// waits reports whether the fact was set aside.
func (g given) waits() bool {
	return !g.counts() && g.verdict != Duplicate && g.verdict != Superseded && g.verdict != ""
}

// mayBeCounted reports whether the fact may be one that was set aside before,
// and was counted then.
func (g given) mayBeCounted() bool { return g.waits() || g.stood && g.counts() }

// Ref says where a fact can be read again: a place in a topic, or its owner's
// journal when Topic is empty.
type Ref struct {
	Topic   string
	TopicID string
	Offset  int64
}

// parkedFact is a reference to a fact that waits. Facts are never copied:
// a retry reads them again, through the code of that day.
type parkedFact struct {
	ref     Ref
	token   event.Token // zero when the record has no readable identity
	order   string
	verdict Verdict
	reason  string
}

// reference identifies a parked fact: by what it is, or, if that cannot be
// read, by where it is.
func (p parkedFact) reference(partition int32) string {
	if p.token.EventID == "" {
		return fmt.Sprintf("%s/%d/%d", p.ref.TopicID, partition, p.ref.Offset)
	}
	return fmt.Sprintf("%s/%s/%d/%s/%s", p.token.Aggregate, p.token.Epoch, p.token.Version, p.token.EventID, p.order)
}

// quarantine is an aggregate that was parked, or parked for another reason.
type quarantine struct {
	aggregate event.Aggregate
	order     string
	verdict   Verdict
	reason    string
}

// outcome is what a run of facts did to one order. It changes nothing until
// it is merged into a delta.
type outcome struct {
	before      []map[string]row // per table, as before the first applied fact
	after       []map[string]row
	logs        [][]row // per log
	parked      []parkedFact
	quarantined []quarantine
	members     []event.Aggregate          // aggregates seen for the first time
	touched     map[string]event.Aggregate // nil if nobody waits for it
	counts      map[Verdict]int
	dirty       bool
	encoded     encoded
}

// engine runs a view's pure functions over orders.
type engine[S any] struct {
	view View[S]
}

// run takes facts of one order, in the order they arrived, and returns what
// they did. A fact that cannot be folded, or that makes the state too large,
// parks; the others are as if it had not come.
func (e *engine[S]) run(o *order[S], facts []input) (*outcome, error) {
	out, err := e.try(o, facts)
	if err == nil {
		return out, nil
	}
	// Something in there is bad. Go back and find it, one fact at a time.
	if err := o.restore(o.stored); err != nil {
		return nil, err
	}
	first := e.derive(o)
	total := &outcome{before: first, counts: map[Verdict]int{}}
	for _, in := range facts {
		mark, err := o.encode()
		if err != nil {
			return nil, err
		}
		out, bad := e.try(o, []input{in})
		if bad != nil {
			if err := o.restore(mark); err != nil {
				return nil, err
			}
			in.err = bad
			if out, err = e.try(o, []input{in}); err != nil {
				return nil, fmt.Errorf("park a fact of an order: %w", err)
			}
		}
		total.append(out)
	}
	total.after = e.derive(o)
	total.encoded, err = o.encode()
	return total, err
}

// restore goes back to encoded bytes; no bytes are a new order.
func (o *order[S]) restore(bytes encoded) error {
	again, err := openOrder[S](o.id, bytes)
	if err != nil {
		return err
	}
	again.stored = o.stored
	*o = *again
	return nil
}

// tooLarge reports a state over MaxState.
type tooLarge struct{ bytes int }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("state of %d bytes is over the limit of %d", e.bytes, MaxState)
}

// check refuses a state that is too large.
func (e encoded) check() error {
	if size := len(e.state); size > MaxState {
		return &tooLarge{size}
	}
	return nil
}

// try runs facts and derives what follows. A panic of the view, or a state
// that is too large, is an error, and leaves the order half changed.
func (e *engine[S]) try(o *order[S], facts []input) (out *outcome, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			out, err = nil, fmt.Errorf("view %s panicked: %v", e.view.Name, cause)
		}
	}()
	out = &outcome{counts: map[Verdict]int{}, touched: map[string]event.Aggregate{}}
	for _, in := range facts {
		e.step(o, in, out)
	}
	if !out.dirty {
		return out, nil
	}
	if out.before != nil {
		out.after = e.derive(o)
	}
	if out.encoded, err = o.encode(); err != nil {
		return nil, err
	}
	if err := out.encoded.check(); err != nil {
		return nil, err
	}
	return out, nil
}

// derive returns the rows and sums of an order, per table.
func (e *engine[S]) derive(o *order[S]) []map[string]row {
	all := make([]map[string]row, len(e.view.Tables))
	for i, table := range e.view.Tables {
		all[i] = table.derive(o.id, &o.state)
	}
	return all
}

// step gives one fact its verdict and acts on it.
func (e *engine[S]) step(o *order[S], in input, out *outcome) {
	f := in.fact
	verdict, stood := Superseded, false
	defer func() {
		if out.counts[verdict]++; in.given != nil {
			*in.given = given{verdict, stood}
		}
	}()
	if f.Epoch < in.opened {
		return
	}
	record, fresh := o.of(f.Aggregate)
	if fresh {
		out.members = append(out.members, f.Aggregate)
		out.dirty = true
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
	case o.blocked != "":
		verdict = o.blocked
	case in.err != nil && verdict == Apply:
		verdict = causeOf(in.err)
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
	if out.touched != nil {
		out.touched[f.Aggregate.String()] = f.Aggregate
	}
	out.dirty = true
}

// fold applies a fact to the state and takes its log entries. What stands in
// the place of a fact that was given up folds nothing.
func (e *engine[S]) fold(o *order[S], f event.Fact, out *outcome) {
	if out.before == nil {
		if out.before = o.rows; out.before == nil {
			out.before = e.derive(o)
		}
	}
	e.view.Fold(&o.state, f)
	for i, log := range e.view.Logs {
		if rows := log.derive(f); len(rows) > 0 {
			if out.logs == nil {
				out.logs = make([][]row, len(e.view.Logs))
			}
			out.logs[i] = append(out.logs[i], rows...)
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
func (e *engine[S]) park(o *order[S], record *applied, in input, verdict Verdict, out *outcome) {
	reason := ""
	switch {
	case in.err != nil:
		reason = in.err.Error()
	case verdict == Gap:
		reason = fmt.Sprintf("version %d came after version %d", in.fact.Version, record.Version)
	case verdict == Equivocation:
		reason = fmt.Sprintf("version %d came with another event id than was applied", in.fact.Version)
	case verdict == NewerEpoch:
		reason = fmt.Sprintf("version %d of a newer epoch does not follow version %d", in.fact.Version, record.Version)
	}
	out.parked = append(out.parked, parkedFact{
		ref: in.ref, token: in.fact.Token(), order: o.id, verdict: verdict, reason: reason,
	})
	if verdict == TooLarge {
		o.blocked = TooLarge
	}
	if verdict == Behind || record.Parked == verdict {
		return
	}
	record.Parked = verdict
	out.quarantined = append(out.quarantined, quarantine{
		aggregate: in.fact.Aggregate, order: o.id, verdict: verdict, reason: reason,
	})
}

// append adds what a later run did.
func (out *outcome) append(later *outcome) {
	if out.touched == nil {
		out.touched = map[string]event.Aggregate{}
	}
	maps.Copy(out.touched, later.touched)
	for verdict, n := range later.counts {
		out.counts[verdict] += n
	}
	if out.logs == nil {
		out.logs = later.logs
	} else {
		for i := range later.logs {
			out.logs[i] = append(out.logs[i], later.logs[i]...)
		}
	}
	out.parked = append(out.parked, later.parked...)
	out.quarantined = append(out.quarantined, later.quarantined...)
	out.members = append(out.members, later.members...)
	out.dirty = out.dirty || later.dirty
}
