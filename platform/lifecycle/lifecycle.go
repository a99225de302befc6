// Package lifecycle starts and stops processes made of long-running parts.
//
// Main turns a service's Run function into a program: flags and environment
// become its Config, signals become a cancelled context, its error becomes the
// exit code. Run holds the parts of one service together: a dead part stops the
// others, and stopping happens in order and within a bound.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// EnvPrefix starts the name of every environment variable that sets a flag:
// --postgres-url is TIDEMARK_POSTGRES_URL.
const EnvPrefix = "TIDEMARK"

// StopTimeout is how long Main waits after the first signal before it gives up
// on an orderly stop, writes all goroutines to stderr and exits with 3.
const StopTimeout = 20 * time.Second

type logFlags struct {
	Level  slog.Level `help:"Least severe level to log: debug, info, warn or error." default:"info"`
	Format string     `help:"Log format: text or json." enum:"text,json" default:"text"`
}

// Main parses flags and environment into C (kong tags describe them; --help
// prints them), calls run with a context that ends on SIGINT or SIGTERM, and
// exits. The exit code is 0 after a clean stop, 1 when run failed, 2 for wrong
// flags, 3 when the stop took longer than StopTimeout. A second signal kills
// the process at once.
func Main[C any](name, description string, run func(context.Context, C) error) {
	var flags struct {
		Config C        `embed:""`
		Log    logFlags `embed:"" prefix:"log-"`
	}
	parser := kong.Must(&flags,
		kong.Name(name),
		kong.Description(description+"\n\nEvery flag can be set by environment: --log-level is "+EnvPrefix+"_LOG_LEVEL."),
		kong.DefaultEnvars(EnvPrefix),
	)
	if _, err := parser.Parse(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n  next: %s --help\n", name, err, name)
		os.Exit(2)
	}
	log := newLogger(os.Stderr, flags.Log.Level, flags.Log.Format)
	ctx, cancel := SignalContext(WithLogger(context.Background(), log))
	defer cancel()
	defer HeapFloor()()
	if err := run(ctx, flags.Config); err != nil {
		log.Error("stopped with an error", "error", err)
		os.Exit(1)
	}
}

// Defaults returns a C holding the defaults named in its kong tags. Code that
// builds a Config itself (the embedded fleet, tests) starts from it.
func Defaults[C any]() (C, error) {
	var config C
	if err := kong.ApplyDefaults(&config); err != nil {
		return config, fmt.Errorf("apply the defaults of %T: %w", config, err)
	}
	return config, nil
}

// SignalContext returns a context that ends on the first SIGINT or SIGTERM.
// From then on a second signal kills the process, and so does a stop that
// takes longer than StopTimeout. Calling the returned function disarms both.
func SignalContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	disarmed := make(chan struct{})
	go func() {
		select {
		case <-disarmed:
			return
		case <-ctx.Done():
		}
		stop() // the default action of a second signal is back
		select {
		case <-disarmed:
		case <-time.After(StopTimeout):
			_, _ = fmt.Fprintf(os.Stderr, "no orderly stop within %s, exiting; goroutines follow\n", StopTimeout)
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			os.Exit(3)
		}
	}()
	return ctx, func() {
		close(disarmed)
		stop()
	}
}

type loggerKey struct{}

// WithLogger returns a context whose Logger is log. The embedded fleet uses it
// to give every part a log file of its own.
func WithLogger(ctx context.Context, log *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, log)
}

// Logger returns the logger of ctx, or slog.Default when it has none. A
// service asks once, at the top of its Run, and passes the logger on.
func Logger(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.Default()
}

func newLogger(w io.Writer, level slog.Level, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if strings.EqualFold(format, "json") {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// ErrStoppedByItself is the reason of a stop that was caused by a part whose
// function returned nil although nobody had asked it to.
var ErrStoppedByItself = errors.New("part stopped by itself")
