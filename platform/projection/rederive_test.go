package projection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// shownOtherwise is version 2 of the view, which remembers what version 1 does and
// shows it otherwise.
func shownOtherwise(_ *projection.Config, v *fold.View[tally]) {
	v.Version, v.FoldVersion = 2, 1
	v.Expected = []fold.Expected{{Table: "parts"}}
	v.Tables = []fold.Table[tally]{
		fold.Rows("parts", func(order string, s *tally, put func(partRow)) {
			for id, p := range s.Parts {
				put(partRow{OrderID: order, Part: id, Amount: 2 * p.Amount, Doc: fmt.Sprintf(`{"pieces":%d}`, len(s.Parts))})
			}
		}),
		fold.Sums("texts", func(_ string, s *tally, add func(textSum)) {
			for _, p := range s.Parts {
				add(textSum{strings.ToUpper(p.Text), 1, -p.Amount})
			}
		}),
	}
}

// fromFacts is the same version, which is not allowed to take anything over.
func fromFacts(c *projection.Config, v *fold.View[tally]) {
	shownOtherwise(c, v)
	v.FoldVersion = 2
}

// noFacts fails the test if the logs are scanned.
func noFacts(t *testing.T) tweak {
	return func(c *projection.Config, _ *fold.View[tally]) {
		c.Scan = func(context.Context, int32, map[string]consumer.Bounds, func(map[string]string, []consumer.Record) error) error {
			t.Error("facts are read")
			return errDown
		}
	}
}

// rederive opens version 2 beside version 1 and has it take over what that one
// remembers.
func (s *subject) rederive(tweaks ...tweak) *subject {
	s.t.Helper()
	next := open(s.t, s.url, append([]tweak{shownOtherwise, noFacts(s.t)}, tweaks...)...)
	next.boundsAre(*s.logs.Load())
	if err := next.Bulk(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return next
}

// contents is everything but who parked a fact: what was taken over was parked by
// the older version.
func (s *subject) contents() map[string][]string {
	s.t.Helper()
	s.exec("UPDATE parked SET code_version = 1")
	return s.whole()
}

func (s *subject) derivedFrom() any {
	s.t.Helper()
	return s.query("SELECT derived_from FROM tidemark.generation WHERE schema = $1", s.schema())[0]["derived_from"]
}

// What was derived from the states of another generation, and followed from there,
// is what comes of reading every fact; and no fact before that is read.
func TestRederivedIsWhatFactsComeTo(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := &storyteller{Rand: rand.New(rand.NewPCG(seed, 30)), l: newTopics(), versions: map[string]int64{}, epoch: map[string]string{"order": epoch1, "payment": epoch1}}
			records := d.tell(160)
			before := len(records) - d.IntN(60)
			want := fresh(t, fromFacts)
			want.handle(records...)
			base := fresh(t)
			base.handle(records[:before]...)
			if n := base.query("SELECT count(*) AS n FROM @parked")[0]["n"]; n == int64(0) {
				t.Error("nothing was parked: the log is too tame")
			}
			books := "SELECT books - 'r' AS books, offsets, topic_ids FROM @position"
			booked := base.query(books)
			// The early part of the topics is gone.
			began := bounds{}
			for topic := range d.l.offsets {
				began[topic] = map[int32]consumer.Bounds{0: {}}
			}
			for _, r := range records[:before] {
				began[r.Topic] = map[int32]consumer.Bounds{0: {Start: r.Offset + 1, End: r.Offset + 1}}
			}
			base.boundsAre(began)
			next := base.rederive()
			if got := next.derivedFrom(); got != base.schema() {
				t.Fatalf("it was derived from %q", got)
			}
			if diff := cmp.Diff(booked, next.query(books)); diff != "" {
				t.Errorf("positions and totals (-taken over +derived):\n%s", diff)
			}
			at := next.claim()
			for topic, log := range began {
				if at[topic] != log[0].Start {
					t.Errorf("topic %s is read from offset %d, want %d", topic, at[topic], log[0].Start)
				}
			}
			next.handle(records[before:]...)
			if diff := cmp.Diff(want.contents(), next.contents()); diff != "" {
				t.Fatalf("(-from facts +derived):\n%s", diff)
			}
		})
	}
}

