// Package faults runs the fleet under faults of every kind it claims to
// survive: parts killed, frozen and restarted, acknowledgements lost and
// delayed, connections cut, transactions held and rolled back. Customers and
// carriers go on meanwhile. In the end what was committed is what was published
// is what was applied: nothing lost, nothing doubled, everything in order.
//
// Every kind counts how often it truly met work in flight; a run in which one
// never did proves nothing about it, and fails.
package faults

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/tests/integration/kafka"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

var (
	bites = flag.Int("bites", 1, "how often every kind of fault must meet work in flight")
	seed  = flag.Uint64("seed", 0, "seed of the choices; 0 draws one")
	rate  = flag.Float64("rate", 25, "orders per second")
	only  = flag.String("only", "", "strike only with the kinds of faults whose names hold this")
)

// settle bounds how long the fleet may stand still on its way to rest in the end,
// longest how long all of the way may take.
const settle, longest = 2 * time.Minute, 6 * time.Minute

// world is a fleet with somebody in between.
type world struct {
	*processes.Fleet
	t        *testing.T
	dir      string
	base     int
	choice   *rand.Rand
	database *processes.Proxy
	brokers  string
	broker   *embedded.Broker // nil on a real Kafka
	real     *kafka.Server    // nil on the embedded broker

	forgotten map[identity]bool // facts that the broker was made to forget
	missing   []identity        // facts that are not in the topics
	restored  string            // source whose topic holds facts that a restore undid
	foreign   map[place]bool    // records that no service wrote
}

func TestNothingIsLostUnderFaults(t *testing.T) {
	w := open(t)
	ctx := t.Context()

	stop := w.customers(ctx)
	tally := w.strikeAll(ctx)
	stop()
	t.Logf("faults that bit: %v; starts per part: %v", tally, w.Starts())
	for _, f := range w.kinds() {
		if tally[f.name] < *bites {
			t.Errorf("%s met work in flight %d times, want %d: the run proves nothing about it", f.name, tally[f.name], *bites)
		}
	}
	w.rest(ctx)
	w.compare(ctx)
}

// open starts the fleet: every part a process, but the broker, whose faults are
// injected from inside if it is the embedded one, and with a proxy in front of the database.
func open(t *testing.T) *world {
	t.Helper()
	return openWith(t, nil)
}

// openWith is open with databases of single parts on servers of their own, at
// these ports.
func openWith(t *testing.T, apart map[string]int) *world {
	t.Helper()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	dir := testkit.Dir(t, "faults")
	base := processes.FreeBase(t)
	behind := processes.FreeBase(t, base)
	w := &world{t: t, dir: dir, base: base, choice: rand.New(rand.NewPCG(*seed, 1)), forgotten: map[identity]bool{}, foreign: map[place]bool{}}
	routes := map[string]string{}
	for part, port := range apart {
		routes["tidemark_"+part] = processes.Address(port)
	}
	w.database = processes.Listen(t, processes.Address(base+432), processes.Address(behind+432), routes)
	w.makeBroker(t.Context())
	w.Fleet = processes.Start(t, processes.Options{
		Dir: dir, Base: base, Bases: map[string]int{"postgres": behind}, Databases: apart,
		Parts: []string{"postgres", "registry", "payment", "shipment", "order", "timeline", "operations"},
	})
	w.arm(t.Context())
	w.armViews(t.Context())
	return w
}

// partitions of every topic. The parts find the count in the data directory.
const partitions = 4

// makeBroker starts the embedded broker or, with TIDEMARK_TEST_BROKER=kafka, a
// real Apache Kafka.
func (w *world) makeBroker(ctx context.Context) {
	w.t.Helper()
	w.brokers = processes.Address(w.base + 92)
	data := filepath.Join(w.dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "partitions"), fmt.Appendln(nil, partitions), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if os.Getenv(kafka.BrokerVariable) == "kafka" {
		w.real = kafka.StartOn(w.t, w.base+92, partitions)
		return
	}
	w.startBroker(ctx)
	w.t.Cleanup(func() { w.broker.Close() })
}

// startBroker starts the embedded broker, with what it acknowledged before.
func (w *world) startBroker(ctx context.Context) {
	w.t.Helper()
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{Dir: filepath.Join(w.dir, "data", "broker"), Port: w.base + 92, Partitions: partitions})
	if err != nil {
		w.t.Fatalf("start the broker: %v", err)
	}
	w.broker = broker
}

// customers makes traffic until the returned function is called.
func (w *world) customers(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		out, err := w.Run(ctx, "traffic", "--rate", fmt.Sprint(*rate), "--pace", "150ms", "--seed", fmt.Sprint(*seed), "--every", "1h")
		w.t.Logf("traffic: %s", strings.TrimSpace(string(bytes.TrimSpace(out))))
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("traffic ended by itself: %v; see commands.log", err)
		}
	}()
	return func() { cancel(); <-ended }
}

// strikeAll strikes with every kind until each has bitten often enough, and
// returns how often each did.
func (w *world) strikeAll(ctx context.Context) map[string]int {
	w.t.Helper()
	tally := map[string]int{}
	const tries = 6
	for round := 0; round < *bites*tries; round++ {
		var due []fault
		for _, f := range w.kinds() {
			if tally[f.name] < *bites {
				due = append(due, f)
			}
		}
		if len(due) == 0 {
			break
		}
		w.choice.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
		for _, f := range due {
			pass(ctx, time.Duration(200+w.choice.IntN(600))*time.Millisecond)
			started := time.Now()
			bit, err := f.strike(ctx, w)
			if err != nil {
				w.t.Fatalf("%s: %v", f.name, err)
			}
			w.t.Logf("%-32s %5.1f s  %s", f.name, time.Since(started).Seconds(), bit)
			if bit.n > 0 {
				tally[f.name]++
			}
		}
	}
	return tally
}

// pass lets time go by while the fleet works.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// until asks every 50 ms until the answer is yes; false if it never is.
func until(ctx context.Context, limit time.Duration, yes func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !yes() {
		if ctx.Err() != nil {
			return false
		}
		pass(ctx, 50*time.Millisecond)
	}
	return true
}
