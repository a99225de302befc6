package projection_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

func (s *subject) etag(more ...projection.ReadOption) string {
	s.t.Helper()
	f, err := s.Read(s.t.Context(), nil, "o", func(*pgx.Batch) {}, more...)
	if err != nil {
		s.t.Fatal(err)
	}
	if f.GetEtag() == "" || f.GetNotModified() {
		s.t.Errorf("freshness: %v", f)
	}
	return f.GetEtag()
}

func TestETag(t *testing.T) {
	first, second := fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, nil)
	same := fact("o", "order/o", 1, &note{Add: 1})
	same.ID = "0199a4de-0000-7000-8000-00000000000f" // another event at the same version
	held := beat("order", 1, 0)
	held.BlockedCount, held.Blocked = 1, []string{"order/o"}
	deadline := func(minutesAgo int) projection.ReadOption {
		at := dawn.Add(-time.Duration(minutesAgo) * time.Minute)
		passed := &at
		return projection.DeadlinePassed(&passed)
	}
	var none *time.Time
	prepare := func(facts ...event.Fact) func(*subject) string {
		return func(s *subject) string { s.handle(newTopics().facts(facts...)...); return s.etag() }
	}
	tests := []struct {
		name string
		one  func(*subject) string
		two  func(*subject) string
		same bool
	}{
		{name: "the same history", one: prepare(first), two: prepare(first), same: true},
		{name: "a fact the view ignores", one: prepare(first), two: prepare(first, second)},
		{name: "another event at the version", one: prepare(first), two: prepare(same)},
		{name: "nothing known", one: prepare(), two: prepare(first)},
		{name: "parked behind a gap", one: prepare(first), two: prepare(first, fact("o", "order/o", 3, nil))},
		{name: "a gap and poison", one: prepare(first, fact("o", "order/o", 3, nil)), two: prepare(first, fact("o", "order/o", 2, &note{Text: "burst"}))},
		{name: "one more is quarantined", one: prepare(fact("o", "payment/a", 1, nil), fact("o", "payment/a", 3, nil), fact("o", "payment/b", 1, &note{Text: "burst"})),
			two: prepare(fact("o", "payment/a", 1, nil), fact("o", "payment/a", 2, &note{Text: "burst"}), fact("o", "payment/b", 1, &note{Text: "burst"}))},
		{name: "as_of moves", one: prepare(first), two: func(s *subject) string {
			l := newTopics()
			s.handle(append(l.facts(first), l.totals(beat("payment", 1, 0)))...)
			return s.etag()
		}, same: true},
		{name: "held back by its source", one: prepare(first), two: func(s *subject) string {
			l := newTopics()
			s.handle(append(l.facts(first), l.totals(held))...)
			return s.etag()
		}},
		{name: "a deadline passed", one: func(s *subject) string { return s.etag(projection.DeadlinePassed(&none)) }, two: func(s *subject) string { return s.etag(deadline(1)) }},
		{name: "a later deadline passed", one: func(s *subject) string { return s.etag(deadline(2)) }, two: func(s *subject) string { return s.etag(deadline(1)) }},
		{name: "the same deadline", one: func(s *subject) string { return s.etag(deadline(1)) }, two: func(s *subject) string { return s.etag(deadline(1)) }, same: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			one, two := tt.one(fresh(t)), tt.two(fresh(t))
			if (one == two) != tt.same {
				t.Errorf("etags %s and %s, want the same: %v", one, two, tt.same)
			}
		})
	}
}

// A rebuild by other code may show other things from the same facts, and a page
// of one generation does not go on in the next.
func TestASwapChangesTheETagAndEndsPages(t *testing.T) {
	old := fresh(t)
	facts := newTopics().facts(fact("o", "order/o", 1, &note{Add: 1}))
	old.handle(facts...)
	known := old.etag()
	next := open(t, old.url, func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 })
	inOld := projection.InGeneration(next.Answering())
	if got := next.etag(inOld); got != known {
		t.Errorf("two processes show the same generation with etags %s and %s", known, got)
	}
	next.claim()
	next.handle(facts...)
	if err := next.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := next.etag(); got == known {
		t.Error("a rebuild left the etag as it was")
	}
	f, err := next.read(&freshnessv1.ReadOptions{IfNoneMatch: known}, "o")
	if err != nil || f.GetNotModified() {
		t.Errorf("after a rebuild: %v, %v", f, err)
	}
	_, err = next.Read(t.Context(), nil, "o", func(*pgx.Batch) {}, inOld)
	if st := rpc.Status(err); st.Code().String() != "InvalidArgument" {
		t.Errorf("a page of the old generation goes on in the new one: %v", st)
	}
}

func TestIfNoneMatch(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	first, second := fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, nil)
	s.handle(l.facts(first)...)
	have := &freshnessv1.ReadOptions{IfNoneMatch: s.etag()}
	f, err := s.read(have, "o")
	if err != nil || !f.GetNotModified() || f.GetEtag() != have.GetIfNoneMatch() || len(f.GetSources()) != 2 {
		t.Errorf("it holds: %v, %v", f, err)
	}
	if f, err := s.read(have, ""); err != nil || f.GetNotModified() || f.GetEtag() != "" {
		t.Errorf("a list: %v, %v", f, err)
	}
	// The demand comes first: what the caller has must not hide its own write.
	both := demand(0, second)
	both.IfNoneMatch = have.GetIfNoneMatch()
	if _, err := s.read(both, "o"); err == nil {
		t.Error("an unmet demand was answered with what the caller has")
	}
	s.handle(l.facts(second)...)
	if f, err := s.read(both, "o"); err != nil || f.GetNotModified() {
		t.Errorf("it does not hold: %v, %v", f, err)
	}
}
