package process

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// instance is one process as the kernel keeps it.
type instance[S any] struct {
	id         string
	definition int
	state      S
	book       book
	revision   int64
	status     string
	attention  string
	isNew      bool
}

// book is what the kernel remembers of an instance beside the author's state.
type book struct {
	// Seen is the last version folded per aggregate "type/id".
	Seen map[string]seen `json:"seen"`
	// Issued are the steps that became commands.
	Issued map[string]bool `json:"issued"`
	// Withdrawn are the issued steps that were withdrawn.
	Withdrawn map[string]bool `json:"withdrawn,omitempty"`
	// Timers are those that were set: false while they run, true once fired.
	Timers map[string]bool `json:"timers,omitempty"`
	// Told is the concern that others were told of last.
	Told Concern `json:"told,omitzero"`
	// Doubts are what the kernel itself cannot settle.
	Doubts []string `json:"doubts,omitempty"`
	// Attention is where version 1 of this table kept what a person should know.
	Attention string `json:"attention,omitempty"`
}

type seen struct {
	Epoch   string `json:"e"`
	Version int64  `json:"v"`
}

// Statuses of an instance.
const (
	StatusRunning = "running"
	StatusEnded   = "ended"
)

// doubt notes what only a person can settle, once.
func (in *instance[S]) doubt(text string) {
	if !slices.Contains(in.book.Doubts, text) && len(in.book.Doubts) < 20 {
		in.book.Doubts = append(in.book.Doubts, text)
	}
}

// fold applies a fact unless the instance has seen its version, and reports
// whether it did. A void fact changes nothing but the version.
func (d Definition[S]) fold(in *instance[S], f event.Fact) bool {
	key := f.Aggregate.String()
	if last, ok := in.book.Seen[key]; ok {
		if last.Epoch > f.Epoch || last.Epoch == f.Epoch && last.Version >= f.Version {
			return false
		}
		if last.Epoch < f.Epoch && last.Version >= f.Version {
			in.doubt(fmt.Sprintf("the source of %s went back to an earlier state: compare with its owner", key))
		}
	}
	switch f.Body.(type) {
	case nil:
		in.doubt(fmt.Sprintf("version %d of %s cannot be read: compare with its owner", f.Version, key))
	case *control.FactVoided:
		in.doubt(fmt.Sprintf("version %d of %s was released unsent: compare with its owner", f.Version, key))
	default:
		d.On(&in.state, f)
	}
	if in.book.Seen == nil {
		in.book.Seen = map[string]seen{}
	}
	in.book.Seen[key] = seen{Epoch: f.Epoch, Version: f.Version}
	return true
}

// change is what one transaction does to one instance beside its state.
type change struct {
	commands  []Command
	timers    []Timer
	dropped   []string // timers
	withdrawn []string // steps
	concern   *Concern // to be told; nil if others know
}

// advance asks for the plan and returns what of it is new.
func (d Definition[S]) advance(in *instance[S]) (c change) {
	plan := d.Next(&in.state)
	for _, command := range plan.Commands {
		if in.book.Issued[command.Step] {
			continue
		}
		if in.book.Issued == nil {
			in.book.Issued = map[string]bool{}
		}
		in.book.Issued[command.Step] = true
		c.commands = append(c.commands, command)
	}
	wanted := make(map[string]bool, len(plan.Timers))
	for _, timer := range plan.Timers {
		wanted[timer.Name] = true
		if _, set := in.book.Timers[timer.Name]; set {
			continue
		}
		if in.book.Timers == nil {
			in.book.Timers = map[string]bool{}
		}
		in.book.Timers[timer.Name] = false
		c.timers = append(c.timers, timer)
	}
	for name, fired := range in.book.Timers {
		if !fired && !wanted[name] {
			delete(in.book.Timers, name)
			c.dropped = append(c.dropped, name)
		}
	}
	slices.Sort(c.dropped)
	for _, step := range plan.Withdrawn {
		if !in.book.Issued[step] || in.book.Withdrawn[step] {
			continue
		}
		if in.book.Withdrawn == nil {
			in.book.Withdrawn = map[string]bool{}
		}
		in.book.Withdrawn[step] = true
		c.withdrawn = append(c.withdrawn, step)
	}
	in.status = StatusRunning
	if plan.Ended {
		in.status = StatusEnded
	}
	in.attention = plan.Attention
	if len(in.book.Doubts) > 0 {
		in.attention = strings.TrimPrefix(in.attention+"; "+strings.Join(in.book.Doubts, "; "), "; ")
	}
	concern := plan.Concern
	switch {
	case in.attention == "":
		concern = Concern{}
	case concern.Reason == "":
		concern.Reason = InDoubt
	}
	if concern != in.book.Told {
		in.book.Told, c.concern = concern, &concern
	}
	return c
}

// fire tells the state that a timer became due; false if it was not set.
func (d Definition[S]) fire(in *instance[S], timer string) bool {
	if fired, set := in.book.Timers[timer]; !set || fired || d.Fired == nil {
		return false
	}
	in.book.Timers[timer] = true
	d.Fired(&in.state, timer)
	return true
}
