package projection

import (
	"maps"
	"time"
)

// Mark is what a control record of a source says about one of its partitions.
type Mark struct {
	Source    string
	Epoch     string
	Term      int64
	Number    int64
	Partition int32
	// AsOf: all that the source had acknowledged before this instant is in its
	// topic before this record.
	AsOf    time.Time
	Blocked int64 // facts the relay could not send
	// Idle is set on records of the control topic. They hold only for a reader
	// that is at or past DataEnd in the topic with the id DataTopicID.
	Idle        bool
	DataTopicID string
	DataEnd     int64
}

// sourceMark is the newest mark taken of a source, per partition.
type sourceMark struct {
	epoch        string
	term, number int64
	asOf         time.Time
	blocked      int64
}

// take moves on to a newer mark. A term or an epoch below the highest seen, or
// a number seen before, says nothing. as_of never goes back within an epoch.
func (m *sourceMark) take(r Mark) bool {
	switch {
	case r.Epoch < m.epoch:
		return false
	case r.Epoch == m.epoch:
		if r.Term < m.term || r.Term == m.term && r.Number <= m.number {
			return false
		}
		if r.AsOf.Before(m.asOf) {
			r.AsOf = m.asOf
		}
	}
	*m = sourceMark{epoch: r.Epoch, term: r.Term, number: r.Number, asOf: r.AsOf, blocked: r.Blocked}
	return true
}

// waitingMark is an idle mark whose place in the data topic is not reached.
type waitingMark struct {
	mark   Mark
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

func (m *marks) take(r Mark) {
	taken := m.taken[r.Source]
	if taken == nil {
		taken = &sourceMark{}
		m.taken[r.Source] = taken
	}
	if taken.take(r) {
		m.dirty[r.Source] = true
	}
}

// idle takes a mark of the control topic, now or when reached says so.
func (m *marks) idle(r Mark, offset int64, reached func(Mark) bool) {
	if reached(r) {
		delete(m.waiting, r.Source)
		m.take(r)
		return
	}
	m.waiting[r.Source] = waitingMark{r, offset}
}

// retry takes waiting marks whose place is reached now.
func (m *marks) retry(reached func(Mark) bool) {
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
