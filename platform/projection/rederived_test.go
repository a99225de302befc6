package projection_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A generation that took states over remembers what the one it took them from
// does, and so does one whose kernel did not note what it remembers.
func TestAThirdVersionTakesOverFromTheSecond(t *testing.T) {
	l := newTopics()
	base := fresh(t)
	base.handle(l.facts(append(about("o", 1, 3), about("p", 1, 2)...)...)...)
	base.exec("UPDATE tidemark.generation SET remembers = ''")
	second := base.rederive()
	if err := second.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := second.rederive(func(_ *projection.Config, v *fold.View[tally]) { v.Version = 3 })
	for i, s := range []*subject{base, second} {
		if got := []*subject{second, third}[i].derivedFrom(); got != s.schema() {
			t.Errorf("version %d was derived from %v", i+2, got)
		}
	}
	if diff := cmp.Diff(second.viewRows(), third.viewRows()); diff != "" {
		t.Errorf("(-second +third):\n%s", diff)
	}
}

// An operator's rebuild is for whoever does not trust the copy: it reads facts.
func TestARebuildReadsFacts(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	old := at.process()
	at.read(old.Projection)
	old.look()
	next := at.process(shownOtherwise)
	if err := next.Bulk(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.look()
	next.operates()
	_, name := next.rebuild()
	built := next.Beside(name)
	if err := built.Bulk(t.Context()); err != nil {
		t.Fatal(err)
	}
	offsets, err := built.Claim(t.Context(), 0, topicIDs)
	if err != nil || offsets[kafka.TopicOrder] != 0 {
		t.Errorf("a rebuild begins at %v, %v", offsets, err)
	}
}

// What was taken over stands still while something holds the reader, follows, and
// goes through the gate like any other generation.
func TestARederivedGenerationIsSwappedTo(t *testing.T) {
	at := newSite(t)
	at.send(orders(20)...)
	old := at.process()
	at.read(old.Projection)
	old.look()
	next := at.process(shownOtherwise, noFacts(t))
	stood, done := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	next.Failing(func(place string) error {
		switch place {
		case "derive state":
			next.Brake("an operator paused it")
		case "derive stands":
			once.Do(func() { close(stood) })
		}
		return nil
	})
	go func() { done <- next.Bulk(t.Context()) }()
	<-stood
	next.Brake("")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	next.look()
	if diff := cmp.Diff(map[string]string{old.Generation(): "SERVING", next.Generation(): "READY"}, next.states()); diff != "" {
		t.Fatalf("states (-want +got):\n%s", diff)
	}
	more := append(at.order.send(fact("o1", "order/o1", 2, &note{Add: 5})), at.order.control())
	at.read(old.Projection, more...)
	at.read(next.Projection, more...)
	next.operates()
	report, err := next.swap("")
	if err != nil {
		t.Fatal(err, report)
	}
	if report.GetOrdersCompared() != 20 {
		t.Errorf("compared %v", report)
	}
	if got, generation := next.amount("o1"); got != 12 || generation != next.Generation() {
		t.Errorf("%s answers %d", generation, got)
	}
}

// A fold that is another one than its author says is not noticed by comparing what
// was taken over with where it came from. The gate asks the owners.
func TestAFoldThatIsAnotherOneIsRefused(t *testing.T) {
	for name, tweak := range map[string]tweak{
		"fold": buggy,
		"log": func(_ *projection.Config, v *fold.View[tally]) {
			v.Logs = []fold.LogTable{fold.Log("notes", func(f event.Fact, put func(noteLog)) { put(noteLog{"x", f.OccurredAt}) })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := newSite(t)
			at.send(orders(20)...)
			old := at.process()
			at.read(old.Projection)
			old.look()
			next := at.process(tweak, func(_ *projection.Config, v *fold.View[tally]) { v.Version, v.FoldVersion = 2, 1 }, noFacts(t))
			if err := next.Bulk(t.Context()); err != nil {
				t.Fatal(err)
			}
			next.claim()
			next.look()
			next.operates()
			report, err := next.swap("")
			if fault.ReasonOf(err) != projection.ReasonGateRefused || !violations(report)["DERIVED"] {
				t.Fatalf("the swap to a fold that is another one: %v, %v", err, report)
			}
		})
	}
}

// Owners that do not answer are waited for while another version answers, and not
// if nobody does.
func TestOwnersThatDoNotAnswerAboutWhatWasTakenOver(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	old := at.process()
	at.read(old.Projection)
	old.look()
	next := at.process(shownOtherwise, noFacts(t))
	if err := next.Bulk(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.claim()
	next.look()
	stop := next.operates()
	at.journal.mu.Lock()
	at.journal.err = errDown
	at.journal.mu.Unlock()
	if report, err := next.swap(""); fault.ReasonOf(err) != projection.ReasonGateRefused || !violations(report)["DERIVED"] {
		t.Fatalf("the swap: %v, %v", err, report)
	}
	stop()
	next.exec("UPDATE tidemark.generation SET followed_at = NULL WHERE version = 1")
	next.until("it answers", func() bool { return next.states()[next.Generation()] == "SERVING" })
}
