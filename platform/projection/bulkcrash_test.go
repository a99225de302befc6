package projection_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// mortal is a Postgres of a test's own, which it may kill.
type mortal struct {
	t   *testing.T
	dir string
	*postgres.Cluster
}

func newMortal(t *testing.T) *mortal {
	t.Helper()
	dir, err := testkit.TempDir("mortal")
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{t: t, dir: dir}
	t.Cleanup(func() {
		if m.Cluster != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := m.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mortal) start() error {
	bin, err := binaries.Ensure(m.t.Context(), func(what string) { m.t.Log(what) })
	if err == nil {
		m.Cluster, err = postgres.StartCluster(m.t.Context(), postgres.ClusterConfig{Dir: m.dir, BinDir: bin, Durable: true})
	}
	return err
}

// crash ends the server at once, with what it had not written yet, and starts it
// again: it recovers.
func (m *mortal) crash() error {
	if err := syscall.Kill(m.PID(), syscall.SIGKILL); err != nil {
		return err
	}
	<-m.Done()
	return m.start()
}

// A database that crashes under a build, wherever the build is, leaves what can be
// gone on with, and what that comes to is what the ordinary way comes to: nothing
// that was noted as done is empty after recovery.
func TestTheDatabaseCrashesUnderABuild(t *testing.T) {
	server := newMortal(t)
	l := newTopics()
	var records []consumer.Record
	for i := range 40 {
		records = append(records, l.facts(about(fmt.Sprintf("o%d", i), 1, 4)...)...)
	}
	ordinary := fresh(t)
	ordinary.handle(records...)
	want := ordinary.whole()
	const none = "no place"
	for i, c := range []struct {
		place string // where the build fails
		scan  int    // or the pass before which it crashes
		nth   int
	}{{place: "bulk pass", nth: 2}, {place: none, scan: 3}, {place: "bulk index", nth: 1}, {place: "bulk index", nth: 3}, {place: "bulk end", nth: 1}} {
		t.Run(fmt.Sprintf("%s %d %d", c.place, c.scan, c.nth), func(t *testing.T) {
			name := fmt.Sprintf("crash_%d", i)
			if err := server.EnsureDatabases(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			log := &scanned{records: records}
			s := open(t, server.URL(name), func(c *projection.Config, _ *fold.View[tally]) {
				c.Scan, c.Generations.BulkAbove, c.Generations.BulkMemory = log.scan, 1, 20_000
			})
			s.barrier(records)
			var crash sync.Once
			crashed := false
			once := func() (err error) {
				crash.Do(func() { crashed, err = true, server.crash() })
				return err
			}
			log.before = func(scan int) error {
				if scan == c.scan {
					return once()
				}
				return nil
			}
			n := 0
			var counting sync.Mutex
			s.Failing(func(at string) error {
				counting.Lock()
				defer counting.Unlock()
				if at == c.place {
					if n++; n == c.nth {
						return once()
					}
				}
				return nil
			})
			if err := s.Bulk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !crashed {
				t.Fatal("nothing crashed")
			}
			if passes := log.scans; passes < 3 {
				t.Errorf("%d passes: nothing was there before the crash", passes)
			}
			s.pool.Reset() // its connections ended too
			s.claim()
			s.handle(records...)
			if diff := cmp.Diff(want, s.whole()); diff != "" {
				t.Fatalf("(-no crash +crash):\n%s", diff)
			}
		})
	}
}
