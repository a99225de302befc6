package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is one line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// row is one line of the last table.
type row struct {
	suite, broker           string
	passed, failed, skipped int
	seconds                 float64
	note                    string
	skippedWhole            bool
	reasons                 map[string]int // why tests were skipped
}

// quiet is how long nothing may be heard before the running packages are named.
const quiet = 30 * time.Second

// watcher follows one run of go test.
type watcher struct {
	rowOf func(pkg string) (string, string)
	rows  []*row

	mu      sync.Mutex
	output  map[string][]string // by package and test, until it is known how that went
	tests   map[string][3]int   // passed, failed, skipped of a package
	running map[string]time.Time
	heard   time.Time
}

func newWatcher(rowOf func(string) (string, string)) *watcher {
	return &watcher{
		rowOf: rowOf, output: map[string][]string{}, tests: map[string][3]int{},
		running: map[string]time.Time{}, heard: time.Now(),
	}
}

func (w *watcher) row(suite, broker string) *row {
	for _, r := range w.rows {
		if r.suite == suite && r.broker == broker {
			return r
		}
	}
	r := &row{suite: suite, broker: broker, reasons: map[string]int{}}
	w.rows = append(w.rows, r)
	return r
}

func (w *watcher) failed() bool {
	return slices.ContainsFunc(w.rows, func(r *row) bool { return r.failed > 0 })
}

func (w *watcher) read(in io.Reader) {
	stop := make(chan struct{})
	defer close(stop)
	go w.nameTheSlow(stop)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Println(lines.Text()) // go test itself says something
			continue
		}
		w.mu.Lock()
		w.take(e)
		w.mu.Unlock()
	}
}

// nameTheSlow prints what is running when nothing else is printed for a while.
func (w *watcher) nameTheSlow(stop <-chan struct{}) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		w.mu.Lock()
		if time.Since(w.heard) >= quiet {
			names := slices.Sorted(maps.Keys(w.running))
			for i, pkg := range names {
				names[i] = fmt.Sprintf("%s (%.0f s)", strings.TrimPrefix(pkg, module), time.Since(w.running[pkg]).Seconds())
			}
			if len(names) == 0 {
				names = []string{"building"}
			}
			w.say("  ...      %s", strings.Join(names, ", "))
		}
		w.mu.Unlock()
	}
}

func (w *watcher) say(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	w.heard = time.Now()
}

func (w *watcher) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "start":
		w.running[e.Package] = time.Now()
	case "output":
		w.output[key] = append(w.output[key], e.Output)
	case "build-output":
		fmt.Print("    " + e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			w.testEnded(e, key)
		} else {
			w.packageEnded(e, key)
		}
		delete(w.output, key)
	}
}

func (w *watcher) testEnded(e event, key string) {
	counts := w.tests[e.Package]
	switch e.Action {
	case "pass":
		counts[0]++
	case "fail":
		counts[1]++
		w.say("  FAIL     %s %s", strings.TrimPrefix(e.Package, module), e.Test)
		for _, line := range w.output[key] {
			if !strings.HasPrefix(line, "=== ") {
				fmt.Print("    " + line)
			}
		}
	case "skip":
		counts[2]++
		suite, broker := w.rowOf(e.Package)
		w.row(suite, broker).reasons[skipReason(w.output[key])]++
	}
	w.tests[e.Package] = counts
}

// skipReason finds what t.Skip said: the last line that names a file and is no
// heading of the test framework; what was logged before stands above it.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		text := strings.TrimSpace(line)
		if file, reason, ok := strings.Cut(text, ": "); ok && strings.Contains(file, ".go:") {
			return reason
		}
	}
	return "no reason given"
}

func (w *watcher) packageEnded(e event, key string) {
	delete(w.running, e.Package)
	counts := w.tests[e.Package]
	suite, broker := w.rowOf(e.Package)
	r := w.row(suite, broker)
	r.passed, r.failed, r.skipped = r.passed+counts[0], r.failed+counts[1], r.skipped+counts[2]
	r.seconds += e.Elapsed
	name := strings.TrimPrefix(e.Package, module)
	cached := ""
	if slices.ContainsFunc(w.output[key], func(line string) bool { return strings.Contains(line, "(cached)") }) {
		cached = ", cached"
	}
	switch {
	case e.Action == "fail":
		if counts[1] == 0 { // no test failed: it did not build, or it died
			r.failed++
			fmt.Print("    " + strings.Join(w.output[key], "    "))
		}
		w.say("  FAILED   %-42s %6.1f s", name, e.Elapsed)
	case counts[0] == 0 && counts[2] > 0:
		w.say("  skipped  %-42s %6.1f s", name, e.Elapsed)
	case counts[0] > 0:
		w.say("  ok       %-42s %6.1f s  %d tests%s%s", name, e.Elapsed, counts[0], skips(counts[2]), cached)
	}
}

func skips(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d skipped", n)
}
