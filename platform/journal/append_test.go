package journal_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// appending appends n holds to a thing beside a statement of the caller's own,
// as a process does that learned something.
func appending(t *testing.T, j *journal.Journal, id string, n int) (decided int, err error) {
	t.Helper()
	var appended func()
	err = postgres.InBatches(t.Context(), j.Pool(), func(tx *postgres.BatchTx) error {
		var write pgx.Batch
		write.Queue(`INSERT INTO beside VALUES ($1)`, id)
		appended, err = journal.Append(t.Context(), j, tx, &write, &things, id, "a cause", func(s *thing, _ time.Time) ([]journal.Fact, error) {
			decided++
			var stated []journal.Fact
			for range n {
				s.Holds++
				stated = append(stated, journal.Fact{Body: &facts.OrderHeld{OrderID: id, CustomerID: "c", Actor: "t", Reason: "why"}})
			}
			return stated, nil
		})
		if err != nil {
			return err
		}
		return tx.Commit(t.Context(), &write)
	})
	if err == nil {
		appended()
	}
	return decided, err
}

// signalled reports whether the relay was woken since it was asked last.
func signalled(j *journal.Journal) bool {
	select {
	case <-j.Wakes():
		return true
	default:
		return false
	}
}

func TestAppendStatesFactsBesideTheCallersWrites(t *testing.T) {
	j := open(t)
	exec(t, j.Pool(), `CREATE TABLE beside (id text)`)
	mustHold(t, j, "o-1", 1)
	signalled(j)
	if _, err := appending(t, j, "o-1", 2); err != nil || !signalled(j) {
		t.Fatalf("%v, or the relay sleeps", err)
	}
	type row struct {
		Version, Holds, Outbox int64
		Cause, Correlation     string
		Beside                 int64
	}
	got := row{
		query[int64](t, j.Pool(), `SELECT version FROM things`), query[int64](t, j.Pool(), `SELECT (state->>'Holds')::bigint FROM things`),
		query[int64](t, j.Pool(), `SELECT count(*) FROM outbox`),
		query[string](t, j.Pool(), `SELECT causation_id FROM journal WHERE version = 3`), query[string](t, j.Pool(), `SELECT correlation_id FROM journal WHERE version = 3`),
		query[int64](t, j.Pool(), `SELECT count(*) FROM beside`),
	}
	if diff := cmp.Diff(row{3, 3, 3, "a cause", "o-1", 1}, got); diff != "" {
		t.Error(diff)
	}
}

// What does not exist states nothing and is not made; a decision without facts
// leaves the aggregate as it is. The caller's own writes commit all the same.
func TestAppendWithoutAnythingToState(t *testing.T) {
	j := open(t)
	exec(t, j.Pool(), `CREATE TABLE beside (id text)`)
	mustHold(t, j, "o-1", 1)
	before := query[string](t, j.Pool(), `SELECT things::text FROM things`)
	signalled(j)
	if decided, err := appending(t, j, "unknown", 1); err != nil || decided != 0 {
		t.Errorf("an aggregate that does not exist: decided %d times, %v", decided, err)
	}
	if decided, err := appending(t, j, "o-1", 0); err != nil || decided != 1 {
		t.Errorf("nothing to state: decided %d times, %v", decided, err)
	}
	if after := query[string](t, j.Pool(), `SELECT string_agg(things::text, ' ') FROM things`); after != before {
		t.Errorf("%s became %s", before, after)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM journal`); n != 1 {
		t.Errorf("%d events", n)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM beside`); n != 2 {
		t.Errorf("%d of the caller's two rows", n)
	}
	if signalled(j) {
		t.Error("the relay was woken for nothing")
	}
}

// A source whose database went back states nothing, and the caller's writes go
// with it: they are made again once an operator decided.
func TestAStoppedSourceAppendsNothing(t *testing.T) {
	j := open(t)
	exec(t, j.Pool(), `CREATE TABLE beside (id text)`)
	mustHold(t, j, "o-1", 1)
	if err := journal.StopSource(context.Background(), j.Pool(), journal.Stop{State: journal.WentBack, Reason: "restored"}); err != nil {
		t.Fatal(err)
	}
	if decided, err := appending(t, j, "o-1", 1); fault.KindOf(err) != fault.KindUnavailable || decided != 0 {
		t.Errorf("decided %d times, %v", decided, err)
	}
	if n := query[int](t, j.Pool(), `SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM beside)`); n != 1 {
		t.Errorf("%d rows, want the first event alone", n)
	}
}
