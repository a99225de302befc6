// Package testkit gives tests the real things: a private Postgres, brokers,
// a sink for spans. What it starts ends with the test process, even a killed one.
package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// Cluster returns this test process's private Postgres cluster and starts it on
// first use. Its data is gone after the process; fsync is off. A test that
// kills the server must start one of its own with postgres.StartCluster.
func Cluster(t testing.TB) *postgres.Cluster {
	t.Helper()
	cluster, err := processCluster()
	if err != nil {
		t.Fatalf("start the test cluster: %v", err)
	}
	return cluster
}

// Postgres returns a pool on a fresh, empty database, which is dropped when the
// test ends.
func Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: PostgresURL(t), MaxConns: 16}, telemetry.Off())
	if err != nil {
		t.Fatalf("open the test database: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// PostgresURL is Postgres for a test whose subject opens the pool itself.
func PostgresURL(t testing.TB) string {
	t.Helper()
	cluster := Cluster(t)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := cluster.EnsureDatabases(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// t.Context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := dropDatabase(ctx, cluster, name); err != nil {
			t.Errorf("drop the test database: %v", err)
		}
	})
	return cluster.URL(name)
}

// UsedURL is PostgresURL for packages of many small tests, all of which end what they
// start: the database is empty, but had other tests' tables before, and has again
// afterwards. Emptying one takes a tenth of the time of making one and dropping it.
func UsedURL(t testing.TB) string {
	t.Helper()
	cluster := Cluster(t)
	var name string
	select {
	case name = <-used:
	default:
		name = fmt.Sprintf("test_%d", databases.Add(1))
		if err := cluster.EnsureDatabases(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err := emptyDatabase(ctx, cluster, name)
		if err == nil {
			select {
			case used <- name:
				return
			default:
			}
		}
		if err := errors.Join(err, dropDatabase(ctx, cluster, name)); err != nil {
			t.Errorf("empty the test database: %v", err)
		}
	})
	return cluster.URL(name)
}

// emptyDatabase ends all sessions of a database and drops all that is in it.
func emptyDatabase(ctx context.Context, cluster *postgres.Cluster, name string) (err error) {
	conn, err := pgx.Connect(ctx, cluster.URL(name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
		DO $$ DECLARE schema text; BEGIN
			FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' LOOP
				EXECUTE format('DROP SCHEMA %I CASCADE', schema);
			END LOOP;
			CREATE SCHEMA public;
		END $$`)
	return err
}

// One cluster per process is the one thing tests share: starting costs half a
// second, a database 30 ms.
var (
	databases      atomic.Int64
	used           = make(chan string, 8) // databases that are empty again
	processCluster = sync.OnceValues(startProcessCluster)
)

func startProcessCluster() (*postgres.Cluster, error) {
	binDir, err := binaries.Ensure(context.Background(), func(what string) { fmt.Fprintln(os.Stderr, what) })
	if err != nil {
		return nil, err
	}
	dir, err := TempDir("pg")
	if err != nil {
		return nil, err
	}
	if err := EndWithProcess(filepath.Join(dir, "data", "postmaster.pid"), syscall.SIGQUIT, dir); err != nil {
		return nil, err
	}
	cluster, err := postgres.StartCluster(context.Background(), postgres.ClusterConfig{Dir: dir, BinDir: binDir, MaxConnections: 400})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return cluster, nil
}

func dropDatabase(ctx context.Context, cluster *postgres.Cluster, name string) (err error) {
	conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return err
}

// TempDir makes a directory with a short path that an unprivileged server can
// reach, for data that outlives one test. Pass it to EndWithProcess.
func TempDir(purpose string) (string, error) {
	dir, err := os.MkdirTemp("", "tidemark-"+purpose+"-")
	if err != nil {
		return "", fmt.Errorf("make a directory for tests: %w", err)
	}
	reachable, err := postgres.ReachableDir(filepath.Join(dir, "x"))
	if err == nil && filepath.Dir(reachable) == dir {
		return dir, nil
	}
	return dir, os.Chmod(dir, 0o755)
}

// Dir makes a directory like TempDir for one test. It goes with the test, but
// stays, and is named, if the test fails: logs are in it.
func Dir(t testing.TB, purpose string) string {
	t.Helper()
	dir, err := TempDir(purpose)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the test left is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
