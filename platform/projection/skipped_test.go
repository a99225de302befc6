package projection_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// listed is what a list says of an order that it shows, and of everything.
func (s *subject) listed(order string) string {
	s.t.Helper()
	var skipped projection.Skipped
	f, err := s.Read(s.t.Context(), nil, "", func(*pgx.Batch) {}, projection.SkippedBy(&skipped))
	if err != nil {
		s.t.Fatal(err)
	}
	one, err := s.Read(s.t.Context(), nil, order, func(*pgx.Batch) {})
	if err != nil {
		s.t.Fatal(err)
	}
	if one.GetSkipped() != skippedOf(one) {
		s.t.Errorf("an answer about order %s says %v", order, one)
	}
	return fmt.Sprintf("%d of %d, alone %d", skipped.Of(order), f.GetSkipped(), one.GetSkipped())
}

// Lists say which of their orders are shown without some of their facts, whatever
// changes that, and as soon as answers about the order alone do.
func TestListsSayWhatTheyAreWithout(t *testing.T) {
	w := newWard(t)
	gone := broken("gone")
	facts := append(append(broken("o"), about("other", 1, 2)...), gone...)
	w.handle(w.from.send(facts...)...)
	says := func(s *subject, order, want, when string) {
		t.Helper()
		if got := s.listed(order); got != want {
			t.Errorf("%s, order %s: %s facts, want %s", when, order, got, want)
		}
	}
	says(w.subject, "o", "0 of 0, alone 0", "before it is skipped")
	for _, order := range []string{"o", "gone"} {
		if _, err := w.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{
			Aggregate: named("order", order), EventId: fmt.Sprintf("%[1]s-order/%[1]s-2", order), Reason: "r", Actor: "a",
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.heal()
	says(w.subject, "o", "1 of 2, alone 1", "skipped")
	says(w.subject, "other", "0 of 2, alone 0", "skipped")

	// A generation that takes states over, and one that an older program made.
	next := w.rederive(withJournal(w.from.journal), w.mend, shownOtherwise)
	if err := next.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	says(next, "o", "1 of 2, alone 1", "taken over")
	next.exec("ALTER TABLE position DROP COLUMN skipped")
	next = open(t, w.url, withJournal(w.from.journal), w.mend, shownOtherwise)
	says(next, "o", "1 of 2, alone 1", "made by an older program")
	says(next, "other", "0 of 2, alone 0", "made by an older program")

	if err := w.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	says(w.subject, "o", "0 of 1, alone 0", "refolded, and parked again")
	if err := w.HonourSkips(t.Context()); err != nil {
		t.Fatal(err)
	}
	says(w.subject, "o", "1 of 2, alone 1", "skipped again")
	w.mended.Store(true)
	if err := w.Refold(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	says(w.subject, "o", "0 of 1, alone 0", "applied after all")
	w.from.journal.restore(facts[:len(facts)-len(gone)]...)
	if err := w.Refold(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	says(w.subject, "gone", "0 of 0, alone 0", "the order is no more")
}
