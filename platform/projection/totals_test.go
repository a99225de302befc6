package projection_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
)

// settled is longer than a surplus may stand.
const settled = 31 * time.Second

// about makes facts of one order: versions from to to.
func about(order string, from, to int64) []event.Fact {
	var facts []event.Fact
	for v := from; v <= to; v++ {
		facts = append(facts, fact(order, "order/"+order, v, &note{Add: 1 << v, Text: "held"}))
	}
	return facts
}

func TestTotalsThatAgreeProveUntilAsOf(t *testing.T) {
	s, from := line(t)
	s.handle(from.send(about("o", 1, 2)...)...)
	s.is(isUnproven)
	s.handle(from.control())
	s.is(isProven)
	got := s.source("order", "o")
	if !got.GetProvenUntil().AsTime().Equal(minutes(1)) {
		t.Errorf("proven until %v, want %v", got.GetProvenUntil().AsTime(), minutes(1))
	}
	// A surplus proves nothing new and breaks nothing old.
	s.handle(append(from.early(about("o", 3, 3)...), from.control())...)
	s.is(isProven)
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(1)) || !got.GetAsOf().AsTime().Equal(minutes(2)) {
		t.Errorf("as_of %v, proven until %v; want minutes 2 and 1", got.GetAsOf().AsTime(), got.GetProvenUntil().AsTime())
	}
	from.mark(about("o", 3, 3)...)
	s.handle(from.control())
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(3)) {
		t.Errorf("proven until %v, want minute 3", got.GetProvenUntil().AsTime())
	}
	// A record in the middle of a batch is compared there, not at the batch's end.
	middle := from.control()
	s.handle(append([]consumer.Record{middle}, from.send(about("m", 1, 1)...)...)...)
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(4)) {
		t.Errorf("proven until %v, want minute 4", got.GetProvenUntil().AsTime())
	}
	// An idle record at its very place proves; one that is passed only ages.
	s.handle(from.idle(from.end()))
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(5)) {
		t.Errorf("proven until %v, want minute 5", got.GetProvenUntil().AsTime())
	}
	passed := from.idle(from.end())
	s.handle(from.send(about("p", 1, 1)...)...)
	s.handle(passed)
	if got := s.source("order", ""); !got.GetProvenUntil().AsTime().Equal(minutes(5)) || !got.GetAsOf().AsTime().Equal(minutes(6)) {
		t.Errorf("as_of %v, proven until %v; want minutes 6 and 5", got.GetAsOf().AsTime(), got.GetProvenUntil().AsTime())
	}
	s.is(isProven)
	// Payment never spoke.
	if got := s.source("payment", ""); got.GetCompleteness() != isUnproven || got.GetProvenUntil() != nil {
		t.Errorf("payment: %v", got)
	}
}

// Facts that the broker acknowledged and lost: noticed by the next control
// record, fetched from the owner, applied, and proven by the one after.
func TestLossIsNoticedAndHealed(t *testing.T) {
	tests := []struct {
		name string
		lost func(from *sender) []event.Fact
		next []event.Fact // what comes after the loss
	}{
		{name: "an event in the middle", lost: func(*sender) []event.Fact { return about("o", 3, 3) }, next: about("o", 4, 5)},
		{name: "the last event", lost: func(*sender) []event.Fact { return about("o", 3, 3) }},
		{name: "a whole aggregate", lost: func(*sender) []event.Fact { return about("p", 1, 3) }},
		{name: "the last of one and the whole of another, among others", lost: func(*sender) []event.Fact {
			return append(about("o", 3, 4), about("q", 1, 1)...)
		}, next: about("r", 1, 2)},
		{name: "an event and the control record behind it", lost: func(from *sender) []event.Fact {
			from.lose(about("p", 1, 1)...)
			from.next() // numbered, acknowledged, lost
			return about("q", 1, 1)
		}},
		{name: "a control record only", lost: func(from *sender) []event.Fact { from.next(); return nil }, next: about("o", 3, 4)},
	}
	for _, tt := range tests {
		for _, idle := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/idle=%v", tt.name, idle), func(t *testing.T) {
				s, from := line(t)
				s.handle(append(from.send(about("o", 1, 2)...), from.control())...)
				s.is(isProven)
				lost := tt.lost(from)
				from.lose(lost...)
				s.handle(from.send(tt.next...)...)
				s.endsAre(0, from.l.offsets)
				if next := from.control; idle {
					s.handle(from.idle(from.end()))
				} else {
					s.handle(next())
				}
				missing := lost != nil || from.record.Number > 2 && tt.next == nil
				if missing {
					s.is(isViolated)
				} else {
					s.is(isProven)
				}
				if q := s.query("SELECT 1 FROM @quarantine"); len(q) > 0 {
					s.heal()
				}
				for range 2 { // the near first, then the far
					s.prove()
					s.handle(from.idle(from.end()))
				}
				s.is(isProven)
				same(t, memory(t, from.journal.facts...), s.viewRows())
				if n := len(s.query("SELECT 1 FROM @quarantine")); n != 0 {
					t.Errorf("%d aggregates are still parked", n)
				}
			})
		}
	}
}

