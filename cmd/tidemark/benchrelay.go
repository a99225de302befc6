package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"text/tabwriter"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/bench"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

type benchRelayCmd struct {
	Kafka string `help:"Measure with these brokers instead of the embedded one. Topics tidemark.* there are deleted and made again!" placeholder:"BROKERS"`

	Drain    int    `help:"Unsent rows that a drain sends; 0 leaves it out." default:"200000"`
	Pairs    int    `help:"Pairs of relay and bare loop, in A B B A order." default:"7"`
	Sabotage string `help:"Spoil every drain: the benchmark must fail." enum:",lose,double,reorder" default:""`

	Rate    float64       `help:"Commits per second, open loop, while commit to readable is measured." default:"500"`
	Latency time.Duration `help:"For how long; 0 leaves it out." default:"20s"`

	Commits time.Duration `help:"How long each closed loop of commits runs; 0 leaves it out." default:"4s"`
	Clients int           `help:"Clients that commit at once." default:"16"`
	Rounds  int           `help:"Rounds of closed loops." default:"4"`

	Idle   time.Duration `help:"How long nothing happens; 0 leaves it out. Ten minutes show growth." default:"20s"`
	Memory int           `help:"Rows that are drained while memory is watched; 0 leaves it out. 5000000 take some 6 GB of disk." default:"400000"`

	CPUProfile string `name:"cpuprofile" help:"Write a CPU profile of the run there." type:"path"`
}

func (c *benchRelayCmd) Run(a *app) (err error) {
	if c.Drain < 0 || c.Pairs < 0 || c.Rate < 0 || c.Clients < 1 || c.Rounds < 0 || c.Memory < 0 {
		return usage("--drain, --pairs, --rate, --rounds and --memory must not be negative, --clients starts at 1")
	}
	dir, err := os.MkdirTemp("", "tidemark-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // the database runs as another user
		return err
	}
	if dir, err = postgres.ReachableDir(dir); err != nil {
		return err
	}
	if c.CPUProfile != "" {
		file, err := os.Create(c.CPUProfile)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	result, err := bench.RunRelay(a.ctx, bench.RelayOptions{
		Dir: dir, Kafka: c.Kafka, Drain: c.Drain, Pairs: c.Pairs, Sabotage: c.Sabotage, CommitRate: c.Rate, Latency: c.Latency,
		Commits: c.Commits, Clients: c.Clients, Rounds: c.Rounds, Idle: c.Idle, Memory: c.Memory,
		Progress: func(what string) { fmt.Fprintln(a.err, what) },
	})
	if err != nil {
		return err
	}
	if !a.json() {
		if err := c.print(a, result); err != nil {
			return err
		}
	}
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func (c *benchRelayCmd) print(a *app, r *bench.RelayResult) error {
	fmt.Fprintf(a.out, "%s, %d cores, %s, %s, Postgres %s with fsync, broker %s, librdkafka %s\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Go,
		r.Versions.Postgres, r.Versions.Broker, r.Versions.Librdkafka)
	table := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(table, format+"\n", args...) }
	row("MEASURED\tFIGURE\tAIM")
	if d := r.Drain; d != nil {
		row("drain of %d rows, relay\t%.0f rows/s\t>= 60000", d.Rows, d.Relay)
		row("drain, bare loop\t%.0f rows/s%s\t>= 60000, or the run is invalid", d.Bare, yes(!d.Valid, " INVALID"))
		row("drain, relay / bare loop, median of %d pairs\t%.2f\t>= 0.80", len(d.Pairs), d.Ratio)
		row("CPU per million rows, relay and bare loop\t%.1f s, %.1f s\t", d.RelayCPU, d.BareCPU)
	}
	if l := r.Latency; l != nil {
		row("commit to readable at %.0f commits/s\tp50 %.1f, p99 %.1f, max %.1f ms\tp50 <= 2, p99 <= 25 ms", l.Reached, l.Commit.P50, l.Commit.P99, l.Commit.Max)
		row("due to readable\tp50 %.1f, p99 %.1f, max %.1f ms\t", l.Due.P50, l.Due.P99, l.Due.Max)
	}
	if m := r.Commits; m != nil {
		row("commits without journal, %d clients\t%.0f/s\t", m.Clients, m.Without)
		row("commits, relay stopped\t%.0f/s = %.2f\t>= 0.70", m.Stopped, m.StoppedRatio)
		row("commits, relay running\t%.0f/s = %.2f\t>= 0.70", m.Running, m.RunningRatio)
		row("CPU per commit: without, relay stopped, running\t%.0f, %.0f, %.0f µs\t", m.WithoutCPU, m.StoppedCPU, m.RunningCPU)
	}
	if i := r.Idle; i != nil {
		row("idle for %.0f s, process with broker\t%.2f %% of a core, heap %+d KiB\t< 1 %%, no growth", i.Seconds, i.CPU, i.Heap>>10)
		row("idle, Postgres\t%.2f %% of a core, database %+d KiB\t", i.Postgres, i.Database>>10)
	}
	if m := r.Memory; m != nil {
		row("heap while %d rows drain, early and late\t%d, %d MiB\tflat", m.Rows, m.Early>>20, m.Late>>20)
		row("resident memory, early and late\t%d, %d MiB\tflat but for the broker's index", m.EarlyRSS>>20, m.LateRSS>>20)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out)
	return err
}
