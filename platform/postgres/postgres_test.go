package postgres_test

import (
	"errors"
	"os"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

func TestInTxRunsAgainAfterAConflict(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	if _, err := pool.Exec(t.Context(), "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)"); err != nil {
		t.Fatal(err)
	}
	attempts := 0
	err := postgres.InTxWith(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
		attempts++
		var n int
		if err := tx.QueryRow(t.Context(), "SELECT n FROM counter").Scan(&n); err != nil {
			return err
		}
		if attempts < 3 { // another transaction gets in between
			if _, err := pool.Exec(t.Context(), "UPDATE counter SET n = n + 10"); err != nil {
				return err
			}
		}
		_, err := tx.Exec(t.Context(), "UPDATE counter SET n = $1", n+1)
		return err
	})
	if err != nil {
		t.Fatalf("InTxWith() = %v", err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT n FROM counter").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if attempts != 3 || n != 21 {
		t.Errorf("attempts = %d, n = %d; want 3 and 21", attempts, n)
	}
}

func TestInTxGivesUpOnAnEndlessConflict(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	attempts := 0
	err := postgres.InTx(t.Context(), pool, func(pgx.Tx) error {
		attempts++
		return &pgconn.PgError{Code: "40P01", Message: "deadlock detected"}
	})
	if !postgres.IsConflict(err) || attempts != 8 {
		t.Errorf("InTx() = %v after %d attempts, want a conflict after 8", err, attempts)
	}
}

func TestInTxRollsBackOnAnyOtherError(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	if _, err := pool.Exec(t.Context(), "CREATE TABLE probe (id int PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("refused")
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "INSERT INTO probe VALUES (1)"); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("InTx() = %v, want %v", err, boom)
	}
	var rows int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM probe").Scan(&rows); err != nil || rows != 0 {
		t.Errorf("rows = %d, %v; want none", rows, err)
	}
}

func TestABrokenCommitIsUnknown(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return tx.Conn().Close(t.Context()) // as if the network went away
	})
	if !errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("InTx() = %v, want %v", err, postgres.ErrCommitUnknown)
	}
}

func TestADeferredViolationIsNotUnknown(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	const ddl = "CREATE TABLE probe (id int CONSTRAINT probe_once UNIQUE DEFERRABLE INITIALLY DEFERRED)"
	if _, err := pool.Exec(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO probe VALUES (1), (1)")
		return err
	})
	if errors.Is(err, postgres.ErrCommitUnknown) || postgres.ViolatedUnique(err) != "probe_once" {
		t.Errorf("InTx() = %v, want the violation of probe_once", err)
	}
}

func TestMigrateTwiceAndPerModule(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	journal := fstest.MapFS{"00001_first.sql": {Data: []byte("-- +goose Up\nCREATE TABLE journal (id int);\n")}}
	order := fstest.MapFS{"00001_first.sql": {Data: []byte("-- +goose Up\nCREATE TABLE orders (id int);\n")}}
	migrate := func() {
		t.Helper()
		if err := postgres.Migrate(t.Context(), pool, journal, "migrations_journal"); err != nil {
			t.Fatal(err)
		}
		if err := postgres.Migrate(t.Context(), pool, order, "migrations_order"); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	migrate()
	order["00002_second.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nALTER TABLE orders ADD state text;\n")}
	migrate()
	if _, err := pool.Exec(t.Context(), "SELECT state FROM orders, journal"); err != nil {
		t.Errorf("the tables are not there: %v", err)
	}
}

func TestOpenNamesAWrongDatabaseAtOnce(t *testing.T) {
	t.Parallel()
	config := postgres.Config{URL: testkit.Cluster(t).URL("no_such_database")}
	if pool, err := postgres.Open(t.Context(), config, telemetry.Off()); err == nil {
		pool.Close()
		t.Error("Open() succeeded on a database that does not exist")
	}
	if _, err := os.Stat(testkit.Cluster(t).LogFile()); err != nil {
		t.Errorf("no server log: %v", err)
	}
}

// A holder of a lock that is paused, as by SIGSTOP, must lose it.
func TestATransactionThatStandsStillLosesItsLocks(t *testing.T) {
	t.Parallel()
	const name = "idle_in_transaction_session_timeout"
	for _, test := range []struct{ url, want string }{
		{testkit.PostgresURL(t), "5s"},
		{testkit.PostgresURL(t) + "&" + name + "=50", "50ms"},
	} {
		pool, err := postgres.Open(t.Context(), postgres.Config{URL: test.url}, telemetry.Off())
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		var got string
		if err := pool.QueryRow(t.Context(), "SHOW "+name).Scan(&got); err != nil || got != test.want {
			t.Errorf("%s = %q (%v), want %q", name, got, err, test.want)
		}
		if test.want == "5s" {
			continue // that it works is seen with the short one
		}
		holder, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)"); err != nil { // waits until the server ends the holder
			t.Errorf("the lock of a transaction that stands still: %v", err)
		}
		_ = holder.Rollback(t.Context())
	}
}
