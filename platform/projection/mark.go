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
	term, number  int64
	asOf          time.Time
	blocked       int64 // aggregates the relay could not send
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

// waitingMark is an idle mark whose place in the data topic is not reached.
type waitingMark struct {
	mark   mark
	offset int64 // of the record in the control topic
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

func (m *marks) take(r mark) {
	taken := m.taken[r.source]
	if taken == nil {
		taken = &sourceMark{}
		m.taken[r.source] = taken
	}
	if taken.take(r) {
		m.dirty[r.source] = true
	}
}

// idle takes a mark of the control topic, now or when reached says so.
func (m *marks) idle(r mark, offset int64, reached func(mark) bool) {
	if reached(r) {
		delete(m.waiting, r.source)
		m.take(r)
		return
	}
	m.waiting[r.source] = waitingMark{r, offset}
}

// retry takes waiting marks whose place is reached now.
func (m *marks) retry(reached func(mark) bool) {
	for source, w := range m.waiting {
		if reached(w.mark) {
			delete(m.waiting, source)
			m.take(w.mark)
		}
	}
}

// hold returns the offset of the control topic to store: a mark that still
// waits must be read again after a crash.
func (m *marks) hold(next int64) int64 {
	for _, w := range m.waiting {
		next = min(next, w.offset)
	}
	return next
}