// A partition is taken over with what is its own, and with nothing of another one.
func TestRederivesPartitionByPartition(t *testing.T) {
	two := func(c *projection.Config, _ *fold.View[tally]) { c.Kafka.Partitions = 2 }
	logs, records := [2]*topics{newTopics(), newTopics()}, [2][]consumer.Record{}
	for i := range 1300 { // more than two pages
		for _, f := range about(fmt.Sprintf("o%d", i), 1, 2) {
			number := event.PartitionOf(f.Key, 2)
			for _, r := range logs[number].facts(f) {
				r.Partition = number
				records[number] = append(records[number], r)
			}
		}
	}
	read := func(s *subject, from int) {
		for number := range records {
			if _, err := s.Claim(t.Context(), int32(number), topicIDs); err != nil {
				t.Fatal(err)
			}
			if err := s.Handle(t.Context(), int32(number), records[number][from:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := open(t, testkit.UsedURL(t), two, fromFacts)
	read(want, 0)
	base := open(t, testkit.UsedURL(t), two)
	read(base, 0)
	if err := base.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := open(t, base.url, two, shownOtherwise, noFacts(t))
	shown := int64(-1)
	next.Before("bulk index", func() {
		r, err := next.Operators().ListGenerations(t.Context(), &readmodelv1.ListGenerationsRequest{})
		if err != nil {
			t.Error(err)
		}
		for _, g := range r.GetGenerations() {
			if g.GetDerivedFrom() == base.Generation() {
				shown = g.GetDerived()
			}
		}
	})
	if err := next.Bulk(t.Context()); err != nil {
		t.Fatal(err)
	}
	if shown != 1300 {
		t.Errorf("%d orders are shown as derived from %s, want 1300", shown, base.Generation())
	}
	read(next, len(records[0])/2) // again, and nothing is new
	if diff := cmp.Diff(want.contents(), next.contents()); diff != "" {
		t.Fatalf("(-from facts +derived):\n%s", diff)
	}
}

// A process that is killed wherever it is leaves what the next one goes on with.
func TestRederivingIsKilled(t *testing.T) {
	l := newTopics()
	var records []consumer.Record
	for i := range 30 {
		records = append(records, l.facts(about(fmt.Sprintf("o%d", i), 1, 3)...)...)
	}
	records = append(records, l.facts(fact("gap", "payment/gap", 2, nil))...)
	want := fresh(t, fromFacts)
	want.handle(records...)
	contents := want.contents()
	for _, place := range []string{
		"derive state", "derive member", "derive quarantine", "derive parked", "derive source_mark", "derive notes", "derive rows",
		"bulk pass", "bulk index", "bulk end",
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			base := fresh(t)
			base.handle(records...)
			killed := open(t, base.url, shownOtherwise, noFacts(t))
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			killed.Failing(func(at string) error {
				if at == place {
					kill()
					return errors.New("killed")
				}
				return nil
			})
			if err := killed.Bulk(ctx); !errors.Is(err, context.Canceled) {
				t.Fatalf("it was not killed: %v", err)
			}
			if n := killed.query("SELECT count(*) AS n FROM @position WHERE offsets <> '{}'")[0]["n"]; n != int64(0) {
				t.Errorf("%v positions have moved", n)
			}
			next := base.rederive()
			next.claim()
			next.handle(records...)
			if diff := cmp.Diff(contents, next.contents()); diff != "" {
				t.Fatalf("(-not killed +killed):\n%s", diff)
			}
		})
	}
}

// The generation whose states are taken over goes on meanwhile. What is taken over
// is of one instant, and what came after it comes the ordinary way.
func TestFactsRaceRederiving(t *testing.T) {
	for _, place := range []string{"derive begins", "derive state", "derive source_mark", "derive rows"} {
		t.Run(place, func(t *testing.T) {
			l := newTopics()
			records := l.facts(append(about("o", 1, 2), about("p", 1, 1)...)...)
			early := len(records)
			records = append(records, l.facts(append(about("o", 3, 4), about("q", 1, 2)...)...)...)
			records = append(records, l.facts(fact("p", "payment/late", 2, nil))...)
			want := fresh(t, fromFacts)
			want.handle(records...)
			base := fresh(t)
			base.handle(records[:early]...)
			next := open(t, base.url, shownOtherwise, noFacts(t))
			next.Before(place, func() { base.handle(records[early:]...) })
			if err := next.Bulk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if at := next.claim()[kafka.TopicOrder]; at != int64(early) {
				t.Errorf("it goes on at offset %d, want %d", at, early)
			}
			next.handle(records...)
			if diff := cmp.Diff(want.contents(), next.contents()); diff != "" {
				t.Fatalf("(-from facts +derived):\n%s", diff)
			}
		})
	}
}

// What operators and owners changed beside the topics is taken over: facts that
// were skipped, orders that are no more.
func TestRederivedKeepsWhatWasDoneByHand(t *testing.T) {
	w := newWard(t)
	facts := append(broken("o"), append(about("other", 1, 2), about("gone", 1, 2)...)...)
	w.handle(w.from.send(facts...)...)
	if _, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{
		Aggregate: named("order", "o"), EventId: facts[1].ID, Reason: "a typing error of 2019", Actor: "operator:ana",
	}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	kept := w.from.journal.facts[:0:0]
	for _, f := range w.from.journal.facts {
		if f.Key != "gone" {
			kept = append(kept, f)
		}
	}
	w.from.journal.restore(kept...)
	if err := w.Refold(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	next := w.rederive(withJournal(w.from.journal))
	for _, table := range []string{"state", "member", "notes", "mark", "parked", "quarantine"} {
		if diff := cmp.Diff(w.whole()[table], next.whole()[table]); diff != "" {
			t.Errorf("table %s (-taken over +derived):\n%s", table, diff)
		}
	}
	if n := next.query("SELECT count(*) AS n FROM @parts WHERE order_id = 'gone'")[0]["n"]; n != int64(0) {
		t.Error("an order that is no more came back")
	}
}

// States are taken over only from what is complete, remembers the same, and has
// logs of the same shape; anything else is built from facts.
func TestWhatIsNotTakenOver(t *testing.T) {
	l := newTopics()
	records := l.facts(append(about("o", 1, 3), about("p", 1, 3)...)...)
	tests := []struct {
		name      string
		given     func(base *subject) // after it read everything
		tweak     tweak
		begun     bool // it shows only when it was begun
		meanwhile bool // given happens to one that was begun
	}{
		{name: "another fold", tweak: fromFacts},
		{name: "another fold than it folds as", tweak: func(_ *projection.Config, v *fold.View[tally]) { v.Version, v.FoldVersion = 3, 2 }},
		{name: "half built", given: func(base *subject) {
			base.exec("UPDATE tidemark.generation SET status = 'BUILDING' WHERE version = 1; DELETE FROM tidemark.pointer")
		}},
		{name: "nobody follows it", given: func(base *subject) {
			base.exec("UPDATE tidemark.generation SET status = 'READY', followed_at = now() - interval '1 hour' WHERE version = 1; DELETE FROM tidemark.pointer")
		}},
		{name: "a log of another shape", given: func(base *subject) { base.exec("ALTER TABLE notes ADD COLUMN more text") }},
		{name: "a log column of another type", given: func(base *subject) { base.exec("ALTER TABLE notes ALTER COLUMN ordinal TYPE bigint") }},
		{name: "no such log", given: func(base *subject) { base.exec("DROP TABLE notes") }},
		{name: "another topic", given: func(base *subject) {
			base.exec(`UPDATE position SET topic_ids = topic_ids || '{"tidemark.shipment.events": "id"}'`)
		}},
		{name: "a topic less", given: func(base *subject) {
			base.exec(`UPDATE position SET topic_ids = topic_ids - 'tidemark.payment.events'`)
		}},
		{name: "a state of another type", begun: true, given: func(base *subject) {
			base.exec(`UPDATE state SET state = '{"Parts":{},"More":1}' WHERE order_id = 'p'`)
		}},
		{name: "a state that is no state", begun: true, given: func(base *subject) { base.exec(`UPDATE state SET state = '[]' WHERE order_id = 'p'`) }},
		{name: "rows that cannot be derived", begun: true, tweak: func(c *projection.Config, v *fold.View[tally]) {
			v.Tables[0] = fold.Rows("parts", func(order string, s *tally, put func(partRow)) {
				if p := s.Parts["order/o"]; p.Amount == 14 && !p.Last.IsZero() {
					panic("three notes")
				}
			})
		}},
		{name: "dropped meanwhile", meanwhile: true, given: func(base *subject) { base.exec("DROP SCHEMA " + base.schema() + " CASCADE") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base := fresh(t)
			base.handle(records...)
			if tt.tweak == nil {
				tt.tweak = func(*projection.Config, *fold.View[tally]) {}
			}
			log := &scanned{records: records}
			next := open(t, base.url, shownOtherwise, tt.tweak, func(c *projection.Config, _ *fold.View[tally]) {
				c.Scan, c.Generations.BulkAbove = log.scan, 1
			})
			next.barrier(records)
			begun := false
			if tt.meanwhile { // a process that is killed has begun
				ctx, kill := context.WithCancel(t.Context())
				defer kill()
				next.Failing(func(string) error { kill(); return errDown })
				if err := next.Bulk(ctx); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
			if tt.given != nil {
				tt.given(base)
			}
			next.Failing(func(at string) error {
				begun = begun || at == "derive state"
				return nil
			})
			if err := next.Bulk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if log.scans == 0 {
				t.Error("no facts were read")
			}
			if begun != tt.begun {
				t.Errorf("taking over was begun: %t, want %t", begun, tt.begun)
			}
			if got := next.derivedFrom(); got != nil && got != "" {
				t.Errorf("derived from %v", got)
			}
			next.claim()
			next.handle(records...)
			if tt.name == "rows that cannot be derived" {
				if n := next.query("SELECT count(*) AS n FROM @quarantine")[0]["n"]; n != int64(1) {
					t.Errorf("%v aggregates are parked", n)
				}
				return
			}
			want := fresh(t, fromFacts, func(_ *projection.Config, v *fold.View[tally]) {
				if tt.tweak != nil && strings.HasPrefix(next.Generation(), "tally/3") {
					v.Version = 3
				}
			})
			want.handle(records...)
			if diff := cmp.Diff(want.contents(), next.contents()); diff != "" {
				t.Fatalf("(-from facts +built):\n%s", diff)
			}
		})
	}
}
