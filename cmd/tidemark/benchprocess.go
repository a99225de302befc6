package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/bench"
)

type benchProcessCmd struct {
	Orders    int           `help:"Orders that go the whole happy path; 0 leaves it out." default:"3000"`
	Placers   int           `help:"Customers at once." default:"8"`
	Waiting   int           `help:"Waiting processes whose cost is measured; 0 leaves it out." default:"100000"`
	Quiet     time.Duration `help:"How long that is measured, three times before and after." default:"15s"`
	Kills     int           `help:"How often a fleet is killed by kill -9; 0 leaves it out." default:"3"`
	KillAfter time.Duration `help:"For how long orders arrive before each." default:"10s"`
	KillRate  float64       `help:"Orders a second around it." default:"50"`

	CPUProfile string `name:"cpuprofile" help:"Write a CPU profile of the run there." type:"path"`
}

func (c *benchProcessCmd) Run(a *app) (err error) {
	if c.Orders < 0 || c.Placers < 1 || c.Waiting < 0 || c.Quiet <= 0 || c.Kills < 0 || c.KillAfter <= 0 || c.KillRate <= 0 || c.KillRate > 1000 {
		return usage("--orders, --waiting and --kills must not be negative, --placers, --quiet, --kill-after and --kill-rate must be positive, --kill-rate at most 1000")
	}
	dir, remove, err := benchDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	binary, err := os.Executable()
	if err != nil {
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
	r, err := bench.RunProcess(a.ctx, bench.ProcessOptions{
		Dir: dir, Orders: c.Orders, Placers: c.Placers, Waiting: c.Waiting, Quiet: c.Quiet, Binary: binary,
		Kills: c.Kills, KillAfter: c.KillAfter, KillRate: c.KillRate,
		Progress: func(what string) { fmt.Fprintln(a.err, what) },
	})
	if err != nil {
		return err
	}
	if !a.json() {
		if err := printProcess(a, r); err != nil {
			return err
		}
	}
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func printProcess(a *app, r bench.Process) error {
	fmt.Fprintf(a.out, "%s, %d cores, %s, %s, broker %s, Postgres with fsync\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Go, r.Machine.Broker)
	table := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(table, format+"\n", args...) }
	row("MEASURED\tFIGURE\tAIM")
	if r.Orders > 0 {
		row("place to completed, %d orders\t%.1f orders/s\t>= 100", r.Orders, r.PerSecond)
		row("CPU of fleet, database and load\t%.1f s per 1000 orders\t", r.CPUPerThousand)
	}
	if r.Waiting > 0 {
		row("%d waiting processes\t%.2f %% of a core, idle fleet %.2f %%\t< 1 %% more", r.Waiting, r.WaitingCPU, r.IdleCPU)
		row("memory they take\t%+d KiB\tflat", r.WaitingHeap>>10)
	}
	if n := len(r.Kills); n > 0 {
		took := func(k bench.Kill) float64 { return k.ReadySeconds + k.RecoveredSeconds }
		slices.SortFunc(r.Kills, func(a, b bench.Kill) int { return cmp.Compare(took(a), took(b)) })
		worst, median := r.Kills[n-1], r.Kills[n/2]
		row("killed by kill -9 %d times: from the new start until no order of before stands still, worst\t%.1f s\t<= 5", n, took(worst))
		row("of which until it serves\t%.1f s\t", worst.ReadySeconds)
		row("median, of which until it serves\t%.1f s, %.1f s\t", took(median), median.ReadySeconds)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	return nil
}
