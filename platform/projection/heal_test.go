package projection_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// heal tries every gap once, at once.
func (s *subject) heal() {
	s.t.Helper()
	s.exec("UPDATE quarantine SET next_attempt_at = now()")
	if _, err := s.HealDue(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) waiting() (gaps, parked int) {
	s.t.Helper()
	return len(s.query("SELECT 1 FROM @quarantine")), len(s.query("SELECT 1 FROM @parked"))
}

func TestGapParksAndHealsInOrder(t *testing.T) {
	var facts []event.Fact
	for v := range int64(6) {
		facts = append(facts, fact("o", "payment/a", v+1, &note{Add: 1 << v, Text: fmt.Sprint("v", v+1)}))
	}
	journal := journalOf(facts[:1]...) // the owner does not show the missing ones yet
	s := fresh(t, withJournal(journal))
	l := newTopics()
	s.handle(l.facts(facts[0], facts[3], fact("o", "order/o", 1, &note{Add: 100}))...)
	s.handle(l.facts(facts[4])...)
	if gaps, parked := s.waiting(); gaps != 1 || parked != 2 {
		t.Fatalf("%d gaps, %d facts parked, want 1 and 2", gaps, parked)
	}
	s.heal()
	if gaps, parked := s.waiting(); gaps != 1 || parked != 2 {
		t.Fatalf("healed without the owner: %d gaps, %d facts parked", gaps, parked)
	}
	if q := s.query("SELECT attempts, reason FROM @quarantine"); q[0]["attempts"] != int32(1) {
		t.Errorf("quarantine: %v", q)
	}
	journal.add(facts[1]) // a part of what is missing
	s.heal()
	if gaps, parked := s.waiting(); gaps != 1 || parked != 2 {
		t.Fatalf("healed in part: %d gaps, %d facts parked", gaps, parked)
	}
	same(t, memory(t, facts[0], facts[1], fact("o", "order/o", 1, &note{Add: 100})), s.viewRows())
	journal.add(facts[2:5]...)
	s.heal()
	if gaps, parked := s.waiting(); gaps != 0 || parked != 0 {
		t.Fatalf("%d gaps, %d facts parked after healing", gaps, parked)
	}
	// The owner of the partition goes on; its states in memory are old.
	s.handle(l.facts(facts[5], facts[1], fact("o", "order/o", 2, &note{Add: 200}))...)
	want := append(append([]event.Fact{}, facts...), fact("o", "order/o", 1, &note{Add: 100}), fact("o", "order/o", 2, &note{Add: 200}))
	same(t, memory(t, want...), s.viewRows())
}

func TestGapFilledByALateFact(t *testing.T) {
	facts := []event.Fact{fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, &note{Add: 2}), fact("o", "order/o", 3, &note{Add: 4})}
	s := fresh(t, withJournal(journalOf(facts...)))
	l := newTopics()
	s.handle(l.facts(facts[0], facts[2], facts[1])...)
	s.heal()
	if gaps, parked := s.waiting(); gaps != 0 || parked != 0 {
		t.Fatalf("%d gaps, %d facts parked", gaps, parked)
	}
	same(t, memory(t, facts...), s.viewRows())
}

// One payment of an order parks, the other applies, the first heals, with any
// interleaving: the rows are those of the facts in order.
func TestTwoPaymentsOfOneOrder(t *testing.T) {
	run := 0
	journal := journalOf()
	s := fresh(t, withJournal(journal))
	l := newTopics()
	rapid.Check(t, func(r *rapid.T) {
		run++
		order := fmt.Sprintf("o%d", run)
		a, b := fmt.Sprintf("payment/a%d", run), fmt.Sprintf("payment/b%d", run)
		var all []event.Fact
		var sides [2][]event.Fact
		for i, aggregate := range []string{a, b} {
			for v := range int64(6) {
				n := &note{Add: rapid.Int64Range(-3, 3).Draw(r, "add"), Text: rapid.SampledFrom([]string{"", "held", "paid"}).Draw(r, "text")}
				sides[i] = append(sides[i], fact(order, aggregate, v+1, n))
			}
			all = append(all, sides[i]...)
		}
		journal.add(all...)
		lost := rapid.IntRange(0, 4).Draw(r, "lost")
		for len(sides[0])+len(sides[1]) > 0 {
			i := rapid.IntRange(0, 1).Draw(r, "side")
			if len(sides[i]) == 0 {
				i = 1 - i
			}
			f := sides[i][0]
			sides[i] = sides[i][1:]
			if i == 0 && f.Version == int64(lost)+1 {
				continue
			}
			s.handle(l.facts(f)...)
			if rapid.IntRange(0, 3).Draw(r, "heal") == 0 {
				s.heal()
			}
		}
		s.heal()
		if gaps, parked := s.waiting(); gaps != 0 || parked != 0 {
			r.Fatalf("%d gaps, %d facts parked", gaps, parked)
		}
		got := s.query("SELECT part, amount, text FROM @parts WHERE order_id = $1 ORDER BY part", order)
		var want []map[string]any
		for _, row := range memory(t, all...)["parts"] {
			want = append(want, map[string]any{"part": row["part"], "amount": row["amount"], "text": row["text"]})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			r.Fatalf("rows (-want +got):\n%s", diff)
		}
	})
}

func TestHealingStopsAtPoison(t *testing.T) {
	bad := fact("o", "order/o", 3, &note{Text: "burst"})
	facts := []event.Fact{fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, &note{Add: 2}), bad, fact("o", "order/o", 4, &note{Add: 8})}
	s := fresh(t, withJournal(journalOf(facts...)))
	l := newTopics()
	s.handle(l.facts(facts[0], facts[3])...)
	s.heal()
	if diff := cmp.Diff([]map[string]any{{"verdict": "poison"}}, s.query("SELECT verdict FROM @quarantine")); diff != "" {
		t.Errorf("quarantine (-want +got):\n%s", diff)
	}
	same(t, memory(t, facts[:2]...), s.viewRows())
	if _, parked := s.waiting(); parked != 2 {
		t.Errorf("%d facts parked, want versions 3 and 4", parked)
	}
}

func TestInfrastructureErrorsNeverPark(t *testing.T) {
	journal := journalOf()
	journal.err = errDown
	s := fresh(t, withJournal(journal))
	l := newTopics()
	s.handle(l.facts(fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 3, &note{Add: 4}))...)
	s.heal()
	if q := s.query("SELECT verdict, attempts FROM @quarantine"); len(q) != 1 || q[0]["verdict"] != "gap" || q[0]["attempts"] != int32(1) {
		t.Errorf("quarantine: %v", q)
	}
	for _, code := range []string{"40001", "25006", "53100", "08006", "58030"} {
		s.exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '` + code + `'; END $$;
			CREATE TRIGGER fail AFTER INSERT OR UPDATE ON parts FOR EACH STATEMENT EXECUTE FUNCTION fail()`)
		records := l.facts(fact("p"+code, "order/p"+code, 1, &note{Add: 1}))
		if err := s.Handle(t.Context(), 0, records); err == nil {
			t.Errorf("%s: the batch passed", code)
		}
		s.exec("DROP FUNCTION fail CASCADE")
		s.handle(records...)
	}
	if gaps, parked := s.waiting(); gaps != 1 || parked != 1 {
		t.Errorf("%d gaps, %d facts parked, want only the gap", gaps, parked)
	}
}
