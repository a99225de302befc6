package projection_test

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// sender is a source with its journal and its relay. What it loses was
// acknowledged by the broker all the same.
type sender struct {
	l       *topics
	journal *ownerJournal
	record  control.ControlRecord // the next one, but for its number
	count   int64
	sum     event.Sum
}

func senderOf(l *topics, j *ownerJournal, source string) *sender {
	return &sender{l: l, journal: j, record: control.ControlRecord{Source: source, Epoch: epoch1, Term: 1, AsOf: dawn, DataEndOffset: -1}}
}

// send commits facts, puts them into the topic and marks them sent.
func (s *sender) send(facts ...event.Fact) []consumer.Record {
	s.lose(facts...)
	return s.l.facts(facts...)
}

// lose commits facts and marks them sent; the topic does not have them.
func (s *sender) lose(facts ...event.Fact) {
	s.journal.add(facts...)
	s.mark(facts...)
}

// early commits facts and puts them into the topic, but does not mark them.
func (s *sender) early(facts ...event.Fact) []consumer.Record {
	s.journal.add(facts...)
	return s.l.facts(facts...)
}

func (s *sender) mark(facts ...event.Fact) {
	for _, f := range facts {
		s.count++
		s.sum = s.sum.Add(f.Envelope)
		sequence := s.journal.sequenceOf(f)
		if s.record.MinSequence == 0 || sequence < s.record.MinSequence {
			s.record.MinSequence = sequence
		}
		s.record.MaxSequence = max(s.record.MaxSequence, sequence)
	}
}

func (j *ownerJournal) sequenceOf(f event.Fact) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, g := range j.facts {
		if g.Token() == f.Token() {
			return g.Sequence
		}
	}
	return 0
}

// control is the next control record in the data topic.
func (s *sender) control() consumer.Record {
	return s.l.totals(s.next())
}

func (s *sender) next() control.ControlRecord {
	s.record.Number++
	s.record.AsOf = s.record.AsOf.Add(minutes(1).Sub(dawn))
	c := s.record
	c.Count, c.Hash = s.count, control.Sum(s.sum)
	s.record.MinSequence, s.record.MaxSequence = 0, 0
	return c
}

// idle is a control record in the control topic, valid from the given end on.
func (s *sender) idle(end int64) consumer.Record {
	s.record.AsOf = s.record.AsOf.Add(minutes(1).Sub(dawn))
	c := s.record
	c.Count, c.Hash = s.count, control.Sum(s.sum)
	c.MinSequence, c.MaxSequence = 0, 0
	c.DataTopicID, c.DataEndOffset = topicIDs[kafka.EventsTopic(c.Source)], end
	return s.l.totals(c)
}

func (s *sender) end() int64 { return s.l.offsets[kafka.EventsTopic(s.record.Source)] }

// prove does what control totals ask for, once.
func (s *subject) prove() {
	s.t.Helper()
	if err := s.ProveDue(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) source(name, order string) *freshnessv1.SourceFreshness {
	s.t.Helper()
	f, err := s.read(nil, order)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sf := range f.GetSources() {
		if sf.GetSource() == name {
			return sf
		}
	}
	s.t.Fatalf("no source %s", name)
	return nil
}

const (
	isProven   = freshnessv1.Completeness_COMPLETENESS_PROVEN
	isUnproven = freshnessv1.Completeness_COMPLETENESS_UNPROVEN
	isViolated = freshnessv1.Completeness_COMPLETENESS_VIOLATED
)

// is checks what an answer about many orders says of the order source.
func (s *subject) is(want freshnessv1.Completeness) {
	s.t.Helper()
	if got := s.source("order", ""); got.GetCompleteness() != want {
		s.t.Fatalf("completeness %v (%s), want %v", got.GetCompleteness(), got.GetCompletenessReason(), want)
	}
}

// line is a source, its reader, and the topics between them.
func line(t *testing.T) (*subject, *sender) {
	t.Helper()
	l, journal := newTopics(), journalOf()
	s := fresh(t, withJournal(journal))
	return s, senderOf(l, journal, "order")
}
