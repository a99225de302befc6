// Package process is the kernel of process managers: what holds several
// aggregates together when each lives in a database of its own.
//
// A process is declared, not scripted. Its author writes a fold from facts to a
// state, and one pure function from that state to everything that ought to have
// been commanded by now. The kernel remembers which steps it has issued, so the
// author never counts: a fact that arrives twice, late or out of order between
// two aggregates changes nothing but the state.
//
//	fact ─ fold ─ state ─ Next ─ steps not issued yet ─┐
//	  one transaction: state, versions seen, commands ─┘─ commit ─ wake
//	                                                              │
//	     refusal ─ state ─ Next ◀── reply ◀── gRPC call ◀── dispatcher
//
// Commands carry a request id made from process, instance and step, so trying
// again after an unknown outcome takes effect once.
package process

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Definition is what the author of a process writes: pure functions. None may
// read a clock, draw a random number, look anything up or call anybody.
type Definition[S any] struct {
	// Name of the process, lower case, for instance "fulfilment". It is part of
	// every request id and never changes.
	Name string
	// Version of the code; recorded with every instance.
	Version int
	// On folds one fact into the state. Facts of one aggregate come in order.
	// S must survive encoding/json.
	On func(*S, event.Fact)
	// Refused tells the state that a participant refused a step for good. It
	// returns what a person should know, or "" if the refusal is expected.
	Refused func(state *S, step, reason string) (attention string)
	// Next returns the steps that ought to have been issued by now. Steps issued
	// before are ignored, so it may return them again. It may record in the
	// state what it decided, and is called after every change of it.
	Next func(*S) []Command
	// Ended reports whether nothing more can happen.
	Ended func(*S) bool
}

// Command is one step that another service is asked to take.
type Command struct {
	// Step names the command within its instance, for ever.
	Step string
	// Request is the message to send. It must carry RequestID(…) of this step.
	Request proto.Message
}

// namespace of request ids; changing it would repeat every open step.
var namespace = uuid.MustParse("6f0f4c1e-3d0f-5b7a-9d52-0a2f6f3f7f11")

// RequestID returns the stable request id of a step.
func RequestID(process, instance, step string) string {
	return ID(process, instance, "step", step)
}

// ID returns a stable UUID made from names, for aggregates that a process
// creates.
func ID(parts ...string) string {
	name := make([]byte, 0, 128)
	for _, p := range parts {
		name = fmt.Appendf(name, "%d:%s;", len(p), p)
	}
	return uuid.NewSHA1(namespace, name).String()
}

var processName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// Check reports what the author left out.
func (d Definition[S]) Check() error {
	var errs []error
	if !processName.MatchString(d.Name) {
		errs = append(errs, fmt.Errorf("process name %q: lower-case letters, digits and underscores only", d.Name))
	}
	if d.Version < 1 {
		errs = append(errs, fmt.Errorf("process %s: version %d is not positive", d.Name, d.Version))
	}
	if d.On == nil || d.Next == nil || d.Ended == nil || d.Refused == nil {
		errs = append(errs, fmt.Errorf("process %s: On, Next, Refused and Ended are all required", d.Name))
	}
	return errors.Join(errs...)
}

// instance is one process as the kernel keeps it.
type instance[S any] struct {
	id       string
	state    S
	book     book
	revision int64
	status   string
	isNew    bool
}

// book is what the kernel remembers of an instance beside the author's state.
type book struct {
	// Seen is the last version folded per aggregate "type/id".
	Seen map[string]seen `json:"seen"`
	// Issued are the steps that became commands.
	Issued map[string]bool `json:"issued"`
	// Attention is what a person should know; empty when nothing.
	Attention string `json:"attention,omitempty"`
}

type seen struct {
	Epoch   string `json:"e"`
	Version int64  `json:"v"`
}

// Statuses of an instance.
const (
	statusRunning = "running"
	statusEnded   = "ended"
)

// fold applies a fact unless the instance has seen its version, and reports
// whether it did.
func (d Definition[S]) fold(in *instance[S], f event.Fact) bool {
	key := f.Aggregate.String()
	if last, ok := in.book.Seen[key]; ok && last.Epoch >= f.Epoch && last.Version >= f.Version {
		return false
	}
	d.On(&in.state, f)
	if in.book.Seen == nil {
		in.book.Seen = map[string]seen{}
	}
	in.book.Seen[key] = seen{Epoch: f.Epoch, Version: f.Version}
	return true
}

// advance asks for the next steps and returns those not issued before.
func (d Definition[S]) advance(in *instance[S]) []Command {
	var fresh []Command
	for _, c := range d.Next(&in.state) {
		if in.book.Issued[c.Step] {
			continue
		}
		if in.book.Issued == nil {
			in.book.Issued = map[string]bool{}
		}
		in.book.Issued[c.Step] = true
		fresh = append(fresh, c)
	}
	in.status = statusRunning
	if d.Ended(&in.state) {
		in.status = statusEnded
	}
	return fresh
}
