package projection_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

const (
	epoch2 = "20261102T000000.000Z-0000000000000002"
	epoch3 = "20261103T000000.000Z-0000000000000003"
)

// in puts facts into an epoch.
func in(epoch string, facts []event.Fact) []event.Fact {
	for i := range facts {
		facts[i].Epoch = epoch
	}
	return facts
}

// as gives facts other ids, and amounts that show.
func as(name string, facts []event.Fact) []event.Fact {
	for i := range facts {
		facts[i].ID += "-" + name
		facts[i].Body = &note{Add: 1000 * facts[i].Version, Text: "paid"}
	}
	return facts
}

// restored is the source after its database went back to some facts: it opens
// an epoch and counts from zero.
func (s *sender) restored(epoch string, facts ...event.Fact) *sender {
	before := s.record.Epoch
	s.journal.restore(facts...)
	next := senderOf(s.l, s.journal, s.record.Source)
	next.record.Epoch, next.record.PredecessorEpoch, next.record.AsOf = epoch, &before, s.record.AsOf
	next.record.Term = s.record.Term + 1
	return next
}

// A source's database is restored; versions are used again. The copy ends
// equal to the source, whatever it had, in any batches.
func TestARestoredSource(t *testing.T) {
	kept := append(about("o", 1, 2), about("p", 1, 3)...)
	undone := append(append(about("o", 3, 4), about("ghost", 1, 2)...), about("p", 4, 4)...)
	tests := []struct {
		name string
		then []event.Fact // what the source states after the restore
		late []event.Fact // what an old relay still had in flight
		lost []event.Fact // of then, not in the topic
	}{
		{name: "nothing new"},
		{name: "versions are used again", then: as("new", in(epoch2, about("o", 3, 5)))},
		{name: "fewer versions than were undone", then: as("new", in(epoch2, about("o", 3, 3)))},
		{name: "a new aggregate with the id of an undone one", then: as("new", in(epoch2, about("ghost", 1, 1)))},
		{name: "what was unsent is sent again under the new epoch", then: in(epoch2, append(about("p", 4, 4), about("o", 3, 3)...))},
		{name: "late facts of the old epoch", then: as("new", in(epoch2, about("o", 3, 3))), late: append(about("late", 1, 1), about("o", 5, 5)...)},
		{name: "the first fact of the new epoch is lost", then: as("new", in(epoch2, about("o", 3, 4))), lost: as("new", in(epoch2, about("o", 3, 3)))},
	}
	for _, tt := range tests {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/one batch=%v", tt.name, together), func(t *testing.T) {
				s, from := line(t)
				s.handle(from.send(kept...)...)
				s.handle(from.send(undone...)...)
				s.handle(from.control())
				s.handle(from.l.facts(fact("o", "order/waits", 7, nil))...) // a gap of the old epoch
				s.is(isProven)
				from = from.restored(epoch2, kept...)
				records := []any{from.control()} // the opening record
				for _, f := range tt.late {
					records = append(records, from.l.facts(f)[0])
				}
				missing := map[string]bool{}
				for _, f := range tt.lost {
					missing[f.ID] = true
				}
				for _, f := range tt.then {
					if missing[f.ID] {
						from.lose(f)
					} else {
						records = append(records, from.send(f)[0])
					}
				}
				records = append(records, from.control())
				feed(s, together, records)
				s.is(isUnproven)
				for range 3 {
					s.heal()
					s.endsAre(0, from.l.offsets)
					s.prove()
					s.handle(from.control())
				}
				s.is(isProven)
				s.equalsSource(from.journal)
				// Whatever an old relay still brings says nothing now.
				s.handle(from.l.facts(append(about("o", 3, 5), about("later", 1, 1)...)...)...)
				s.handle(from.control())
				s.is(isProven)
				s.equalsSource(from.journal)
			})
		}
	}
}

