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

// benchCmd measures what it starts itself.
type benchCmd struct {
	Relay        benchRelayCmd        `cmd:"" help:"How fast the relay drains, how soon a commit is readable, what the journal costs."`
	Freshness    benchFreshnessCmd    `cmd:"" help:"How long after it was placed is an order visible in the timeline?"`
	Projection   benchProjectionCmd   `cmd:"" help:"How fast facts are applied, what a query costs, how soon a commit is visible, beside bare floors."`
	Process      benchProcessCmd      `cmd:"" help:"How many orders a second go from place to completed, recovery after kill -9, the cost of waiting."`
	Completeness benchCompletenessCmd `cmd:"" help:"Which share of answers is proven complete and fresh under a steady load?"`
}

// benchDir makes a data directory that the database's user can reach.
func benchDir() (dir string, remove func() error, err error) {
	made, err := os.MkdirTemp("", "tidemark-bench-")
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return os.RemoveAll(made) }
	if err := os.Chmod(made, 0o755); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	if dir, err = postgres.ReachableDir(made); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return dir, remove, nil
}

type benchFreshnessCmd struct {
	Rate   float64 `help:"Orders per second, open loop." default:"50"`
	Orders int     `help:"Orders to measure." default:"3000"`
	Warmup int     `help:"Orders before that, not measured." default:"300"`

	Carrier bool `help:"Let carriers move the parcels too, so that orders are collected and completed meanwhile."`

	Rebuild bool `help:"Build the timeline anew and switch to it, over and over, meanwhile; read an order beside it."`

	CPUProfile string `name:"cpuprofile" help:"Write a CPU profile of the run there." type:"path"`
}

func (c *benchFreshnessCmd) Run(a *app) (err error) {
	if c.Rate <= 0 || c.Orders < 1 || c.Warmup < 0 {
		return usage("--rate and --orders must be positive, --warmup not negative")
	}
	dir, remove, err := benchDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	fmt.Fprintln(a.err, "starting a fleet of its own …")
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
	arrived, finish := progress(a.err, "arrived", "orders", c.Warmup+c.Orders)
	result, err := bench.RunFreshness(a.ctx, bench.FreshnessOptions{
		Dir: dir, Rate: c.Rate, Orders: c.Orders, Warmup: c.Warmup, Carrier: c.Carrier, Rebuild: c.Rebuild, Arrived: arrived,
	})
	finish()
	if err != nil {
		return err
	}
	if !a.json() {
		fmt.Fprintf(a.out, "%s, %d cores, %s, %s, broker %s, Postgres with fsync\n",
			result.Machine.CPU, result.Machine.Cores, result.Machine.OS, result.Machine.Go, result.Machine.Broker)
		fmt.Fprintf(a.out, "%d orders at %.1f/s (wanted %.0f/s), open loop, fulfilment running; %d orders confirmed and %d completed meanwhile\n\n",
			result.Orders, result.Reached, result.Rate, result.Confirmed, result.Completed)
		type row struct {
			name string
			q    bench.Quantiles
		}
		rows := []row{{"place", result.Place}, {"place to visible", result.Visible}}
		if r := result.Rebuilds; r != nil {
			fmt.Fprintf(a.out, "%d rebuilds of %d facts in %.1f s, %d swaps, %d refused; %d reads of an order beside them, %d failed\n\n",
				r.Rebuilds, r.Facts, r.Seconds, r.Swaps, r.Refused, r.Reads, r.FailedReads)
			if r.Refused > 0 {
				fmt.Fprintf(a.out, "refused, the last time: %s\n\n", r.Why)
			}
			rows = append(rows, row{"read", r.Read}, row{"read during a swap", r.DuringSwap}, row{"staleness", r.Staleness})
		}
		table := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "ms\tp50\tp90\tp99\tmax\t")
		for _, row := range rows {
			fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t\n", row.name, row.q.P50, row.q.P90, row.q.P99, row.q.Max)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

type benchCompletenessCmd struct {
	Rate     float64       `help:"Commands per second, open loop, one fact each." default:"500"`
	Duration time.Duration `help:"How long to measure." default:"60s"`
	Queries  float64       `help:"Queries per second meanwhile." default:"50"`
	Fresh    time.Duration `help:"Up to this age of as_of an answer counts as fresh." default:"2s"`
}

func (c *benchCompletenessCmd) Run(a *app) (err error) {
	if c.Rate <= 0 || c.Queries <= 0 || c.Duration <= 0 || c.Fresh <= 0 {
		return usage("--rate, --duration, --queries and --fresh must be positive")
	}
	dir, remove, err := benchDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	fmt.Fprintln(a.err, "starting a fleet of its own …")
	asked, finish := progress(a.err, "asked", "times", int(c.Queries*c.Duration.Seconds()))
	result, err := bench.RunCompleteness(a.ctx, bench.CompletenessOptions{
		Dir: dir, Rate: c.Rate, Duration: c.Duration, Queries: c.Queries, Fresh: c.Fresh, Asked: asked,
	})
	finish()
	if err != nil {
		return err
	}
	if !a.json() {
		fmt.Fprintf(a.out, "%s, %d cores, %s, %s, broker %s, Postgres with fsync\n",
			result.Machine.CPU, result.Machine.Cores, result.Machine.OS, result.Machine.Go, result.Machine.Broker)
		fmt.Fprintf(a.out, "%.0f commits/s (wanted %.0f/s), open loop, %d turned away\n", result.Reached, result.Wanted, result.TurnedAway)
		fmt.Fprintf(a.out, "%d of %d answers (%.2f %%) proven complete by all sources, as_of at most %s old; age of as_of p50 %.0f ms, p99 %.0f ms; %d sources violated\n\n",
			result.Good, result.Answers, 100*result.Share, c.Fresh, result.AsOf.P50, result.AsOf.P99, result.Violated)
	}
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}
