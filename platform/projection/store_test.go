package projection_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

func TestStoredRowsAreThoseOfTheReference(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	run := 0
	var all []event.Fact
	rapid.Check(t, func(r *rapid.T) {
		run++
		aggregates := histories(r)
		for _, facts := range aggregates {
			for i := range facts { // other orders in every run
				facts[i].Key = fmt.Sprintf("%s-%d", facts[i].Key, run)
				facts[i].Aggregate.ID = fmt.Sprintf("%s-%d", facts[i].Aggregate.ID, run)
			}
			all = append(all, facts...)
		}
		for _, batch := range conformance.Shuffle(r, aggregates) {
			s.handle(l.facts(batch...)...)
		}
	})
	same(t, memory(t, all...), s.viewRows())
}

// batch is one that writes to every table there is.
func batch(l *topics) []consumer.Record {
	records := l.facts(
		fact("o", "order/o", 1, &note{Add: 1, Text: "held"}), fact("o", "payment/a", 1, &note{Add: 2}),
		fact("o", "payment/a", 3, &note{Add: 4}), fact("p", "order/p", 1, &note{Add: 8, Text: "gone"}),
	)
	return append(records,
		l.put(kafka.TopicPayment, nil, []byte("x"), nil),
		l.totals(control.ControlRecord{Source: "order", Epoch: epoch1, Number: 1, Term: 1, AsOf: dawn, DataEndOffset: -1}))
}

