package projection_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

func TestASkipGivesOneFactUpAndTheOthersFollowInOrder(t *testing.T) {
	w := newWard(t)
	facts := append(broken("o"), about("other", 1, 2)...)
	w.handle(w.from.send(facts...)...)
	before := w.everything()
	request := func(event string, dry bool) *readmodelv1.SkipParkedRequest {
		return &readmodelv1.SkipParkedRequest{
			Aggregate: named("order", "o"), EventId: event, Reason: "a typing error of 2019", Actor: "operator:ana", DryRun: dry,
		}
	}
	if _, err := w.SkipParked(t.Context(), request(facts[2].ID, false)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("skip a fact that is not first: %v", err)
	}
	if _, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{Aggregate: named("order", "o"), EventId: facts[1].ID, Actor: "a"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("skip without a reason: %v", err)
	}
	got, err := w.SkipParked(t.Context(), request(facts[1].ID, true))
	if err != nil || got.GetBehind() != 2 || got.GetAggregate().GetVersion() != 2 {
		t.Errorf("dry run: %v, %v", got, err)
	}
	if after := w.everything(); after != before || len(w.query("SELECT 1 FROM tidemark.skip")) > 0 {
		t.Errorf("a dry run or a refusal changed something (-before +after):\n%s", cmp.Diff(before, after))
	}

	unread, err := w.read(nil, "o")
	if err != nil || skippedOf(unread) != 0 {
		t.Errorf("before it is skipped an answer says %v, %v", unread, err)
	}
	if _, err := w.SkipParked(t.Context(), request(facts[1].ID, false)); err != nil {
		t.Fatal(err)
	}
	w.heal()
	for order, want := range map[string]int64{"o": 1, "other": 0} {
		if f, err := w.read(nil, order); err != nil || skippedOf(f) != want {
			t.Errorf("an answer about %s says %v, %v, want %d skipped", order, f, err, want)
		}
	}
	void := append([]event.Fact(nil), facts...)
	void[1].Body = &skip{}
	same(t, memory(t, void...), w.viewRows())
	if holds, parked := w.waiting(); holds+parked != 0 {
		t.Errorf("%d aggregates and %d facts still wait", holds, parked)
	}
	// Delivered again it is a duplicate, and totals count it once.
	w.handle(append(append(w.from.l.facts(facts[1]), w.from.send(about("o", 5, 5)...)...), w.from.control())...)
	w.is(isProven)
	if holds, _ := w.waiting(); holds != 0 {
		t.Error("the skipped fact parked again")
	}

	list, err := w.ListSkipped(t.Context(), &readmodelv1.ListSkippedRequest{})
	if err != nil || len(list.GetSkipped()) != 1 {
		t.Fatalf("skipped %v, %v", list, err)
	}
	want := &readmodelv1.SkippedFact{
		AggregateType: "order", AggregateId: "o", OrderId: "o", Version: 2, EventId: facts[1].ID, Reason: "a typing error of 2019", Actor: "operator:ana",
		Fault: "view tally panicked: burst", Generation: w.Generation(),
	}
	if diff := cmp.Diff(want, list.GetSkipped()[0], protocmp.Transform(), protocmp.IgnoreFields(want, "skipped_at")); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}
}

// skippedOf is how many facts an answer says it is without.
func skippedOf(f *freshnessv1.Freshness) (n int64) {
	for _, v := range f.GetEntityVersions() {
		n += v.GetSkipped()
	}
	return n
}

func TestASkipHoldsForAnotherGenerationAndAfterARefold(t *testing.T) {
	w := newWard(t)
	facts := broken("o")
	w.handle(w.from.send(facts...)...)
	if _, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{
		Aggregate: named("order", "o"), EventId: facts[1].ID, Reason: "r", Actor: "a",
	}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	void := append([]event.Fact(nil), facts...)
	void[1].Body = &skip{}
	want := memory(t, void...)
	same(t, want, w.viewRows())

	settle := func(s *subject) {
		t.Helper()
		if err := s.HonourSkips(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.heal()
		same(t, want, s.viewRows())
		if holds, parked := s.waiting(); holds+parked != 0 {
			t.Errorf("%d aggregates and %d facts still wait", holds, parked)
		}
		if got := s.query("SELECT (applied -> 'a' -> 'order/o' ->> 'k')::bigint AS k FROM @state")[0]["k"]; got != int64(1) {
			t.Errorf("readers are told of %v skipped facts, want 1", got)
		}
	}
	if err := w.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	if holds, _ := w.waiting(); holds != 1 {
		t.Fatal("refolded, the fact did not park: nothing is tested")
	}
	settle(w.subject)

	next := open(t, w.url, withJournal(w.from.journal), w.mend, func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 })
	next.claim()
	next.handle(newTopics().facts(facts...)...)
	if holds, parked := next.waiting(); holds != 1 || parked != 3 {
		t.Fatalf("%d aggregates and %d facts wait in the next generation, want 1 and 3", holds, parked)
	}
	settle(next)

	// Code that can apply the fact never parks it, and applies it; an answer with it
	// is not the one without it, although the versions are the same.
	without, err := w.read(nil, "o")
	if err != nil {
		t.Fatal(err)
	}
	w.mended.Store(true)
	if err := w.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	if with, err := w.read(nil, "o"); err != nil || skippedOf(with) != 0 || with.GetEtag() == without.GetEtag() {
		t.Errorf("first %v, then %v, %v", without, with, err)
	}
	third := open(t, w.url, withJournal(w.from.journal), w.mend, func(_ *projection.Config, v *fold.View[tally]) { v.Version = 3 })
	third.claim()
	third.handle(newTopics().facts(facts...)...)
	if got := third.query("SELECT applied -> 'a' -> 'order/o' ->> 'k' AS k FROM @state")[0]["k"]; got != nil {
		t.Errorf("readers are told of %v skipped facts where the fact was applied", got)
	}
	rows := third.viewRows()
	same(t, withLogs(mendedRows(t, facts), rows), rows)
}

func TestOnlyWhatCodeCannotApplyMayBeSkipped(t *testing.T) {
	w := newWard(t)
	facts := about("o", 1, 3)
	w.from.send(facts...)
	w.handle(w.from.l.facts(facts[0], facts[2])...)
	_, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{Aggregate: named("order", "o"), EventId: facts[2].ID, Reason: "r", Actor: "a"})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "gap") {
		t.Errorf("skip behind a gap: %v", err)
	}
}

func TestAFactThatSwellsAnOrderCanBeSkipped(t *testing.T) {
	w := newWard(t)
	facts := about("o", 1, 3)
	facts[1].Body = &note{Add: 4, Text: "swell"}
	part := fact("o", "payment/p", 1, &note{Add: 1000})
	w.from.journal.add(part)
	w.handle(append(w.from.send(facts...), w.from.l.facts(part)...)...)
	if holds, parked := w.waiting(); holds != 2 || parked != 3 {
		t.Fatalf("%d aggregates and %d facts wait, want the whole order: 2 and 3", holds, parked)
	}
	if _, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{Aggregate: named("order", "o"), EventId: facts[1].ID, Reason: "r", Actor: "a"}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if got := w.retry(retryOf(named("payment", "p"), false)).GetResults()[0]; got.GetOutcome() != released {
		t.Errorf("the other aggregate of the order: %v", got)
	}
	facts[1].Body = &skip{}
	same(t, memory(t, append(facts, part)...), w.viewRows())
}
