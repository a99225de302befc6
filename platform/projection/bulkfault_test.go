package projection_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

// What only a fault in the code can bring about is not tried again: it is said at
// once, and the ordinary way builds the generation.
func TestBulkSaysThatItIsAtFault(t *testing.T) {
	l := newTopics()
	var records []consumer.Record
	for i := range 8 {
		records = append(records, l.facts(about(fmt.Sprintf("o%d", i), 1, 3)...)...)
	}
	want := fresh(t)
	want.handle(records...)
	contents := want.whole()
	for _, tt := range []struct {
		name, place, sql, says string
	}{
		{"nothing is left, and a part is not copied", "bulk index", "UPDATE bulk_part SET done = 0", "is not copied"},
		{"something is left, and there is nothing to do", "bulk plan", "INSERT INTO bulk_part (partition, logs, books, buckets) VALUES (7, '{}', '{}', 1)", "nobody does it"},
		{"a pass is done and begins again", "bulk plan", "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.done = OLD.done; RETURN NEW; END $$; CREATE TRIGGER never BEFORE UPDATE ON bulk_part FOR EACH ROW EXECUTE FUNCTION never()", "is to be copied again"},
		{"a note that cannot be read", "bulk plan", "UPDATE bulk_part SET logs = '[]'", "cannot be read"},
		{"a statement that is wrong", "bulk plan", "ALTER TABLE bulk_part RENAME COLUMN progress TO was", "42703"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := &scanned{records: records}
			s := inBulk(t, log, 1<<20)
			s.barrier(records)
			s.Before(tt.place, func() { s.exec(tt.sql) })
			err := s.Bulk(t.Context())
			if err == nil || !strings.Contains(err.Error(), "at fault") || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("it says %v", err)
			}
			s.claim()
			s.handle(records...)
			if diff := cmp.Diff(contents, s.whole()); diff != "" {
				t.Fatalf("(-ordinary +given up):\n%s", diff)
			}
		})
	}
}

// Facts that weigh more than was expected of them make a pass too heavy: it takes
// fewer keys, and none is left out.
func TestAPassThatIsTooHeavyTakesFewerKeys(t *testing.T) {
	l := newTopics()
	var records []consumer.Record
	for i := range 24 {
		id := fmt.Sprintf("o%d", i)
		records = append(records, l.facts(fact(id, "order/"+id, 1, &note{Add: 1, Text: strings.Repeat("x", 4000)}))...)
	}
	want := fresh(t)
	want.handle(records...)
	log := &scanned{records: records}
	s := inBulk(t, log, 20_000)
	s.bulk(log, len(records))
	if diff := cmp.Diff(want.whole(), s.whole()); diff != "" {
		t.Fatalf("(-ordinary +bulk):\n%s", diff)
	}
	if log.scans < 5 {
		t.Errorf("%d passes: none was too heavy", log.scans)
	}
}
