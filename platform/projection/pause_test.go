package projection_test

import (
	"fmt"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A flood of forged gaps: memory does not grow, the owner is asked at a bounded
// rate, and reading pauses before the database is full of references. When
// fewer stand still it goes on, and nothing is lost.
func TestAFloodOfForgedGapsPausesReading(t *testing.T) {
	journal := journalOf()
	s := fresh(t, withJournal(journal), func(c *projection.Config, _ *fold.View[tally]) { c.MaxParked = 1200 })
	from := senderOf(newTopics(), journal, "order")
	s.handle(append(from.send(about("o", 1, 1)...), from.control())...)
	flood := func(n int) (err error) {
		for i := 0; i < n && err == nil; i += 100 {
			var forged []event.Fact
			for j := range 100 {
				forged = append(forged, fact(fmt.Sprintf("x%d-%d", i, j), fmt.Sprintf("order/x%d-%d", i, j), 9, nil))
			}
			err = s.Handle(t.Context(), 0, from.l.facts(forged...))
		}
		return err
	}
	if err := flood(1100); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		if err := s.LookAtParked(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if look(); s.Cached(0) > 512 {
		t.Errorf("%d orders in memory", s.Cached(0))
	}
	s.handle(from.send(about("o", 2, 2)...)...) // not too many yet
	if err := flood(2000); err != nil {
		t.Fatal(err)
	}
	look()
	good := from.send(about("o", 3, 3)...)
	if err := s.Handle(t.Context(), 0, good); err == nil {
		t.Fatal("it reads on with 2,000 aggregates parked")
	}
	before := journal.calls
	if _, err := s.HealDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked := journal.calls - before; asked > 100 {
		t.Errorf("the owner was asked %d times at once", asked)
	}
	s.exec("DELETE FROM quarantine WHERE order_id LIKE 'x%'")
	look()
	s.handle(good...)
	if got := s.query("SELECT amount FROM @parts WHERE order_id = 'o'"); got[0]["amount"] != int64(2+4+8) {
		t.Errorf("amount %v", got)
	}
}
