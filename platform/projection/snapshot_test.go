package projection_test

import (
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/projection"
)

// A commit between two statements of a read shows in none of them.
func TestAllStatementsOfAReadSeeOneSnapshot(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	s.handle(l.facts(fact("o", "order/o", 1, nil))...)
	holder, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(t.Context()) }()
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(7)"); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		first, second string
		freshness     *freshnessv1.Freshness
		err           error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		version := func(into *string) func(pgx.Row) error { return func(r pgx.Row) error { return r.Scan(into) } }
		a.freshness, a.err = s.Read(t.Context(), nil, "o", func(b *pgx.Batch) {
			b.Queue("SELECT applied::text FROM state").QueryRow(version(&a.first))
			b.Queue("SELECT pg_advisory_lock(7)").Query(func(rows pgx.Rows) error { rows.Close(); return rows.Err() })
			b.Queue("SELECT pg_advisory_unlock(7)").Query(func(rows pgx.Rows) error { rows.Close(); return rows.Err() })
			b.Queue("SELECT applied::text FROM state").QueryRow(version(&a.second))
		})
		answers <- a
	}()
	s.until("the read waits for the lock", func() bool {
		return len(s.query("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")) == 1
	})
	s.handle(l.facts(fact("o", "order/o", 2, nil))...)
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(7)"); err != nil {
		t.Fatal(err)
	}
	a := <-answers
	if a.err != nil {
		t.Fatal(a.err)
	}
	if a.first != a.second || a.freshness.GetEntityVersions()[0].GetVersion() != 1 {
		t.Errorf("first %s, then %s, and the answer says %v", a.first, a.second, a.freshness.GetEntityVersions())
	}
}

// Nobody who asks can write, whatever the query says.
func TestReadsCannotWrite(t *testing.T) {
	s := fresh(t)
	if _, err := s.Read(t.Context(), nil, "", func(b *pgx.Batch) { b.Queue("DELETE FROM position") }); err == nil {
		t.Error("a query wrote")
	}
}

// What is remembered of marks is taken only for the revision it was read at, also
// when another process wrote since.
func TestRememberedMarksAreThoseOfTheSnapshot(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	other := open(t, s.url)
	for i := 1; i <= 3; i++ {
		s.handle(l.totals(inBand(int64(i), 1, epoch1, i)))
		orders := []string{"o", "", "o", ""}
		for _, order := range orders[i%2:] { // once from the database, then from memory
			if here, there := s.asOf("order", order), other.asOf("order", order); here != i || there != i {
				t.Errorf("as_of for %q is %d and %d minutes after dawn, want %d", order, here, there, i)
			}
		}
	}
}

func TestNothingIsRememberedOfAServerThatWasRestarted(t *testing.T) {
	s := fresh(t)
	s.handle(newTopics().totals(inBand(1, 1, epoch1, 5)))
	for _, order := range []string{"o", ""} {
		s.asOf("order", order)
		s.Mistake("o", minutes(9))
		if got := s.asOf("order", order); got != 5 {
			t.Errorf("as_of for %q is %d minutes after dawn, want 5", order, got)
		}
	}
}

// A swap between binding and reading: the read goes where answers come from now.
func TestAReadOutlivesTheGenerationItWasBoundTo(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	s.handle(l.facts(fact("o", "order/o", 1, nil))...)
	back, err := s.AnswerElsewhere(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bound := 0
	f, err := s.Read(t.Context(), nil, "o", func(*pgx.Batch) {
		if bound++; bound == 1 {
			back()
		}
	})
	if err != nil || bound != 2 || len(f.GetEntityVersions()) != 1 {
		t.Errorf("%v, %v, bound %d times", f, err, bound)
	}
}

// The one text that an answer needs comes with the versions it goes by, alone or
// in a pipeline with what the caller's writes are checked by.
func TestOneText(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	for version := int64(1); version <= 2; version++ {
		f := fact("o", "order/o", version, nil)
		s.handle(l.facts(f)...)
		for _, options := range []*freshnessv1.ReadOptions{nil, demand(ample, f)} {
			text := new(string)
			const query = "SELECT applied -> 'a' -> 'order/o' ->> 'v' FROM state WHERE order_id = $1"
			got, err := s.Read(t.Context(), options, "o", nil, projection.OneText(query, &text))
			if err != nil || text == nil || *text != strconv.FormatInt(version, 10) || got.GetEntityVersions()[0].GetVersion() != version {
				t.Fatalf("%v, %v, %v: want version %d", text, got, err, version)
			}
			if _, err := s.Read(t.Context(), options, "unknown", nil, projection.OneText(query, &text)); err != nil || text != nil {
				t.Fatalf("%v, %v: want nothing", text, err)
			}
		}
	}
}
