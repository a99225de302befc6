package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows how far a phase is: a bar on a terminal, else a line every two
// seconds. It returns what to call after each unit and at the end.
func progress(w io.Writer, name, unit string, total int) (advance, finish func()) {
	if file, ok := w.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return bar(w, name, unit, total)
		}
	}
	var done atomic.Int64
	started := time.Now()
	line := func() {
		n := done.Load()
		rate := float64(n) / max(time.Since(started).Seconds(), 0.001)
		eta := "?"
		if rate > 0 {
			eta = short(time.Duration(float64(int64(total)-n) / rate * float64(time.Second)))
		}
		fmt.Fprintf(w, "%s: %d/%d %s, %.0f/s, %s to go\n", name, n, total, unit, rate, eta)
	}
	ticker, stop := time.NewTicker(2*time.Second), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
				line()
			case <-stop:
				return
			}
		}
	}()
	return func() { done.Add(1) }, func() {
		ticker.Stop()
		close(stop)
		<-ended
		line()
	}
}

func bar(w io.Writer, name, unit string, total int) (advance, finish func()) {
	bars := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	b := bars.AddBar(int64(total),
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d/%d "+unit)),
		mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageSpeed(0, "%.0f/s"), decor.Name(" ETA "), decor.AverageETA(decor.ET_STYLE_MMSS)))
	return b.Increment, func() {
		b.Abort(false) // no effect on a full bar
		bars.Wait()
	}
}
