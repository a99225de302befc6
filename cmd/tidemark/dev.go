package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/traffic"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// devStopLimit bounds the stop of the whole fleet after Ctrl-C.
const devStopLimit = 15 * time.Second

// devControlPort is where, above the port base, the dev run tells about itself.
const devControlPort = 80

type devCmd struct {
	DataDir      string  `help:"Where the data and the logs are." default:".tidemark" type:"path" env:"TIDEMARK_DATA_DIR"`
	PortBase     int     `help:"Ports are this plus 101 to 103 (services), 201, 202 (read models), 80, 81, 92, 432 (control, registry, broker, postgres), and 1000 more for metrics." default:"7000" env:"TIDEMARK_PORT_BASE"`
	TrafficRate  float64 `name:"traffic" help:"Synthetic orders per second; 0 for none. Parcels move in any case." default:"0.5" env:"TIDEMARK_TRAFFIC"`
	TraceRate    float64 `help:"Orders and other calls to record for tidemark trace, per second; 0 records all." default:"20" env:"TIDEMARK_TRACE_RATE"`
	OTLPEndpoint string  `name:"otlp-endpoint" help:"Also send traces and metrics there, host:port." env:"TIDEMARK_OTLP_ENDPOINT"`
}

// Run runs the whole fleet until Ctrl-C or until a part dies.
func (c *devCmd) Run(a *app) (err error) {
	if c.PortBase < 1024 || c.PortBase > 60000 {
		return usage("--port-base %d: want 1024 to 60000", c.PortBase)
	}
	if err := os.MkdirAll(c.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	unlock, err := lockDir(c.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := stopLeftover(c.DataDir); err != nil {
		return err
	}
	if err := portsAreFree(c.PortBase); err != nil {
		return err
	}
	logs, err := openLogs(filepath.Join(c.DataDir, "log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logs.For("telemetry").Warn("telemetry", "error", err)
	}))

	run := &devRun{cmd: c, app: a, logs: logs, begun: time.Now(), since: map[string]time.Time{}}
	fmt.Fprintf(a.out, "tidemark: data in %s, logs in %s\n", shortPath(c.DataDir), shortPath(logs.dir))
	if dir, err := fleet.PostgresDir(c.DataDir); err == nil && !strings.HasPrefix(dir, c.DataDir) {
		run.say("postgres' data in " + dir + ": its user may not enter this directory")
	}
	err = run.run(a.ctx)
	if a.ctx.Err() != nil {
		fmt.Fprintln(a.out, "stopped; the data is kept")
	}
	return err
}

// stopLeftover ends the postgres of a run that was killed a moment ago: it is
// ours, and its port is no reason to complain.
func stopLeftover(dataDir string) error {
	dir, err := fleet.PostgresDir(dataDir)
	if err != nil {
		return err
	}
	return postgres.StopLeftover(dir)
}

// devRun is one run of the dev command.
type devRun struct {
	cmd   *devCmd
	app   *app
	logs  *logFiles
	begun time.Time

	mu    sync.Mutex
	since map[string]time.Time // when a part began to start
}

func (r *devRun) run(ctx context.Context) error {
	// Found before the clock of the part's start runs: obtaining may take minutes.
	if _, err := binaries.Ensure(ctx, r.say); err != nil {
		return ignoreCancel(ctx, err)
	}
	spans, err := sink.Start(sink.Config{Forward: r.cmd.OTLPEndpoint})
	if err != nil {
		return err
	}
	defer func() { _ = spans.Close() }() // it keeps nothing
	running, err := fleet.Start(ctx, fleet.Options{
		Dir: r.cmd.DataDir, PortBase: r.cmd.PortBase, Durable: true,
		PostgresLog: r.logs.Path(fleet.Postgres), Log: r.logs.For, Progress: r.progress,
		OTLPEndpoint: spans.Endpoint(), TracesPerSecond: r.cmd.TraceRate,
	})
	if err != nil {
		return ignoreCancel(ctx, err)
	}
	err = r.serve(ctx, running, spans)
	if ctx.Err() != nil {
		fmt.Fprintln(r.app.out, "stopping")
	}
	return errors.Join(err, stopWithin(devStopLimit, running.Stop))
}

// serve returns when ctx ends, with nil, or when something died.
func (r *devRun) serve(ctx context.Context, running *fleet.Fleet, spans *sink.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	control, err := startControl(fmt.Sprintf("127.0.0.1:%d", r.cmd.PortBase+devControlPort), spans)
	if err != nil {
		return err
	}
	defer control.Close()
	clients, err := r.dial(running)
	if err != nil {
		return err
	}
	defer func() { _ = clients.Close() }() // on the way out
	trafficDone := make(chan error, 1)
	go func() {
		trafficDone <- traffic.Run(ctx, clients, traffic.Options{Rate: r.cmd.TrafficRate})
	}()
	r.ready()
	select {
	case <-ctx.Done():
		return <-trafficDone
	case err := <-running.Dead():
		return &devError{message: err.Error(), next: "see the logs in " + shortPath(r.logs.dir)}
	case err := <-trafficDone:
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("traffic ended: %w", err)
	}
}

func (r *devRun) dial(running *fleet.Fleet) (*client.Fleet, error) {
	return client.Dial(client.Addresses{
		Order: running.Addr(fleet.Order), Payment: running.Addr(fleet.Payment), Shipment: running.Addr(fleet.Shipment),
		Timeline: running.Addr(fleet.Timeline), Operations: running.Addr(fleet.Operations),
	})
}

func (r *devRun) say(what string) { fmt.Fprintln(r.app.out, "  "+what) }

// progress prints one line for each part, when it serves.
func (r *devRun) progress(part, status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status == "starting" {
		r.since[part] = time.Now()
		return
	}
	fmt.Fprintf(r.app.out, "  %-12s %-16s %5.1f s   log %s\n", part, status,
		time.Since(r.since[part]).Seconds(), shortPath(r.logs.Path(part)))
}

func (r *devRun) ready() {
	program, addr := programPath(), ""
	if r.cmd.PortBase != fleet.DefaultPortBase {
		addr = fmt.Sprintf(" --addr 127.0.0.1:%d", r.cmd.PortBase)
	}
	traffic := "no synthetic orders (--traffic)"
	if r.cmd.TrafficRate > 0 {
		traffic = fmt.Sprintf("about %g synthetic orders a second", r.cmd.TrafficRate)
	}
	fmt.Fprintf(r.app.out, `
  metrics and health of each service: its port plus 1000, as in http://127.0.0.1:%d/metrics
  %s

Try, in a second shell:
  %[3]s order place%[4]s
  %[3]s timeline customer customer-1%[4]s
  %[3]s ops board%[4]s

ready after %.1[5]f s; Ctrl-C stops
`, r.cmd.PortBase+1101, traffic, program, addr, time.Since(r.begun).Seconds())
}

// devError says why the dev run cannot go on, and what to do.
type devError struct{ message, next string }

func (e *devError) Error() string { return e.message }

// ignoreCancel turns the consequences of Ctrl-C into nil.
func ignoreCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func stopWithin(limit time.Duration, stop func() error) error {
	done := make(chan error, 1)
	go func() { done <- stop() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("the fleet did not stop within %s and is left to die with this process", limit)
	}
}

// programPath is how the reader can call this program from where they are.
func programPath() string {
	path, err := os.Executable()
	if err != nil {
		return "tidemark"
	}
	return shortPath(path)
}

// shortPath writes a path relative to the working directory when it is below.
func shortPath(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	relative, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(relative, "..") {
		return path
	}
	return "." + string(filepath.Separator) + relative
}