// equalsSource compares everything the copy has with a fold of the journal.
func (s *subject) equalsSource(j *ownerJournal) {
	s.t.Helper()
	want := memory(s.t, j.facts...)
	got := s.viewRows()
	for _, rows := range [][]map[string]any{want["notes"], got["notes"]} {
		for _, r := range rows {
			delete(r, "epoch") // an adopted fact's entry keeps the epoch it came in
		}
	}
	same(s.t, want, got)
	members := map[event.Aggregate]bool{}
	for _, f := range j.facts {
		members[f.Aggregate] = true
	}
	if n := len(s.query("SELECT 1 FROM @member")); n != len(members) {
		s.t.Errorf("%d members, the source has %d: %v", n, len(members), s.query("SELECT * FROM @member"))
	}
	for _, table := range []string{"parked", "quarantine"} {
		if rows := s.query("SELECT * FROM @" + table); len(rows) != 0 {
			s.t.Errorf("%s: %v", table, rows)
		}
	}
}

// A source sends its whole journal again in a new epoch, to a topic that was made
// again. Nothing parks, nothing is folded twice, each fact counts once.
func TestTheWholeJournalAgainInANewEpoch(t *testing.T) {
	for _, together := range []bool{false, true} {
		s, from := line(t)
		s.handle(append(from.send(append(about("o", 1, 5), about("p", 1, 2)...)...), from.control())...)
		again := in(epoch2, append(about("o", 1, 5), about("p", 1, 2)...))
		from = from.restored(epoch2)
		records := []any{from.control()}
		for i, f := range again {
			records = append(records, from.send(f)[0])
			if i%2 == 1 {
				records = append(records, from.l.facts(again[i-1])[0]) // a duplicate
			}
		}
		records = append(records, from.send(in(epoch2, about("p", 3, 3))...)[0], from.control())
		feed(s, together, records)
		if n := len(s.query("SELECT 1 FROM @quarantine")); n != 0 {
			t.Errorf("%d aggregates parked", n)
		}
		s.endsAre(0, from.l.offsets)
		s.prove()
		s.handle(from.control())
		s.is(isProven)
		s.equalsSource(from.journal)
	}
}

// A second restore, before the first one was digested.
func TestTwoRestores(t *testing.T) {
	s, from := line(t)
	s.handle(append(from.send(about("o", 1, 4)...), from.control())...)
	from = from.restored(epoch2, about("o", 1, 2)...)
	s.handle(append(from.send(as("second", in(epoch2, about("o", 3, 4)))...), from.control())...)
	from = from.restored(epoch3, about("o", 1, 1)...)
	s.handle(append(from.send(as("third", in(epoch3, about("o", 2, 3)))...), from.control())...)
	opened := from.control()
	s.handle(opened)
	for range 3 {
		s.heal()
		s.endsAre(0, from.l.offsets)
		s.prove()
		s.handle(from.control())
	}
	s.is(isProven)
	s.equalsSource(from.journal)
}

// The topic tells one version, the journal another: the journal wins.
func TestEquivocationIsDecidedByTheOwner(t *testing.T) {
	s, from := line(t)
	facts := about("o", 1, 3)
	forged := as("forged", about("o", 2, 2))
	s.handle(from.send(facts[0])...)
	s.handle(from.l.facts(forged...)...)
	s.handle(append(from.send(facts[1:]...), from.control())...)
	s.heal()
	s.equalsSource(from.journal)
}

