package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
)

var back = flag.Duration("back", 0, "how far back a restored source goes, under load; 0 means 200 events")

// TestARestoredSourceConverges gives the orders' database back as a copy inside
// the same cluster that was made before.
func TestARestoredSourceConverges(t *testing.T) {
	w := open(t)
	w.goesBack(t.Context(),
		func(ctx context.Context) { w.alone(ctx, "CREATE DATABASE tidemark_backup TEMPLATE tidemark_order") },
		func(ctx context.Context) {
			w.alone(ctx, "DROP DATABASE tidemark_order", "ALTER DATABASE tidemark_backup RENAME TO tidemark_order")
		})
}

// goesBack takes the database away from a running service, under load, and gives
// it back as it was when it was kept. The service must notice by itself and stop;
// after an operator began a new epoch, new commands reuse the versions that were
// lost, and the views end equal to what the source now says: what no longer
// exists there is gone from them. It returns why the source stopped.
func (w *world) goesBack(ctx context.Context, keep, restore func(context.Context)) (reason string) {
	w.t.Helper()
	const source = "order"
	stop := w.customers(ctx)
	w.commands(ctx, "place", "--id", "kept", "--fulfilment", "external")
	w.lives(ctx, source, "before the backup", 150, 0)
	keep(ctx)
	w.commands(ctx, "hold", "kept", "--reason", "to be undone")
	w.commands(ctx, "place", "--id", "ghost", "--fulfilment", "external")
	w.lives(ctx, source, "after the backup", 200, *back)
	lost := w.journal(ctx, source)
	restore(ctx)
	restored := time.Now()
	var status string
	if !until(ctx, time.Minute, func() bool {
		out, err := w.Run(ctx, "source", "status", source)
		status = string(out)
		return err == nil && strings.Contains(status, "went back")
	}) {
		w.t.Fatalf("the service does not notice that its database went back:\n%s", status)
	}
	_, reason, _ = strings.Cut(strings.TrimSpace(status), "is stopped since ")
	w.t.Logf("noticed after %s: %s", time.Since(restored).Round(time.Millisecond), reason)
	for id, event := range w.journal(ctx, source) {
		if lost[id] == event {
			delete(lost, id) // it was kept
		}
	}
	ends := w.ends(source)
	if out, err := w.Run(ctx, "order", "place", "--id", "too-soon", "--timeout", "2s"); err == nil {
		w.t.Errorf("an order was taken by a source that went back: %s", out)
	}
	if diff := cmp.Diff(ends, w.ends(source)); diff != "" {
		w.t.Errorf("a source that went back sent something: %s", diff)
	}
	if out, err := w.Run(ctx, "source", "new-epoch", source, "--reason", "restored by the test"); err != nil {
		w.t.Fatalf("new epoch: %v\n%s", err, out)
	}
	w.commands(ctx, "hold", "kept", "--reason", "again")
	w.lives(ctx, source, "after the new epoch", 200, 0)
	looking, look := context.WithCancel(ctx)
	defer look()
	seen := w.watchCompleteness(looking)
	stop()
	w.restored = source
	w.rest(ctx)
	if !until(ctx, time.Minute, func() bool { return seen.last(completenessProven) }) {
		w.t.Error("the view does not prove itself complete again")
	}
	look()
	w.gone(ctx, source, lost)
	w.compare(ctx)
	return reason
}

// lives waits until a source has committed so many events more, and a time has
// gone by.
func (w *world) lives(ctx context.Context, source, when string, more int64, atLeast time.Duration) {
	w.t.Helper()
	began, before := time.Now(), int64(-1)
	if !until(ctx, time.Minute+atLeast, func() bool {
		now, err := w.Count(ctx, source, `SELECT count(*) FROM journal`)
		if err == nil && before < 0 {
			before = now
		}
		return err == nil && now-before >= more && time.Since(began) >= atLeast
	}) {
		w.t.Fatalf("no life %s", when)
	}
}

// commands runs a command about an order, which must succeed.
func (w *world) commands(ctx context.Context, args ...string) {
	w.t.Helper()
	if out, err := w.Run(ctx, append([]string{"order"}, args...)...); err != nil {
		w.t.Fatalf("%v: %v; see commands.log\n%s", args, err, out)
	}
}

// gone checks that of what a restore undid, versions were used again, and that
// aggregates which are no more are shown by nobody.
func (w *world) gone(ctx context.Context, source string, lost map[identity]string) {
	w.t.Helper()
	again := w.journal(ctx, source)
	known := map[event.Aggregate]bool{}
	for id := range again {
		known[id.aggregate] = true
	}
	reused, ghosts := map[event.Aggregate]bool{}, map[event.Aggregate]bool{}
	for id := range lost {
		switch {
		case again[id] != "":
			reused[id.aggregate] = true
		case !known[id.aggregate]:
			ghosts[id.aggregate] = true
		}
	}
	w.t.Logf("%d events were undone: versions of %d aggregates are used again, %d aggregates are no more", len(lost), len(reused), len(ghosts))
	kept, ghost := event.Aggregate{Type: source, ID: "kept"}, event.Aggregate{Type: source, ID: "ghost"}
	if !reused[kept] || !ghosts[ghost] {
		w.t.Errorf("the run proves nothing: a version of %s is used again: %v, %s is no more: %v", kept, reused[kept], ghost, ghosts[ghost])
	}
	for shown, want := range map[string]int64{"aggregate_id = 'ghost'": 0, "aggregate_id = 'kept' AND version = 2": 1} {
		if n, err := w.Entries(ctx, shown); err != nil || n != want {
			w.t.Errorf("the timeline shows %d entries of %s, want %d (%v)", n, shown, want, err)
		}
	}
}

// alone runs statements while nobody is connected to the orders' database. A
// session that was about to begin when the service was frozen begins after the
// others were ended, so each try ends them again.
func (w *world) alone(ctx context.Context, statements ...string) {
	w.t.Helper()
	w.Signal("order", syscall.SIGSTOP)
	defer w.Signal("order", syscall.SIGCONT)
	for _, sql := range statements {
		var err error
		done := until(ctx, time.Minute, func() bool {
			err = errors.Join(
				w.set(ctx, "timeline", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tidemark_order'"),
				w.set(ctx, "timeline", sql))
			return err == nil
		})
		if !done {
			w.t.Fatal(fmt.Errorf("%s: %w", sql, err))
		}
	}
}