// The log was cut: an idle record is about a place that no longer exists.
func TestAPlaceBeyondTheEndIsAProvenLoss(t *testing.T) {
	s, from := line(t)
	s.handle(append(from.send(about("o", 1, 2)...), from.control())...)
	end := from.end()
	from.lose(about("o", 3, 3)...)
	s.endsAre(0, from.l.offsets)
	s.handle(from.idle(end + 1)) // maybe the reader is behind: ask for the end
	s.is(isProven)
	s.endsAre(0, from.l.offsets)
	s.handle(from.idle(end + 1))
	s.is(isViolated)
	s.prove()
	s.handle(from.idle(end + 1))
	s.endsAre(0, from.l.offsets)
	s.handle(from.idle(end + 1))
	s.is(isProven)
	same(t, memory(t, from.journal.facts...), s.viewRows())
}

func TestASurplusSettlesOrIsAFault(t *testing.T) {
	s, from := line(t)
	now := time.Now()
	s.At(now)
	s.handle(append(from.send(about("o", 1, 1)...), from.control())...)
	early := from.early(about("o", 2, 2)...)
	s.handle(early...)
	s.handle(from.control())
	now = now.Add(time.Millisecond)
	s.At(now)
	s.endsAre(0, from.l.offsets) // the reader is not there yet
	s.handle(from.early(about("o", 3, 3)...)...)
	s.handle(from.control())
	now = now.Add(29 * time.Second)
	s.At(now)
	s.handle(from.control())
	s.is(isProven)
	from.mark(about("o", 2, 3)...) // the relay is back
	s.handle(from.control())
	now = now.Add(time.Hour)
	s.At(now)
	s.handle(from.control())
	s.is(isProven)
	if got := s.source("order", ""); got.GetProvenUntil().AsTime() != got.GetAsOf().AsTime() {
		t.Errorf("the surplus settled, and it is proven until %v of %v", got.GetProvenUntil().AsTime(), got.GetAsOf().AsTime())
	}
	// Nobody ever marks this one.
	foreign := from.l.facts(about("x", 1, 1)...)
	s.handle(foreign...)
	s.handle(from.control())
	now = now.Add(time.Second)
	s.At(now)
	s.endsAre(0, from.l.offsets)
	s.handle(from.control())
	now = now.Add(31 * time.Second)
	s.At(now)
	s.handle(from.control())
	s.is(isViolated)
	for range 3 {
		s.prove()
		s.handle(from.control())
	}
	s.is(isProven) // what no journal has is gone
	same(t, memory(t, from.journal.facts...), s.viewRows())
}

// The same number of facts, but others.
func TestAnotherHashIsAFault(t *testing.T) {
	s, from := line(t)
	s.handle(append(from.send(about("o", 1, 1)...), from.control())...)
	from.lose(about("p", 1, 1)...)
	s.handle(from.l.facts(about("x", 1, 1)...)...)
	s.handle(from.control())
	s.is(isViolated)
	now := time.Now()
	for range 5 { // what was lost is healed; what is left over has half a minute
		s.prove()
		s.handle(from.control())
		now = now.Add(settled)
		s.At(now)
		s.endsAre(0, from.l.offsets)
	}
	s.is(isProven)
	same(t, memory(t, from.journal.facts...), s.viewRows())
}

func TestALateRelaySaysNothing(t *testing.T) {
	s, from := line(t)
	facts := about("o", 1, 3)
	sent := from.send(facts...)
	s.handle(sent...)
	zombie := *from
	zombie.count, zombie.record.Number = 10, 40
	from.record.Term = 2
	s.handle(from.control())
	s.handle(from.l.facts(facts...)...) // what it had in flight
	s.handle(zombie.control())
	s.is(isProven)
	s.handle(from.control())
	s.is(isProven)
	same(t, memory(t, facts...), s.viewRows())
}

