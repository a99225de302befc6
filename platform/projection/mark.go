package projection

import (
	"maps"
	"time"
)

// mark is what a control record of a source says about one of its partitions.
// All that the source had acknowledged before asOf is in its topic before the
// record. An idle mark, from the control topic, holds only for a reader that is
// at or past end in the data topic with the id topicID.
type mark struct {
	source, epoch string
	first         bool // the epoch has no predecessor
	term, number  int64
	asOf          time.Time
	totals        totals // of all that was marked sent in the epoch
	low, high     int64  // least and highest sequence marked since the record before
	blocked       int64  // aggregates the relay could not send
	names         []string
	idle          bool
	topicID       string
	end           int64
}

// sourceMark is the newest mark taken of a source, per partition.
type sourceMark struct {
	epoch        string
	term, number int64
	asOf         time.Time
	blocked      int64
}

// take moves on to a newer mark. A term or an epoch below the highest seen, or
// a number seen before, says nothing; but an idle mark repeats the number of the
// last one in the data topic and advances as_of. as_of never goes back within an
// epoch.
func (m *sourceMark) take(r mark) bool {
	switch {
	case r.epoch < m.epoch:
		return false
	case r.epoch == m.epoch:
		again := r.number < m.number || r.number == m.number && !r.idle
		if r.term < m.term || r.term == m.term && again {
			return false
		}
		if r.asOf.Before(m.asOf) {
			r.asOf = m.asOf
		}
	}
	*m = sourceMark{epoch: r.epoch, term: r.term, number: r.number, asOf: r.asOf, blocked: r.blocked}
	return true
}

// misses reports whether a control record between the newest one taken and r is
// missing.
func (m *sourceMark) misses(r mark) bool {
	last := m.number
	if m.epoch != r.epoch {
		last = 0
	}
	if r.idle { // repeats the number of the last one in the data topic
		return r.number > last
	}
	return r.number > last+1
}

// waitingMark is an idle mark whose place in the data topic is not reached.
type waitingMark struct {
	mark   mark
	offset int64     // of the record in the control topic
	since  time.Time // when the first one of that place came
}

// marks are those of one partition: what was taken, and what waits.
type marks struct {
	taken   map[string]*sourceMark
	waiting map[string]waitingMark
	dirty   map[string]bool
}

func newMarks() *marks {
	return &marks{taken: map[string]*sourceMark{}, waiting: map[string]waitingMark{}, dirty: map[string]bool{}}
}

// clone copies the marks, for a transaction that may fail.
func (m *marks) clone() *marks {
	c := &marks{taken: map[string]*sourceMark{}, waiting: maps.Clone(m.waiting), dirty: map[string]bool{}}
	for source, taken := range m.taken {
		t := *taken
		c.taken[source] = &t
	}
	return c
}

// take takes a mark if it is newer, and returns the one before it.
func (m *marks) take(r mark) (before sourceMark, newer bool) {
	taken := m.taken[r.source]
	if taken == nil {
		taken = &sourceMark{}
		m.taken[r.source] = taken
	}
	before = *taken
	if newer = taken.take(r); newer {
		m.dirty[r.source] = true
	}
	return before, newer
}

// wait keeps an idle mark until its place is reached.
func (m *marks) wait(r mark, offset int64, now time.Time) {
	if before, ok := m.waiting[r.source]; ok && before.mark.end == r.end && before.mark.topicID == r.topicID {
		now = before.since
	}
	m.waiting[r.source] = waitingMark{r, offset, now}
}

// hold returns the offset of the control topic to store: a mark that still
// waits must be read again after a crash.
func (m *marks) hold(next int64) int64 {
	for _, w := range m.waiting {
		next = min(next, w.offset)
	}
	return next
}