// What stands where a released fact stood folds nothing and is a version like
// any other.
func TestAVoidFactAdvancesTheVersion(t *testing.T) {
	journal := journalOf()
	s := fresh(t, withJournal(journal), func(_ *projection.Config, v *fold.View[tally]) {
		fold := v.Fold
		v.Fold = func(s *tally, f event.Fact) {
			if f.Type == "FactVoided" {
				panic("a void fact was folded")
			}
			fold(s, f)
		}
	})
	from := senderOf(newTopics(), journal, "order")
	facts := about("o", 1, 3)
	facts[1].Type, facts[1].Body = "FactVoided", &control.FactVoided{OriginalName: "Note"}
	s.handle(append(from.send(facts...), from.control())...)
	s.is(isProven)
	same(t, memory(t, facts...), s.viewRows())
	if got := s.query("SELECT amount FROM @parts"); got[0]["amount"] != int64(1<<1+1<<3) {
		t.Errorf("amount %v", got)
	}
	if n := len(s.query("SELECT 1 FROM @notes")); n != 2 {
		t.Errorf("%d log entries, want 2", n)
	}
}

// A refold takes what the reader has not reached yet. It counts then, and not
// again when the reader comes to it.
func TestARefoldAheadOfTheReader(t *testing.T) {
	s, from := line(t)
	s.handle(append(from.send(about("o", 1, 2)...), from.control())...)
	ahead := from.send(about("o", 3, 4)...)
	if err := s.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	same(t, memory(t, from.journal.facts...), s.viewRows())
	s.handle(append(ahead, from.control())...)
	s.is(isProven)
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(2)) {
		t.Errorf("proven until %v, want minute 2", got.GetProvenUntil().AsTime())
	}
	same(t, memory(t, from.journal.facts...), s.viewRows())
}

// A refold changes nothing that is right, and mends what is not.
func TestRefold(t *testing.T) {
	s, from := line(t)
	payments := senderOf(from.l, from.journal, "payment")
	s.handle(from.send(about("o", 1, 3)...)...)
	s.handle(payments.send(fact("o", "payment/a", 1, &note{Add: 7, Text: "paid"}))...)
	s.handle(from.control(), payments.control())
	before := s.everything()
	if err := s.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	if after := s.everything(); after != before {
		t.Errorf("a refold of a right order changed:\n%s\nto:\n%s", before, after)
	}
	s.exec("UPDATE state SET state = '{}'; DELETE FROM notes; UPDATE parts SET amount = 5")
	s.claim()
	if err := s.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	if n := len(s.query("SELECT 1 FROM @notes")); n != 4 {
		t.Errorf("%d log entries, want 4", n)
	}
	s.handle(from.send(about("o", 4, 4)...)...)
	s.handle(from.control(), payments.control())
	s.is(isProven)
	if got := s.query("SELECT amount FROM @parts WHERE part = 'order/o'"); got[0]["amount"] != int64(2+4+8+16) {
		t.Errorf("amount %v", got)
	}
}

// A token of an epoch that is over is met while its event stands, and lost when
// the restore undid it, also where the applied versions no longer tell.
func TestTokensOfAnEpochThatIsOver(t *testing.T) {
	s, from := line(t)
	long := about("o", 1, 40)
	undone := append(about("p", 1, 2), about("o", 41, 41)...)
	s.handle(from.send(append(long, undone...)...)...)
	from = from.restored(epoch2, long...)
	s.handle(from.control())
	s.handle(from.send(as("new", in(epoch2, about("o", 41, 42)))...)...)
	for range 2 {
		s.heal()
		s.endsAre(0, from.l.offsets)
		s.prove()
		s.handle(from.control())
	}
	s.is(isProven)
	for name, tt := range map[string]struct {
		fact event.Fact
		want fault.Reason
	}{
		"long ago":                  {fact: long[2]},
		"an undone version":         {fact: undone[2], want: projection.ReasonWriteLost},
		"an aggregate that is gone": {fact: undone[1], want: projection.ReasonWriteLost},
	} {
		f, err := s.read(demand(0, tt.fact), "o")
		var got *fault.Error
		if tt.want == "" && (err != nil || !f.GetDemandMet()) || tt.want != "" && (!errors.As(err, &got) || got.Reason != tt.want) {
			t.Errorf("%s: %v, %v; want %q", name, f.GetDemandMet(), err, tt.want)
		}
	}
}