// Whatever happens to facts on their way, each counts once: parked, poison,
// duplicated, healed, refolded, cut into any batches, read again from the
// start. In the end totals agree.
func TestEachIdentityCountsOnce(t *testing.T) {
	s, from := line(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		var all, sent []event.Fact
		for i := range 3 {
			id := fmt.Sprint("o", run, "-", i)
			facts := about(id, 1, 5)
			if i == 2 && rapid.Bool().Draw(r, "poison") {
				facts[2].Body = &note{Text: "burst"}
			}
			all = append(all, facts...)
		}
		var batch []consumer.Record
		for len(all) > 0 || len(batch) > 0 {
			switch n := rapid.IntRange(0, 9).Draw(r, "step"); {
			case n < 4 && len(all) > 0:
				f := all[0]
				all = all[1:]
				batch = append(batch, from.send(f)...)
				sent = append(sent, f)
			case n == 4 && len(all) > 0:
				from.lose(all[0])
				sent, all = append(sent, all[0]), all[1:]
			case n == 5 && len(sent) > 0:
				batch = append(batch, from.l.facts(rapid.SampledFrom(sent).Draw(r, "again"))...)
			case n == 6:
				batch = append(batch, from.control())
			case n == 7 && len(batch) == 0:
				s.heal()
			case n == 8 && len(batch) == 0:
				s.endsAre(0, from.l.offsets)
				s.prove()
			default:
				if len(batch) > 0 {
					s.handle(batch...)
				}
				batch = nil
			}
		}
		for range 4 {
			s.heal()
			s.endsAre(0, from.l.offsets)
			s.prove()
			s.handle(from.control())
		}
		s.is(isProven)
	})
	for _, q := range s.query("SELECT verdict FROM @quarantine") {
		if q["verdict"] != "poison" {
			t.Errorf("an aggregate is still parked: %v", q)
		}
	}
	same(t, memory(t, from.journal.facts...), s.viewRows())
}

func TestACopyThatWasNotCountedIsCountedAnew(t *testing.T) {
	s, from := line(t)
	s.handle(from.send(about("o", 1, 3)...)...)
	s.handle(from.l.facts(fact("x", "order/x", 5, nil))...) // parked, and no journal has it
	s.handle(from.control())
	s.exec("UPDATE position SET books = '{}'") // as an older kernel leaves it
	s.claim()
	s.handle(append(from.send(about("p", 1, 1)...), from.control())...)
	s.is(isUnproven)
	s.prove()
	s.is(isUnproven)
	s.handle(append(from.send(about("p", 2, 2)...), from.control())...)
	s.is(isProven)
}

// What a source holds back is named: that entity is quarantined, and all else is
// whole. With more than it can name, nothing is.
func TestBlockedNames(t *testing.T) {
	s, from := line(t)
	from.record.Blocked, from.record.BlockedCount = []string{"order/o"}, 1
	s.handle(append(from.send(append(about("o", 1, 1), about("p", 1, 1)...)...), from.control())...)
	s.is(isProven)
	for order, want := range map[string]freshnessv1.EntityStatus{
		"o": freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED, "p": freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT,
	} {
		f, err := s.read(nil, order)
		if err != nil || f.GetEntityStatus() != want || f.GetSources()[0].GetBlocked()[0] != "order/o" {
			t.Errorf("%s: %v, %v; want %v", order, f, err, want)
		}
	}
	from.record.Blocked, from.record.BlockedCount = []string{"order/new"}, 1 // nothing of it was ever sent
	s.handle(from.control())
	if f, err := s.read(nil, "new"); err != nil || f.GetEntityStatus() != freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED {
		t.Errorf("%v, %v", f, err)
	}
	from.record.Blocked, from.record.BlockedCount = make([]string, 32), 33
	s.handle(from.control())
	s.is(isUnproven)
	from.record.Blocked, from.record.BlockedCount = nil, 0
	s.handle(from.control())
	s.is(isProven)
	if f, err := s.read(nil, "o"); err != nil || f.GetEntityStatus() != freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT {
		t.Errorf("%v, %v", f, err)
	}
}
