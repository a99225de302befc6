package faults

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

var back = flag.Duration("back", 0, "how far back a restored source goes, under load; 0 means 200 events")

// TestARestoredSourceConverges takes the orders' database away from a running
// service and gives it back as it was seconds before. The service must notice
// by itself and stop; after an operator began a new epoch, new commands reuse
// the versions that were lost, and the views end equal to what the source now
// says: what no longer exists there is gone from them.
func TestARestoredSourceConverges(t *testing.T) {
	w := open(t)
	ctx := t.Context()
	stop := w.customers(ctx)
	if !until(ctx, 30*time.Second, func() bool { n, err := w.Committed(ctx); return err == nil && n > 300 }) {
		t.Fatal("no life before the backup")
	}
	w.alone(ctx, "CREATE DATABASE tidemark_backup TEMPLATE tidemark_order")
	then, err := w.Count(ctx, "order", `SELECT count(*) FROM journal`)
	if err != nil {
		t.Fatal(err)
	}
	var lost int64
	backup := time.Now()
	if !until(ctx, 60*time.Second+*back, func() bool {
		now, err := w.Count(ctx, "order", `SELECT count(*) FROM journal`)
		lost = now - then
		return err == nil && lost > 200 && time.Since(backup) >= *back
	}) {
		t.Fatal("no life after the backup")
	}
	w.alone(ctx, "DROP DATABASE tidemark_order", "ALTER DATABASE tidemark_backup RENAME TO tidemark_order")
	restored := time.Now()
	var status string
	if !until(ctx, time.Minute, func() bool {
		out, err := w.Run(ctx, "source", "status")
		status = string(out)
		return err == nil && strings.Contains(status, "went back")
	}) {
		t.Fatalf("the service does not notice that its database went back:\n%s", status)
	}
	t.Logf("restored to %s and %d events earlier, noticed after %s", restored.Sub(backup).Round(time.Second), lost, time.Since(restored).Round(time.Millisecond))
	if out, err := w.Run(ctx, "order", "place", "--id", "too-soon", "--timeout", "2s"); err == nil {
		t.Errorf("an order was taken by a source that went back: %s", out)
	}
	if out, err := w.Run(ctx, "source", "new-epoch", "order", "--reason", "restored by the test"); err != nil {
		t.Fatalf("new epoch: %v\n%s", err, out)
	}
	again, err := w.Count(ctx, "order", `SELECT count(*) FROM journal`)
	if err != nil {
		t.Fatal(err)
	}
	if !until(ctx, time.Minute, func() bool {
		now, err := w.Count(ctx, "order", `SELECT count(*) FROM journal`)
		return err == nil && now-again > 200
	}) {
		t.Fatal("no life after the new epoch")
	}
	looking, look := context.WithCancel(ctx)
	defer look()
	seen := w.watchCompleteness(looking)
	stop()
	w.restored = "order"
	w.rest(ctx)
	if !until(ctx, time.Minute, func() bool { return seen.last(completenessProven) }) {
		t.Error("the view does not prove itself complete again")
	}
	look()
	w.compare(ctx)
}

// alone runs statements while nobody is connected to the orders' database.
func (w *world) alone(ctx context.Context, statements ...string) {
	w.t.Helper()
	w.Signal("order", syscall.SIGSTOP)
	defer w.Signal("order", syscall.SIGCONT)
	for _, sql := range append([]string{"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tidemark_order'"}, statements...) {
		var err error
		done := until(ctx, 20*time.Second, func() bool { // a session takes a moment to end
			err = w.set(ctx, "timeline", sql)
			return err == nil
		})
		if !done {
			w.t.Fatal(fmt.Errorf("%s: %w", sql, err))
		}
	}
}
