package completeness

import (
	"maps"
	"time"
)

// Mark is what a control record of a source says about one of its partitions.
// All that the source had acknowledged before AsOf is in its topic before the
// record. An idle mark, from the control topic, holds only for a reader that is
// at or past End in the data topic with the id TopicID.
type Mark struct {
	Source, Epoch string
	First         bool // the epoch has no predecessor
	Term, Number  int64
	AsOf          time.Time
	Totals        Totals // of all that was marked sent in the epoch
	Low, High     int64  // least and highest sequence marked since the record before
	Blocked       int64  // aggregates the relay could not send
	Names         []string
	Idle          bool
	TopicID       string
	End           int64
}

// SourceMark is the newest mark taken of a source, per partition.
type SourceMark struct {
	Epoch        string
	Term, Number int64
	AsOf         time.Time
	Blocked      int64
}

// Take moves on to a newer mark. A term or an epoch below the highest seen, or
// a number seen before, says nothing; but an idle mark repeats the number of the
// last one in the data topic and advances as_of. as_of never goes back within an
// epoch.
func (m *SourceMark) Take(r Mark) bool {
	switch {
	case r.Epoch < m.Epoch:
		return false
	case r.Epoch == m.Epoch:
		again := r.Number < m.Number || r.Number == m.Number && !r.Idle
		if r.Term < m.Term || r.Term == m.Term && again {
			return false
		}
		if r.AsOf.Before(m.AsOf) {
			r.AsOf = m.AsOf
		}
	}
	*m = SourceMark{Epoch: r.Epoch, Term: r.Term, Number: r.Number, AsOf: r.AsOf, Blocked: r.Blocked}
	return true
}

// Misses reports whether a control record between the newest one taken and r is
// missing.
func (m *SourceMark) Misses(r Mark) bool {
	last := m.Number
	if m.Epoch != r.Epoch {
		last = 0
	}
	if r.Idle { // repeats the number of the last one in the data topic
		return r.Number > last
	}
	return r.Number > last+1
}

// WaitingMark is an idle mark whose place in the data topic is not reached.
type WaitingMark struct {
	Mark   Mark
	offset int64     // of the record in the control topic
	Since  time.Time // when the first one of that place came
}

// Marks are those of one partition: what was taken, and what waits.
type Marks struct {
	Taken   map[string]*SourceMark // by source, as are the others
	Waiting map[string]WaitingMark
	Dirty   map[string]bool // Taken moved and is not stored yet
}

// NewMarks returns those of a partition nothing was taken of.
func NewMarks() *Marks {
	return &Marks{Taken: map[string]*SourceMark{}, Waiting: map[string]WaitingMark{}, Dirty: map[string]bool{}}
}

// Clone copies the marks, for a transaction that may fail.
func (m *Marks) Clone() *Marks {
	c := &Marks{Taken: map[string]*SourceMark{}, Waiting: maps.Clone(m.Waiting), Dirty: map[string]bool{}}
	for source, taken := range m.Taken {
		t := *taken
		c.Taken[source] = &t
	}
	return c
}

// Take takes a mark if it is newer, and returns the one before it.
func (m *Marks) Take(r Mark) (before SourceMark, newer bool) {
	taken := m.Taken[r.Source]
	if taken == nil {
		taken = &SourceMark{}
		m.Taken[r.Source] = taken
	}
	before = *taken
	if newer = taken.Take(r); newer {
		m.Dirty[r.Source] = true
	}
	return before, newer
}

// Wait keeps an idle mark until its place is reached.
func (m *Marks) Wait(r Mark, offset int64, now time.Time) {
	if before, ok := m.Waiting[r.Source]; ok && before.Mark.End == r.End && before.Mark.TopicID == r.TopicID {
		now = before.Since
	}
	m.Waiting[r.Source] = WaitingMark{r, offset, now}
}

// Hold returns the offset of the control topic to store: a mark that still
// waits must be read again after a crash.
func (m *Marks) Hold(next int64) int64 {
	for _, w := range m.Waiting {
		next = min(next, w.offset)
	}
	return next
}
