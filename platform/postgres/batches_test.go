package postgres_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// counter makes a table with one number and returns how to read it.
func counter(t *testing.T, pool *pgxpool.Pool) func() int {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "CREATE TABLE counter (n int CHECK (n < 100)); INSERT INTO counter VALUES (0)"); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), "SELECT n FROM counter").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// add reads under a lock in the first round trip and writes in the second.
func add(t *testing.T, tx *postgres.BatchTx, n int, commit bool) error {
	var old int
	read := &pgx.Batch{}
	read.Queue("SELECT n FROM counter FOR UPDATE").QueryRow(func(r pgx.Row) error { return r.Scan(&old) })
	if err := tx.Send(t.Context(), read); err != nil {
		return err
	}
	write := &pgx.Batch{}
	write.Queue("UPDATE counter SET n = $1", old+n)
	if commit {
		return tx.Commit(t.Context(), write)
	}
	return tx.Send(t.Context(), write)
}

func TestInBatchesStoresOnlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	value := counter(t, pool)
	steps := []struct {
		name   string
		n      int
		commit bool
		after  error
		want   int
	}{
		{"commits", 1, true, nil, 1},
		{"forgets what was not committed", 10, false, nil, 1},
		{"forgets what came before an error", 10, false, errors.New("no"), 1},
		{"commits again", 1, true, nil, 2},
	}
	for _, step := range steps {
		err := postgres.InBatches(t.Context(), pool, func(tx *postgres.BatchTx) error {
			return errors.Join(add(t, tx, step.n, step.commit), step.after)
		})
		if !errors.Is(err, step.after) || (step.after == nil && err != nil) {
			t.Errorf("%s: InBatches() = %v, want %v", step.name, err, step.after)
		}
		if got := value(); got != step.want {
			t.Errorf("%s: n = %d, want %d", step.name, got, step.want)
		}
	}
	if stat := pool.Stat(); stat.AcquiredConns() != 0 {
		t.Errorf("%d connections were not given back", stat.AcquiredConns())
	}
}

func TestInBatchesRunsAgainAfterAConflict(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	value := counter(t, pool)
	attempts := 0
	err := postgres.InBatches(t.Context(), pool, func(tx *postgres.BatchTx) error {
		if attempts++; attempts < 3 {
			return errors.Join(add(t, tx, 10, false), &pgconn.PgError{Code: "40P01", Message: "deadlock detected"})
		}
		return add(t, tx, 1, true)
	})
	if got := value(); err != nil || attempts != 3 || got != 1 {
		t.Errorf("InBatches() = %v after %d attempts, n = %d; want 3 attempts and 1", err, attempts, got)
	}
}

func TestARefusedStatementOfTheLastBatchStoresNothingAndIsNotUnknown(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	value := counter(t, pool)
	err := postgres.InBatches(t.Context(), pool, func(tx *postgres.BatchTx) error { return add(t, tx, 100, true) })
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("InBatches() = %v, want the check's refusal", err)
	}
	if got := value(); got != 0 {
		t.Errorf("n = %d, want 0", got)
	}
}

func TestABrokenLastBatchIsUnknown(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	counter(t, pool)
	err := postgres.InBatches(t.Context(), pool, func(tx *postgres.BatchTx) error {
		last := &pgx.Batch{}
		last.Queue("SELECT pg_terminate_backend(pg_backend_pid())")
		last.Queue("UPDATE counter SET n = 1")
		return tx.Commit(t.Context(), last)
	})
	if !errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("InBatches() over a connection that was cut = %v, want %v", err, postgres.ErrCommitUnknown)
	}
}
