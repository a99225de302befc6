// Package process is the kernel of process managers: what holds several
// aggregates together when each lives in a database of its own.
//
// A process is declared, not scripted. Its author writes a fold from facts to a
// state, and one pure function from that state to a [Plan]: everything that
// ought to have been commanded by now, every timer that ought to be set, every
// step that must not take effect any more. The kernel remembers what it has
// done of it, so the author never counts: a fact that arrives twice, late or
// out of order between two aggregates changes nothing but the state.
//
//	fact ── fold ──┐
//	timer ─ fired ─┼─ state ─ Next ─ plan ─ what of it is new ─┐
//	reply ─ settled┘                                            │
//	   ▲       one transaction: state, commands, timers ────────┘─ commit
//	   └──────────── gRPC call ◀──── dispatcher ◀────────────────────┘
//
// Commands carry a request id made from process, instance and step, so trying
// again after an unknown outcome takes effect once. A step that is withdrawn
// while its outcome is unknown is made definite at the participant, which
// refuses it from then on unless it has taken effect.
package process

import (
	"errors"
	"fmt"
	"regexp"
	"time"

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
	// Version of the definition. An instance keeps the version it was started
	// with; the manager is given every version that still has open instances.
	Version int
	// On folds one fact into the state. Facts of one aggregate come in order.
	// S must survive encoding/json.
	On func(*S, event.Fact)
	// Settled tells the state about a step of which no fact will tell.
	Settled func(*S, Settlement)
	// Fired tells the state that a timer became due. Nil if there are no timers.
	Fired func(state *S, timer string)
	// Next returns everything that ought to hold by now. It may record in the
	// state what it decided, and is called after every change of it.
	Next func(*S) Plan
	// Waits says, for people, what the instance waits for. May be nil.
	Waits func(*S) []Wait
}

// Plan is everything that ought to hold in one state of a process.
type Plan struct {
	// Commands ought to have been issued. Those issued before are ignored.
	Commands []Command
	// Timers ought to be set. Those set before are left alone, also after they
	// have fired; those set before and not named any more are taken back.
	Timers []Timer
	// Withdrawn are steps that must not take effect any more. One that has a
	// definite outcome already is left as it is.
	Withdrawn []string
	// Attention is what a person ought to look at; empty if nothing. Concern is
	// what others may be told of it.
	Attention string
	Concern   Concern
	// Ended says that nothing more can happen by itself.
	Ended bool
}

// Concern is why an instance needs a person, as others are told it.
type Concern struct {
	// Reason is the kind of trouble; empty if there is none.
	Reason string `json:"r,omitempty"`
	// Step waits for the person; empty if none does.
	Step string `json:"s,omitempty"`
}

// InDoubt is the kernel's own reason: facts are missing or contradict each other.
const InDoubt = "FACTS_IN_DOUBT"

// Command is one step that another service is asked to take.
type Command struct {
	// Step names the command within its instance, for ever.
	Step string
	// Request is the message to send. It must carry RequestID(…) of this step.
	Request proto.Message
}

// Timer becomes due once, by the clock of the database.
type Timer struct {
	// Name names the timer within its instance, for ever.
	Name string
	// At is when it becomes due; zero means After from when it is set.
	At    time.Time
	After time.Duration
}

// Outcome is how a step ended that no fact tells about.
type Outcome string

// The outcomes. All are definite.
const (
	// Refused: the participant refused the step.
	Refused Outcome = "refused"
	// Withdrawn: the step was withdrawn and never took effect, nor ever will.
	Withdrawn Outcome = "withdrawn"
	// Forced: a person did by hand what the step was to do, or answers for it.
	Forced Outcome = "forced"
)

// Settlement is the definite outcome of a step.
type Settlement struct {
	Step    string
	Outcome Outcome
	Reason  string
}

// Wait is something that an instance waits for.
type Wait struct {
	// For says what, for instance "the carrier to deliver the parcel from north".
	For string
	// Next says what happens then.
	Next string
	// Timer is the timer that ends the wait, or empty.
	Timer string
}

// namespace of request ids; changing it would repeat every open step.
var namespace = uuid.MustParse("6f0f4c1e-3d0f-5b7a-9d52-0a2f6f3f7f11")

// RequestID returns the stable request id of a step. It is a name-based UUID:
// participants keep the answers to such requests, see journal.Prune.
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
	if d.On == nil || d.Next == nil || d.Settled == nil {
		errs = append(errs, fmt.Errorf("process %s: On, Settled and Next are all required", d.Name))
	}
	return errors.Join(errs...)
}
