package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
)

// Exit codes of the binary.
const (
	exitOK = iota
	exitError
	exitUsage
)

// globals are the flags that every command takes.
type globals struct {
	Addr           string        `help:"Where the fleet runs: HOST or HOST:BASE. Ports are BASE+101 (order), 102 (payment), 103 (shipment), 201 (timeline), 202 (operations)." default:"127.0.0.1:7000" env:"TIDEMARK_FLEET" placeholder:"HOST[:BASE]" group:"Connection"`
	AddrOrder      string        `help:"Order service, if elsewhere." env:"TIDEMARK_ADDR_ORDER" placeholder:"HOST:PORT" group:"Connection"`
	AddrPayment    string        `help:"Payment service, if elsewhere." env:"TIDEMARK_ADDR_PAYMENT" placeholder:"HOST:PORT" group:"Connection"`
	AddrShipment   string        `help:"Shipment service, if elsewhere." env:"TIDEMARK_ADDR_SHIPMENT" placeholder:"HOST:PORT" group:"Connection"`
	AddrTimeline   string        `help:"Timeline, if elsewhere." env:"TIDEMARK_ADDR_TIMELINE" placeholder:"HOST:PORT" group:"Connection"`
	AddrOperations string        `help:"Operations view, if elsewhere." env:"TIDEMARK_ADDR_OPERATIONS" placeholder:"HOST:PORT" group:"Connection"`
	Timeout        time.Duration `help:"How long one call may take." default:"10s" env:"TIDEMARK_TIMEOUT" group:"Connection"`
	Output         string        `short:"o" help:"table for people, json for programs." enum:"table,json" default:"table" env:"TIDEMARK_OUTPUT" group:"Connection"`
}

// addresses works out the five addresses.
func (g *globals) addresses() (client.Addresses, error) {
	host, base, err := g.base()
	if err != nil {
		return client.Addresses{}, err
	}
	pick := func(explicit string, offset int) string {
		if explicit != "" {
			return explicit
		}
		return net.JoinHostPort(host, strconv.Itoa(base+offset))
	}
	return client.Addresses{
		Order:      pick(g.AddrOrder, 101),
		Payment:    pick(g.AddrPayment, 102),
		Shipment:   pick(g.AddrShipment, 103),
		Timeline:   pick(g.AddrTimeline, 201),
		Operations: pick(g.AddrOperations, 202),
	}, nil
}

// base works out the host and the base port of the fleet.
func (g *globals) base() (host string, base int, err error) {
	host, port, err := net.SplitHostPort(g.Addr)
	if err != nil { // a host alone
		return g.Addr, 7000, nil
	}
	if base, err = strconv.Atoi(port); err != nil || base < 1 || base > 65535-202 {
		return "", 0, usage("--addr %q: the base port is a number from 1 to %d", g.Addr, 65535-202)
	}
	return host, base, nil
}

// clientCommands are the commands that talk to a running fleet.
type clientCommands struct {
	Order      orderCmd      `cmd:"" help:"Place orders and move them on."`
	Process    processCmd    `cmd:"" help:"For operators: the processes that move orders on."`
	Payment    paymentCmd    `cmd:"" help:"Payments of orders."`
	Shipment   shipmentCmd   `cmd:"" help:"Shipments of orders."`
	Timeline   timelineCmd   `cmd:"" help:"What happened to a customer's orders."`
	Ops        opsCmd        `cmd:"" help:"What work needs attention now."`
	Source     sourceCmd     `cmd:"" help:"For operators: whether a source works, its epoch, its events that cannot be sent."`
	View       viewCmd       `cmd:"" help:"For operators: the read models, their contracts, what is parked."`
	Reconcile  reconcileCmd  `cmd:"" help:"For operators: are the read models what their owners say?"`
	Trace      traceCmd      `cmd:"" help:"The spans of an order's journey, as a tree."`
	Import     importCmd     `cmd:"" help:"Bring orders of another system in."`
	Traffic    trafficCmd    `cmd:"" help:"Synthetic customers and carriers, until stopped."`
	Bench      benchCmd      `cmd:"" help:"Measure a fleet that is started for it."`
	Setup      setupCmd      `cmd:"" help:"For operators: topics and schemas of a deployment."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
}

// app is what a command needs to run.
type app struct {
	*client.Fleet
	ctx     context.Context
	globals *globals
	model   *kong.Application
	out     io.Writer
	err     io.Writer
}

// call returns a context for one call.
func (a *app) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.ctx, a.globals.Timeout)
}

// json reports whether the answer is for a program.
func (a *app) json() bool { return a.globals.Output == "json" }

// usageError is a mistake in how the command was called.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usage(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// run parses the arguments and runs the command; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var commands root
	exited := -1
	parser, err := kong.New(&commands,
		kong.Name("tidemark"),
		kong.Description("Orders, payments and shipments, and read models that prove themselves."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Configuration(kong.JSON, configPaths()...),
		kong.ExplicitGroups([]kong.Group{{Key: "Connection", Title: "Connection and output (also in the environment and in ~/.config/tidemark/config.json):"}}),
	)
	if err != nil {
		fmt.Fprintf(stderr, "tidemark: %v\n", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "tidemark: %v\n  next: %s\n", err, helpHint(err))
		return exitUsage
	}
	a := &app{ctx: ctx, globals: &commands.globals, model: parser.Model, out: stdout, err: stderr}
	if err := a.execute(parsed); err != nil {
		a.explain(err)
		if _, bad := errors.AsType[*usageError](err); bad {
			return exitUsage
		}
		return exitError
	}
	return exitOK
}

func (a *app) execute(parsed *kong.Context) (err error) {
	addresses, err := a.globals.addresses()
	if err != nil {
		return err
	}
	if a.Fleet, err = client.Dial(addresses); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Fleet.Close()) }()
	parsed.BindTo(a.ctx, (*context.Context)(nil))
	return parsed.Run(a)
}

// helpHint names the command whose help explains a parse error.
func helpHint(err error) string {
	command := "tidemark"
	if bad, ok := errors.AsType[*kong.ParseError](err); ok && bad.Context != nil && bad.Context.Selected() != nil {
		command = bad.Context.Selected().FullPath()
	}
	return command + " --help"
}

// configPaths are the files that may hold defaults for flags, as one JSON
// object from flag name to value: {"addr": "fleet.example:7000"}.
func configPaths() []string {
	if explicit := os.Getenv("TIDEMARK_CONFIG"); explicit != "" {
		return []string{explicit}
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil
	}
	return []string{filepath.Join(dir, "tidemark", "config.json")}
}