func TestCrashBetweenAnyTwoWrites(t *testing.T) {
	reference := fresh(t)
	before := func(s *subject, l *topics) []consumer.Record {
		s.handle(l.facts(fact("o", "payment/b", 1, &note{Add: 16, Text: "held"}), fact("p", "payment/c", 1, &note{Text: "paid"}))...)
		return batch(l)
	}
	reference.handle(before(reference, newTopics())...)
	want := reference.everything()
	for _, table := range []string{"state", "member", "parts", "texts", "notes", "parked", "quarantine", "source_mark", "position"} {
		for _, crash := range []struct{ name, sql string }{
			{"statement fails", "RAISE EXCEPTION 'crash' USING ERRCODE = '58030'"},
			{"connection dies", "PERFORM pg_terminate_backend(pg_backend_pid())"},
		} {
			t.Run(table+"/"+crash.name, func(t *testing.T) {
				s := fresh(t)
				records := before(s, newTopics())
				start := s.everything()
				s.exec(`CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + crash.sql + `; RETURN NULL; END $$;
					CREATE TRIGGER crash AFTER INSERT OR UPDATE ON ` + table + ` FOR EACH STATEMENT EXECUTE FUNCTION crash()`)
				if err := s.Handle(t.Context(), 0, records); err == nil {
					t.Fatal("the batch passed although a write failed")
				}
				if diff := cmp.Diff(start, s.everything()); diff != "" {
					t.Fatalf("a failed batch left something (-before +after):\n%s", diff)
				}
				s.exec("DROP FUNCTION crash CASCADE")
				s.handle(records...)
				if diff := cmp.Diff(want, s.everything()); diff != "" {
					t.Fatalf("the repeated batch (-want +got):\n%s", diff)
				}
				s.handle(records...) // its commit's answer was lost
				if diff := cmp.Diff(want, s.everything()); diff != "" {
					t.Fatalf("the batch once more (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestColdStartsOnOnePosition(t *testing.T) {
	url := testkit.UsedURL(t)
	l := newTopics()
	facts := []event.Fact{fact("o", "order/o", 1, &note{Add: 1}), fact("o", "payment/a", 1, &note{Add: 2}), fact("o", "order/o", 2, &note{Add: 4})}
	records := l.facts(facts...)
	var subjects []*subject
	for range 32 {
		subjects = append(subjects, nil)
	}
	var wg sync.WaitGroup
	for i := range subjects {
		wg.Go(func() {
			subjects[i] = open(t, url)
		})
	}
	wg.Wait()
	errs := make([]error, len(subjects))
	for i, s := range subjects {
		wg.Go(func() {
			if _, errs[i] = s.Claim(t.Context(), 0, topicIDs); errs[i] == nil {
				errs[i] = s.Handle(t.Context(), 0, records)
			}
		})
	}
	wg.Wait()
	passed := 0
	for _, err := range errs {
		switch {
		case err == nil:
			passed++
		case !errors.Is(err, consumer.ErrFenced):
			t.Error(err)
		}
	}
	if passed == 0 {
		t.Error("nobody got through")
	}
	same(t, memory(t, facts...), subjects[0].viewRows())
}

// Two members that hold the same partition number of different topics, as other
// assignors than range have it, fold one order that does not exist yet: the
// position row lets one of them through at a time, and none with an old state.
func TestTheSamePartitionNumberOfTwoTopicsHasOneOwner(t *testing.T) {
	ofOrders := fresh(t)
	ofPayments := open(t, ofOrders.url)
	placed, paid := fact("o", "order/o", 1, &note{Add: 1}), fact("o", "payment/a", 1, &note{Add: 2})
	l := newTopics()
	orderRecords, paymentRecords := l.facts(placed), l.facts(paid)
	ofPayments.claim()
	if err := ofOrders.Handle(t.Context(), 0, orderRecords); !errors.Is(err, consumer.ErrFenced) {
		t.Fatalf("both members wrote: %v", err)
	}
	ofPayments.handle(paymentRecords...)
	ofOrders.claim()
	ofOrders.handle(orderRecords...)
	if err := ofPayments.Handle(t.Context(), 0, l.facts(fact("o", "payment/a", 2, nil))); !errors.Is(err, consumer.ErrFenced) {
		t.Fatalf("both members wrote: %v", err)
	}
	same(t, memory(t, placed, paid), ofOrders.viewRows())
}

func TestZombieIsFenced(t *testing.T) {
	old := fresh(t)
	l := newTopics()
	old.handle(l.facts(fact("o", "order/o", 1, &note{Add: 1}))...)
	owner := open(t, old.url)
	if got := owner.claim()[kafka.TopicOrder]; got != 1 {
		t.Errorf("the new owner starts at %d, want 1", got)
	}
	late := l.facts(fact("o", "order/o", 2, &note{Add: 2}))
	before := old.everything()
	if err := old.Handle(t.Context(), 0, late); !errors.Is(err, consumer.ErrFenced) {
		t.Errorf("Handle of a fenced owner = %v, want ErrFenced", err)
	}
	if diff := cmp.Diff(before, old.everything()); diff != "" {
		t.Errorf("a fenced owner wrote:\n%s", diff)
	}
	owner.handle(late...)
	old.claim() // it has the partition back, with a state in memory that is old
	last := fact("o", "order/o", 3, &note{Add: 4})
	old.handle(l.facts(last)...)
	same(t, memory(t, fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, &note{Add: 2}), last), old.viewRows())
}

func TestFullRedelivery(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	var facts []event.Fact
	for v := range int64(40) {
		facts = append(facts, fact("o", "order/o", v+1, &note{Add: 1, Text: "held"}), fact("o", "payment/a", v+1, &note{Add: 2}))
	}
	records := l.facts(facts...)
	s.handle(records...)
	s.exec("UPDATE position SET offsets = '{}'")
	s.claim()
	s.handle(records...)
	same(t, memory(t, facts...), s.viewRows())
	if n := len(s.query("SELECT 1 FROM @parked")); n != 0 {
		t.Errorf("%d facts parked", n)
	}
}

func TestRedeliveryNeverMovesThePositionBack(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	early := append(l.facts(fact("o", "order/o", 1, &note{Add: 1})), l.totals(control.ControlRecord{Source: "order", Epoch: epoch1, Number: 1, Term: 1, AsOf: dawn, DataEndOffset: -1}))
	s.handle(early...)
	s.handle(l.facts(fact("o", "order/o", 2, &note{Add: 2}))...)
	before := s.everything()
	s.handle(early...)
	if diff := cmp.Diff(before, s.everything()); diff != "" {
		t.Errorf("records before the position changed something (-before +after):\n%s", diff)
	}
}

func TestPoisonParksItsAggregateOnly(t *testing.T) {
	good := []event.Fact{
		fact("o", "order/o", 1, &note{Add: 1}), fact("o", "payment/a", 1, &note{Add: 2}), fact("p", "order/p", 1, &note{Add: 4}),
		fact("o", "order/o", 2, &note{Add: 8}), fact("p", "order/p", 2, &note{Add: 16, Text: "held"}),
	}
	bad := fact("o", "payment/a", 2, &note{Add: 32})
	after := fact("o", "payment/a", 3, &note{Add: 64})
	tests := []struct {
		name   string
		spoil  func(r *consumer.Record)
		parked int // references in all
		named  bool
	}{
		{name: "bytes that do not decode", spoil: func(r *consumer.Record) { r.Value = []byte("{") }, parked: 2, named: true},
		{name: "a fold that panics", spoil: func(r *consumer.Record) { r.Value = []byte(`{"text":"burst"}`) }, parked: 2, named: true},
		{name: "rows that the database refuses", spoil: func(r *consumer.Record) { r.Value = []byte(`{"text":"bad json"}`) }, parked: 2, named: true},
		{name: "no value", spoil: func(r *consumer.Record) { r.Value = nil }, parked: 2, named: true},
		// What names no fact blocks nobody; the fact that is missing shows as a gap.
		{name: "no headers", spoil: func(r *consumer.Record) { r.Headers = nil }, parked: 2},
		{name: "another key than its headers say", spoil: func(r *consumer.Record) { r.Key = []byte("p") }, parked: 2},
		{name: "a source that does not own the topic", spoil: func(r *consumer.Record) {
			e := bad.Envelope
			e.Source = "order"
			r.Headers = e.Headers()
		}, parked: 2},
		{name: "an id as long as a book", spoil: func(r *consumer.Record) {
			e := bad.Envelope
			e.ID = string(make([]byte, 0))
			for range 900 {
				e.ID += "x"
			}
			r.Headers = e.Headers()
		}, parked: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := fresh(t)
			l := newTopics()
			records := l.facts(good[:2]...)
			spoiled := l.facts(bad)[0]
			tt.spoil(&spoiled)
			records = append(records, spoiled)
			records = append(records, l.facts(good[2], after, good[3], good[4])...)
			s.handle(records[:4]...)
			s.handle(records[4:]...)
			same(t, memory(t, good...), s.viewRows())
			if n := len(s.query("SELECT 1 FROM @parked")); n != tt.parked {
				t.Errorf("%d references parked, want %d: %v", n, tt.parked, s.query("SELECT reference, verdict, reason FROM @parked"))
			}
			q := s.query("SELECT aggregate_id, verdict FROM @quarantine")
			want := []map[string]any{{"aggregate_id": "a", "verdict": "gap"}}
			if tt.named {
				want[0]["verdict"] = "poison"
			}
			if diff := cmp.Diff(want, q); diff != "" {
				t.Errorf("quarantine (-want +got):\n%s", diff)
			}
		})
	}
}
