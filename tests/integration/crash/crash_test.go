// Package crash kills the fleet. Every part runs as a process of its own; while
// the importer drives real orders through the public APIs, one part after the
// other, or all of them, die by SIGKILL. What was committed must be in the read
// models in the end, once, and the money must balance to the cent.
package crash

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/tests/integration/olistexpect"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

var (
	kills = flag.Int("kills", 20, "kills that must bite")
	seed  = flag.Uint64("seed", 0, "seed of the choices; 0 draws one")
)

func TestKilledAtAnyMoment(t *testing.T) {
	source := olistexpect.Sample(t)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	choice := rand.New(rand.NewPCG(*seed, 1))

	dir := testkit.Dir(t, "crash")
	parts := processes.Parts()
	w := processes.Start(t, processes.Options{Dir: dir, Parts: parts, Base: processes.FreeBase(t)})
	ctx := t.Context()

	imported := make(chan error, 1)
	go func() {
		_, err := w.Run(ctx, "import", "olist", source, "--report-only=false", "--patience", "3m", "-o", "json")
		imported <- err
	}()
	tally := map[string]int{}
	var bit int
	for importing := true; importing; {
		pause := time.NewTimer(time.Duration(200+choice.IntN(1500)) * time.Millisecond)
		select {
		case err := <-imported:
			if err != nil {
				t.Fatalf("the import does not balance: %v; see %s", err, filepath.Join(dir, "commands.log"))
			}
			importing = false
			pause.Stop()
			continue
		case <-pause.C:
		}
		if bit >= *kills {
			continue // let it finish
		}
		victim := "everything"
		if n := choice.IntN(len(parts) + 2); n < len(parts) {
			victim = parts[n]
		}
		waiting, ok := w.Waiting(ctx)
		if !ok {
			continue // not in a state that can be asked
		}
		strike(w, victim)
		if waiting.Unsent+waiting.Unapplied > 0 {
			bit++
			tally[victim]++
		}
		t.Logf("kill %d: %s, with %d facts unsent and %d not applied", bit, victim, waiting.Unsent, waiting.Unapplied)
		w.AwaitAll()
	}
	t.Logf("%d kills bit: %v; starts per part: %v", bit, tally, w.Starts())
	if bit < *kills {
		t.Errorf("only %d kills met unsent or unapplied facts; want %d", bit, *kills)
	}

	before, err := w.Committed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.Run(ctx, "import", "olist", source, "-o", "json")
	if err != nil {
		t.Fatalf("the second import does not balance: %v\n%s", err, out)
	}
	var report map[string]any
	if err := json.Unmarshal(out, &report); err != nil {
		t.Errorf("the report is no JSON: %v", err)
	}
	after, err := w.Committed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("the second import changed something: %d events, then %d", before, after)
	}
	applied, err := w.Applied(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if applied != after {
		t.Errorf("%d events committed, %d entries in the timeline", after, applied)
	}
}

// strike kills one part or everything.
func strike(w *processes.Fleet, victim string) {
	if victim != "everything" {
		w.Signal(victim, syscall.SIGKILL)
		return
	}
	for _, part := range processes.Parts() {
		w.Signal(part, syscall.SIGKILL)
	}
}
