//go:build mixed

// Package mixed runs fleets of two releases at once, every part as a process of
// its own: old producers with new consumers, the reverse, and a fleet that is
// upgraded part by part while it works. The earlier releases are built from the
// repository's history, so the tests are built only where they are asked for, with
// the tag mixed.
package mixed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/tests/integration/olistexpect"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// Releases that must go with today's.
const (
	firstRelease  = "def8515" // version 1 of every schema, no other
	secondRelease = "562729e" // second versions; before OrderNeedsAttention
)

var (
	services = []string{"payment", "shipment", "order"}
	views    = []string{"timeline", "operations"}
)

// release builds an earlier release and returns its program.
func release(t *testing.T, ref string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "sh", "-c",
		fmt.Sprintf(`cd "$(git rev-parse --show-toplevel)" && git archive %s | tar -x -C %q`, ref, dir)).CombinedOutput()
	if err != nil {
		t.Fatalf("release %s is not in this history: %v\n%s", ref, err, out)
	}
	return processes.Build(t, dir, t.TempDir())
}

// world is a fleet and what the tests ask of it.
type world struct {
	*processes.Fleet
	t   *testing.T
	dir string
}

// start starts a fleet of which some parts are an earlier release's.
func start(t *testing.T, ref string, old []string) *world {
	t.Helper()
	program := release(t, ref)
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := testkit.Dir(t, "mixed")
	if ref == firstRelease { // its topics had eight partitions, and the count is fixed for ever
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "data"), 0o755), os.WriteFile(filepath.Join(dir, "data", "partitions"), []byte("8\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	programs := map[string]string{}
	for _, part := range old {
		programs[part] = program
	}
	fleet := processes.Start(t, processes.Options{Dir: dir, Parts: processes.Parts(), Base: processes.FreeBase(t), Programs: programs})
	return &world{Fleet: fleet, t: t, dir: dir}
}

// run runs a command that must succeed and returns what it printed.
func (w *world) run(args ...string) string {
	w.t.Helper()
	out, err := w.Run(w.t.Context(), args...)
	if err != nil {
		w.t.Fatalf("tidemark %s: %v\n%s\nsee %s", strings.Join(args, " "), err, out, filepath.Join(w.dir, "commands.log"))
	}
	return string(out)
}

// eventually runs a command until its output has a text.
func (w *world) eventually(text string, args ...string) {
	w.t.Helper()
	ticker, timeout := time.NewTicker(200*time.Millisecond), time.After(2*time.Minute)
	defer ticker.Stop()
	for {
		out, err := w.Run(w.t.Context(), args...)
		if err == nil && strings.Contains(string(out), text) {
			return
		}
		select {
		case <-ticker.C:
		case <-timeout:
			w.t.Fatalf("tidemark %s: never %q: %v\n%s", strings.Join(args, " "), text, err, out)
		}
	}
}

const mess = "../../../cmd/tidemark/olist/testdata/mess"

// imports brings orders in; the command fails unless files, timeline and
// operations agree to the cent.
func (w *world) imports(source string) {
	w.run("import", "olist", source, "--patience", "3m", "-o", "json")
}

// nothingParked looks into both read models.
func (w *world) nothingParked() {
	w.t.Helper()
	for _, view := range views {
		if out := w.run("view", "parked", "list", "--view", view, "-o", "json"); strings.Contains(out, "aggregate_id") {
			w.t.Errorf("parked in %s:\n%s", view, out)
		}
	}
}

func TestOldProducersAndNewReadModels(t *testing.T) {
	w := start(t, firstRelease, services)
	w.imports(mess)
	w.trouble(func(string) {}) // that release's process says less
	w.nothingParked()
	w.reconciles()
}

func TestNewProducersAndOldReadModels(t *testing.T) {
	w := start(t, secondRelease, views)
	w.imports(mess)
	w.trouble(func(order string) { w.eventually(order, "process", "list", "--needs-person", "-o", "json") })
}

// Everything is an earlier release; then part by part stops and goes on as
// today's, while real orders come in.
func TestAFleetIsUpgradedPartByPartUnderLoad(t *testing.T) {
	source := olistexpect.Sample(t)
	w := start(t, secondRelease, processes.Parts())
	imported := make(chan error, 1)
	go func() {
		_, err := w.Run(t.Context(), "import", "olist", source, "--patience", "5m", "-o", "json")
		imported <- err
	}()
	// The registry comes first: a program starts only if the schemas it knows are
	// registered. The order of the others is free.
	for _, part := range []string{"registry", "timeline", "order", "broker", "payment", "operations", "shipment", "postgres"} {
		before := w.committed()
		for w.committed() < before+500 {
			select {
			case err := <-imported:
				t.Fatalf("the import ended before %s was upgraded: %v", part, err)
			case <-time.After(100 * time.Millisecond):
			}
		}
		w.Upgrade(part)
		w.AwaitAll()
		t.Logf("%s is today's, after %d facts", part, w.committed())
	}
	if err := <-imported; err != nil {
		t.Fatalf("the import does not balance: %v; see %s", err, filepath.Join(w.dir, "commands.log"))
	}
	w.nothingParked()
	w.reconciles()
}

// committed counts events; while the database is away, as many as before.
func (w *world) committed() (n int64) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	n, _ = w.Committed(ctx) // asked again until it is there
	return n
}

// trouble has an order that fulfilment cannot end by itself, lets the caller look
// at it, and ends it.
func (w *world) trouble(look func(order string)) {
	w.t.Helper()
	w.run("order", "place", "--id", "mixed-1", "--customer", "ada", "--line", "teapot:1:24.90:north", "--pay", "card:24.90")
	w.eventually("mixed-1", "shipment", "list", "--order", "mixed-1", "-o", "json")
	var list struct {
		Shipments []struct {
			ID string `json:"shipment_id"`
		} `json:"shipments"`
	}
	out := w.run("shipment", "list", "--order", "mixed-1", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Shipments) == 0 {
		w.t.Fatalf("%v: %s", err, out)
	}
	w.run("shipment", "cancel", list.Shipments[0].ID)
	look("mixed-1")
	w.run("order", "cancel", "mixed-1")
	w.eventually("CANCELLED", "timeline", "status", "mixed-1", "-o", "json")
}

func (w *world) reconciles() {
	w.t.Helper()
	w.t.Log(w.run("reconcile"))
}
