// Command testtable runs the tests of every module, says after each package
// how it went, and ends with a table of suites and brokers: what ran, what was
// skipped and why, and how long it took.
//
// It is run by `make test` as `go run tools/testtable/*.go`, from the root.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const module = "github.com/tidemark-dev/tidemark/"

// starter is the package that starts a real Kafka; packages that import it run
// once on each broker.
const starter = module + "tests/integration/kafka"

func main() {
	race := flag.Bool("race", false, "run with the race detector")
	mode := flag.String("kafka", defaultMode(), "real Kafka: required, auto or off")
	only := flag.String("only", "", "run only packages whose path contains this")
	run := flag.String("run", "", "run only tests that match, as go test -run")
	flag.Parse()
	if !slices.Contains([]string{"required", "auto", "off"}, *mode) {
		fail("-kafka %q: want required, auto or off", *mode)
	}
	packages, err := list(*only)
	if err != nil {
		fail("list the packages: %v", err)
	}

	var flags []string
	if *race {
		flags = append(flags, "-race")
	}
	if *run != "" {
		flags = append(flags, "-run", *run)
	}
	var rows []*row
	if len(packages.plain) > 0 {
		fmt.Println("unit and property tests")
		rows = append(rows, test(flags, nil, packages.plain, byModule)...)
	}
	if len(packages.onBroker) > 0 {
		fmt.Println("integration tests on the embedded broker")
		rows = append(rows, test(append(flags, "-count=1"), []string{"TIDEMARK_TEST_BROKER=embedded"}, packages.onBroker,
			func(string) (string, string) { return "integration", "embedded" })...)
	}
	if len(packages.onBroker)+len(packages.starter) > 0 {
		rows = append(rows, onKafka(flags, *mode, slices.Concat(packages.starter, packages.onBroker))...)
	}
	os.Exit(report(rows, os.Getenv("CI") == "true"))
}

// onKafka runs the integration tests on a real Kafka, or says why it does not.
func onKafka(flags []string, mode string, packages []string) []*row {
	fmt.Println("integration tests on a real Apache Kafka")
	if mode == "off" {
		fmt.Println("  SKIPPED: REAL_KAFKA=off")
		return []*row{{suite: "integration", broker: "Apache Kafka", note: "REAL_KAFKA=off", skippedWhole: true}}
	}
	// One package at a time: each test starts a JVM. The race detector has seen
	// the same code on the embedded broker, and a slow client proves less here.
	flags = slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return f == "-race" })
	flags = append(flags, "-count=1", "-p=1")
	env := []string{"TIDEMARK_TEST_BROKER=kafka", "REAL_KAFKA=" + mode}
	return test(flags, env, packages, func(string) (string, string) { return "integration", "Apache Kafka" })
}

func defaultMode() string {
	if mode := os.Getenv("REAL_KAFKA"); mode != "" {
		return mode
	}
	if os.Getenv("CI") == "true" {
		return "required"
	}
	return "auto"
}

// byModule names the suite of a package after its top folder.
func byModule(pkg string) (suite, broker string) {
	path := strings.TrimPrefix(pkg, module)
	for _, top := range []string{"cmd/tidemark", "tests/integration"} {
		if strings.HasPrefix(path, top) {
			return top, "embedded"
		}
	}
	top, _, _ := strings.Cut(path, "/")
	return top, "embedded"
}

type selection struct{ plain, onBroker, starter []string }

// list sorts the workspace's packages that have tests.
func list(only string) (selection, error) {
	const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}} {{join .Imports " "}}{{end}}`
	cmd := exec.Command("go", "list", "-f", format, "work")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return selection{}, err
	}
	var s selection
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || !strings.Contains(fields[0], only):
		case fields[0] == starter:
			s.starter = append(s.starter, starter)
		case slices.Contains(fields[1:], starter):
			s.onBroker = append(s.onBroker, fields[0])
		default:
			s.plain = append(s.plain, fields[0])
		}
	}
	return s, nil
}

// test runs the packages and returns one row for each suite and broker that
// rowOf names.
func test(flags, env, packages []string, rowOf func(pkg string) (suite, broker string)) []*row {
	args := slices.Concat([]string{"test", "-json", "-timeout=20m"}, flags, packages)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		fail("run go test: %v", err)
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		fail("run go test: %v", err)
	}
	w := newWatcher(rowOf)
	w.read(out)
	if err := cmd.Wait(); err != nil && !w.failed() {
		// go test failed although every test passed: a package did not build.
		fmt.Printf("  go test: %v\n", err)
		suite, broker := rowOf(packages[0])
		w.row(suite, broker).failed++
	}
	fmt.Printf("  %.0f s in all\n", time.Since(begun).Seconds())
	return w.rows
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "testtable: "+format+"\n", args...)
	os.Exit(2)
}
