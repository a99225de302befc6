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
)

type benchProjectionCmd struct {
	Facts int `help:"Facts that are applied in each run of the live apply; 0 leaves it out." default:"60000"`
	Pairs int `help:"Pairs of kernel and bare loop, in A B B A order." default:"5"`
	Open  int `help:"Orders of a partition that are under way at once." default:"300"`

	Rebuild       int   `help:"Facts that a generation is built from, beside bare parts; 0 leaves it out." default:"1000000"`
	Rebuilds      int   `help:"How often each read model is built." default:"3"`
	RebuildMemory int64 `help:"What the states of a build may take, in MB." default:"64"`

	Stored   int           `help:"Facts that queries are asked over; 0 leaves them out." default:"1000000"`
	Queries  int           `help:"Queries one after another in a round." default:"3000"`
	Rounds   int           `help:"Rounds, each in A B B A order." default:"4"`
	Rate     float64       `help:"Queries per second, open loop." default:"1000"`
	Duration time.Duration `help:"How long each open loop runs." default:"10s"`

	Orders int `help:"Orders that are placed while freshness is measured; 0 leaves it out." default:"1500"`

	CPUProfile string `name:"cpuprofile" help:"Write a CPU profile of the run there." type:"path"`
}

func (c *benchProjectionCmd) Run(a *app) (err error) {
	if c.Facts < 0 || c.Pairs < 0 || c.Open < 1 || c.Rebuild < 0 || c.Rebuilds < 1 || c.RebuildMemory < 1 || c.Stored < 0 || c.Queries < 1 || c.Rounds < 1 || c.Rate <= 0 || c.Duration <= 0 || c.Orders < 0 {
		return usage("--facts, --pairs, --rebuild, --stored and --orders must not be negative, the others must be positive")
	}
	dir, remove, err := benchDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
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
	result, err := bench.RunProjection(a.ctx, bench.ProjectionOptions{
		Dir: dir, Facts: c.Facts, Pairs: c.Pairs, Open: c.Open, Rebuild: c.Rebuild, Rebuilds: c.Rebuilds,
		RebuildMemory: c.RebuildMemory, Stored: c.Stored, Queries: c.Queries, Rounds: c.Rounds, Rate: c.Rate,
		Duration: c.Duration, Orders: c.Orders, Progress: func(what string) { fmt.Fprintln(a.err, what) },
	})
	if err != nil {
		return err
	}
	if !a.json() {
		if err := printProjection(a, result); err != nil {
			return err
		}
	}
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func printProjection(a *app, r *bench.ProjectionResult) error {
	fmt.Fprintf(a.out, "%s, %d cores, %s, %s, Postgres %s with fsync\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Go, r.Postgres)
	table := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(table, format+"\n", args...) }
	row("MEASURED\tFIGURE\tAIM")
	for _, v := range r.Apply {
		row("live apply of %d facts, %s\t%.0f facts/s\t>= 15000", v.Facts, v.View, v.Kernel)
		row("bare loop of the same rows, %s\t%.0f facts/s\t", v.View, v.Bare)
		row("kernel / bare loop, median of %d pairs, %s\t%.2f\t>= 0.40", len(v.Pairs), v.View, v.Ratio)
		row("CPU of this process per million facts, kernel and bare loop, %s\t%.1f s, %.1f s\t", v.View, v.KernelCPU, v.BareCPU)
	}
	for _, v := range r.Rebuild {
		row("rebuild of %d facts, %s\t%.0f facts/s\t>= 70000", v.Facts, v.View, v.Rate)
		row("rebuild / (bare consume and decode + bare copy, index, set logged), median of %d, %s\t%.2f\t<= 1.50", len(v.Runs), v.View, v.Ratio)
		row("growth of this process while it rebuilds, its CPU per million facts, %s\t%.0f MB, %.1f s\t<= 512 MB", v.View, v.Memory, v.CPU)
		row("CPU of Postgres per million facts, rebuild and bare copy, %s\t%.1f s, %.1f s\t", v.View, v.ServerCPU, v.BareServerCPU)
	}
	if q := r.Query; q != nil {
		row("copied through Kafka by both read models at once, %d facts\t%.0f facts/s each\t", q.Stored, q.Copied)
		row("order status, one after another\tp50 %.2f, p99 %.2f ms, CPU %.0f us\t", q.Single.P50, q.Single.P99, q.CPU)
		row("bare handler, one after another\tp50 %.2f, p99 %.2f ms, CPU %.0f us\t", q.Bare.P50, q.Bare.P99, q.BareCPU)
		row("order status / bare handler\tp50 %.2f, CPU %.2f\t<= 1.50, <= 1.50", q.P50Ratio, q.CPURatio)
		single := max(5, 1.5*q.OpenBare.P99)
		for _, one := range []struct {
			name  string
			took  bench.OpenLoop
			limit string
		}{
			{"bare handler", q.OpenBare, ""}, {"order status", q.OpenSingle, fmt.Sprintf("p99 <= %.1f ms", single)},
			{"timeline page of 50", q.OpenTimeline, fmt.Sprintf("p99 <= %.1f ms", 2*single)},
			{"work list page", q.OpenWork, fmt.Sprintf("p99 <= %.1f ms", 4*single)},
		} {
			row("%s at %.0f/s\tp50 %.2f, p99 %.2f ms, CPU %.0f us\t%s", one.name, q.Rate, one.took.P50, one.took.P99, one.took.CPU, one.limit)
		}
	}
	if f := r.Freshness; f != nil {
		row("answered to visible, %d orders at %.0f/s\tp50 %.2f, p99 %.2f ms\t", f.Orders, f.Rate, f.Visible.P50, f.Visible.P99)
		row("floors: fsync, produce and fetch, fsync, query\tp50 %.2f, p99 %.2f ms\t", f.FloorP50, f.FloorP99)
		row("visible / floors\tp50 %.1f, p99 %.1f\t<= 3, <= 5", f.RatioP50, f.RatioP99)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out)
	return err
}
