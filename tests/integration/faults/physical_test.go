package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// TestARestoredDataDirectoryConverges takes a copy of the files of the orders'
// running database, has life go on, stops the server and puts the copy in its
// place. Nothing in such a database says that it is a copy: its identity and its
// timeline are those of before. Only the end of the topic knows better.
func TestARestoredDataDirectoryConverges(t *testing.T) {
	config := postgres.ClusterConfig{Dir: testkit.Dir(t, "source"), Port: processes.FreeBase(t) + 432, Durable: true}
	var err error
	if config.BinDir, err = binaries.Ensure(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	o := &ownCluster{t: t, config: config}
	o.start(t.Context())
	t.Cleanup(o.stop)
	w := openWith(t, map[string]int{"order": config.Port})

	var before string
	reason := w.goesBack(t.Context(), o.keep, func(ctx context.Context) {
		before = o.identity(ctx)
		o.stop()
		if err := errors.Join(os.Rename(o.data(), o.data()+".lost"), os.Rename(o.kept(), o.data())); err != nil {
			t.Fatal(err)
		}
		o.start(ctx)
	})
	if after := o.identity(t.Context()); after != before {
		t.Errorf("the database was %s and is %s: the test shows nothing", before, after)
	}
	if !strings.Contains(reason, "the journal lacks") && !strings.Contains(reason, "the database knows of") {
		t.Errorf("the source stopped for another reason than the end of its topic: %s", reason)
	}
}

// ownCluster is a cluster with the database of one source and nothing else.
type ownCluster struct {
	t       *testing.T
	config  postgres.ClusterConfig
	cluster *postgres.Cluster
}

func (o *ownCluster) data() string { return filepath.Join(o.config.Dir, "data") }
func (o *ownCluster) kept() string { return filepath.Join(o.config.Dir, "kept") }

func (o *ownCluster) start(ctx context.Context) {
	o.t.Helper()
	cluster, err := postgres.StartCluster(ctx, o.config)
	if err != nil {
		o.t.Fatal(err)
	}
	o.cluster = cluster
	if err := cluster.EnsureDatabases(ctx, "tidemark_order"); err != nil {
		o.t.Fatal(err)
	}
}

func (o *ownCluster) stop() {
	o.t.Helper()
	if err := o.cluster.Stop(context.Background()); err != nil {
		o.t.Error(err)
	}
}

// identity is all by which a cluster is told from another.
func (o *ownCluster) identity(ctx context.Context) string {
	o.t.Helper()
	var identity string
	o.session(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT system_identifier || ' on timeline ' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
			FROM pg_control_system()`).Scan(&identity)
	})
	return identity
}

// keep copies the files of the running server, as pg_basebackup does: the files
// first, however torn, then the log that mends them.
func (o *ownCluster) keep(ctx context.Context) {
	o.t.Helper()
	o.session(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `SELECT pg_backup_start('kept', fast => true)`); err != nil {
			return err
		}
		if err := copyFiles(o.data(), o.kept()); err != nil {
			return err
		}
		var label string
		if err := conn.QueryRow(ctx, `SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)`).Scan(&label); err != nil {
			return err
		}
		return errors.Join(
			copyFiles(filepath.Join(o.data(), "pg_wal"), filepath.Join(o.kept(), "pg_wal")),
			os.WriteFile(filepath.Join(o.kept(), "backup_label"), []byte(label), 0o600),
			os.Remove(filepath.Join(o.kept(), "postmaster.pid")))
	})
}

// session lends out a connection to the server itself.
func (o *ownCluster) session(ctx context.Context, use func(*pgx.Conn) error) {
	o.t.Helper()
	conn, err := pgx.Connect(ctx, o.cluster.URL("postgres"))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := errors.Join(use(conn), conn.Close(ctx)); err != nil {
		o.t.Fatal(err)
	}
}

// copyFiles copies a directory that somebody writes to. What is gone when its turn
// comes was not to be kept.
func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, name); {
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case entry.Type().IsRegular():
			return copyFile(path, target)
		}
		return fmt.Errorf("%s is neither a file nor a directory", path)
	})
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	_, err = io.Copy(target, source)
	return err
}
