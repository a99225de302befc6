package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
)

// partCmd runs some parts of the fleet in this process, while the others run in
// processes of their own on the same data directory and ports: the fleet as it
// is deployed, but on one machine and with the embedded servers.
type partCmd struct {
	Parts        []string `arg:"" help:"postgres, broker, registry, payment, shipment, order, timeline, operations."`
	DataDir      string   `help:"Where the data is; the same for all parts." default:".tidemark" type:"path" env:"TIDEMARK_DATA_DIR"`
	PortBase     int      `help:"The same for all parts; see dev." default:"7000" env:"TIDEMARK_PORT_BASE"`
	OTLPEndpoint string   `name:"otlp-endpoint" help:"Where to send traces and metrics, host:port." env:"TIDEMARK_OTLP_ENDPOINT"`
}

// Run runs the parts until Ctrl-C or until one of them dies. It prints "ready"
// when all of them serve; the log goes to stderr.
func (c *partCmd) Run(a *app) (err error) {
	if c.PortBase < 1024 || c.PortBase > 60000 {
		return usage("--port-base %d: want 1024 to 60000", c.PortBase)
	}
	if err := os.MkdirAll(c.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	log := slog.New(slog.NewTextHandler(a.err, nil))
	running, err := fleet.Start(a.ctx, fleet.Options{
		Dir: c.DataDir, PortBase: c.PortBase, Parts: c.Parts, Durable: true, OTLPEndpoint: c.OTLPEndpoint,
		Log: func(part string) *slog.Logger { return log.With("part", part) },
	})
	if err != nil {
		return ignoreCancel(a.ctx, err)
	}
	fmt.Fprintln(a.out, "ready")
	select {
	case <-a.ctx.Done():
	case err = <-running.Dead():
	}
	if stopErr := stopWithin(devStopLimit, running.Stop); err == nil {
		err = stopErr
	}
	return err
}
