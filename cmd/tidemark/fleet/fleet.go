// Package fleet runs the whole of Tidemark, or any part of it, inside one
// process: a private Postgres, an embedded broker and registry, the three
// services and the read models. `tidemark dev` and the integration tests start
// the same fleet; the parts are the same code that runs as separate programs.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/schemas"
)

// DefaultPortBase is the port base of the documented addresses.
const DefaultPortBase = 7000

// gcPercent trades memory, of which an embedded fleet needs little, for time.
const gcPercent = 300

// startLimit bounds the start of one part.
const startLimit = 90 * time.Second

// Options say what to run and where.
type Options struct {
	// Dir is the data directory; required.
	Dir string
	// PortBase is added to every part's own number: with 7000, order is 7101.
	// With 0 every part gets some free port, and keeps it when it starts again.
	PortBase int
	// Parts to run; empty means all.
	Parts []string
	// Durable turns Postgres' fsync on. Only tests turn it off.
	Durable bool
	// DatabaseURL gives the database of a part. Nil: those of the part postgres.
	DatabaseURL func(part string) string
	// Partitions of every topic. 0 means what the data directory was made with,
	// and for a new one DefaultPartitions.
	Partitions int32
	// BrokerAddr replaces the part broker by Kafka servers that run elsewhere.
	BrokerAddr string
	// OTLPEndpoint is where the services export to; empty exports nothing.
	OTLPEndpoint string
	// TracesPerSecond limits the new traces each service records; 0 records all.
	TracesPerSecond float64
	// PostgresLog is the file of the server's own log; empty puts it into Dir.
	PostgresLog string
	// Log returns the logger of a part. Nil discards.
	Log func(part string) *slog.Logger
	// Progress is told when a part starts to start, and when it runs.
	Progress func(part, status string)
}

// Fleet is a running fleet. Its methods may be called at the same time.
type Fleet struct {
	opts Options
	dead chan error

	mu      sync.Mutex
	running map[string]*running
	ports   map[string]int
	cluster *postgres.Cluster
	broker  *embedded.Broker
}

type running struct{ stop func() error }

// Start starts the parts in order and returns when all of them serve.
func Start(ctx context.Context, opts Options) (*Fleet, error) {
	if opts.Log == nil {
		opts.Log = func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	}
	if opts.Progress == nil {
		opts.Progress = func(string, string) {}
	}
	if len(opts.Parts) == 0 {
		opts.Parts = AllParts()
	}
	for _, p := range opts.Parts {
		if !slices.Contains(AllParts(), p) {
			return nil, fmt.Errorf("there is no part %q; parts are %v", p, AllParts())
		}
	}
	f := &Fleet{
		opts: opts, dead: make(chan error, len(AllParts())*10),
		running: map[string]*running{},
	}
	if err := f.choosePorts(); err != nil {
		return nil, err
	}
	if err := f.fixPartitions(); err != nil {
		return nil, err
	}
	// Eight parts share one small heap, which would be collected all the time.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	for _, name := range AllParts() {
		if !f.wanted(name) {
			continue
		}
		if err := f.StartPart(ctx, name); err != nil {
			return nil, errors.Join(err, f.Stop())
		}
	}
	return f, nil
}

// wanted leaves out what the caller provides.
func (f *Fleet) wanted(name string) bool {
	switch name {
	case Postgres:
		return f.opts.DatabaseURL == nil && slices.Contains(f.opts.Parts, name)
	case Broker:
		return f.opts.BrokerAddr == "" && slices.Contains(f.opts.Parts, name)
	}
	return slices.Contains(f.opts.Parts, name)
}

// StartPart starts one part, also after StopPart, and returns when it serves.
func (f *Fleet) StartPart(ctx context.Context, name string) error {
	f.opts.Progress(name, "starting")
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	r, err := table()[name].start(ctx, f, name)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	f.mu.Lock()
	f.running[name] = r
	f.mu.Unlock()
	f.opts.Progress(name, f.Addr(name))
	return nil
}

// StopPart stops one part and leaves the others running.
func (f *Fleet) StopPart(name string) error {
	f.mu.Lock()
	r := f.running[name]
	delete(f.running, name)
	f.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := r.stop(); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return nil
}

// Stop stops everything, what was started last first.
func (f *Fleet) Stop() error {
	var errs []error
	for _, name := range slices.Backward(AllParts()) {
		errs = append(errs, f.StopPart(name))
	}
	return errors.Join(errs...)
}

// Dead gives the error of a part that ended by itself.
func (f *Fleet) Dead() <-chan error { return f.dead }

// Addr returns the host:port at which a part serves, or would serve.
func (f *Fleet) Addr(part string) string {
	return "127.0.0.1:" + strconv.Itoa(f.ports[part])
}

// MetricsAddr returns the host:port of a part's /metrics, /healthz and /readyz.
func (f *Fleet) MetricsAddr(part string) string {
	return "127.0.0.1:" + strconv.Itoa(f.ports[metrics(part)])
}

// EmbeddedBroker returns the broker, for tests that inject faults; nil if it is not ours.
func (f *Fleet) EmbeddedBroker() *embedded.Broker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broker
}

// metrics names the second port of a part.
func metrics(part string) string { return part + " metrics" }

// Ports returns the ports of all parts for a port base, by name.
func Ports(base int) map[string]int {
	ports := map[string]int{}
	for name, p := range table() {
		ports[name] = base + p.port
		if p.database { // a service or a read model
			ports[metrics(name)] = base + p.port + metricsOffset
		}
	}
	return ports
}

// choosePorts gives every part its ports: fixed ones, or free ones that are all
// held open until the last is known, so that none is given twice.
func (f *Fleet) choosePorts() error {
	f.ports = map[string]int{}
	for name, p := range table() {
		if f.opts.PortBase != 0 {
			f.ports[name] = f.opts.PortBase + p.port
			f.ports[metrics(name)] = f.opts.PortBase + p.port + metricsOffset
			continue
		}
		for _, key := range []string{name, metrics(name)} {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return fmt.Errorf("find a free port: %w", err)
			}
			defer func() { _ = listener.Close() }()
			f.ports[key] = listener.Addr().(*net.TCPAddr).Port
		}
	}
	return nil
}

// kafka returns where the broker and the registry are.
func (f *Fleet) kafka() kafka.Config {
	config, err := lifecycle.Defaults[kafka.Config]()
	if err != nil {
		panic(err) // the tags are ours
	}
	config.Brokers, config.RegistryURL = f.Addr(Broker), "http://"+f.Addr(Registry)
	if f.opts.BrokerAddr != "" {
		config.Brokers = f.opts.BrokerAddr
	}
	config.Partitions = f.opts.Partitions
	return config
}

// database returns the URL of a part's database.
func (f *Fleet) database(part string) string {
	if f.opts.DatabaseURL != nil {
		return f.opts.DatabaseURL(part)
	}
	f.mu.Lock()
	cluster := f.cluster
	f.mu.Unlock()
	if cluster != nil {
		return cluster.URL("tidemark_" + part)
	}
	return "postgres://tidemark@" + f.Addr(Postgres) + "/tidemark_" + part + "?sslmode=disable"
}

// PostgresDir returns where the part postgres keeps its cluster, for a data
// directory. It is elsewhere when the server's user cannot get there.
func PostgresDir(dir string) (string, error) {
	return postgres.ReachableDir(filepath.Join(dir, "postgres"))
}

func startPostgres(ctx context.Context, f *Fleet, name string) (*running, error) {
	bin, err := binaries.Ensure(ctx, func(what string) { f.opts.Progress(name, what) })
	if err != nil {
		return nil, err
	}
	dir, err := PostgresDir(f.opts.Dir)
	if err != nil {
		return nil, err
	}
	cluster, err := postgres.StartCluster(ctx, postgres.ClusterConfig{
		Dir: dir, Port: f.ports[name], Durable: f.opts.Durable, BinDir: bin, LogFile: f.opts.PostgresLog,
	})
	if err != nil {
		return nil, err
	}
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), lifecycle.PartTimeout*2)
		defer cancel()
		return cluster.Stop(ctx)
	}
	var names []string
	for part, p := range table() {
		if p.database {
			names = append(names, "tidemark_"+part)
		}
	}
	slices.Sort(names)
	if err := cluster.EnsureDatabases(ctx, names...); err != nil {
		return nil, errors.Join(err, stop())
	}
	f.mu.Lock()
	f.cluster = cluster
	f.mu.Unlock()
	stopped := make(chan struct{})
	go func() {
		select {
		case <-stopped:
		case <-cluster.Done():
			f.dead <- fmt.Errorf("postgres ended by itself; its log is %s", cluster.LogFile())
		}
	}()
	return &running{stop: func() error { close(stopped); return stop() }}, nil
}

func startBroker(ctx context.Context, f *Fleet, name string) (*running, error) {
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{
		Dir: filepath.Join(f.opts.Dir, "broker"), Port: f.ports[name], Partitions: f.opts.Partitions, Log: f.opts.Log(name),
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.broker = broker
	f.mu.Unlock()
	return &running{stop: func() error { broker.Close(); return nil }}, nil
}

func startRegistry(_ context.Context, f *Fleet, name string) (*running, error) {
	var known []embedded.Schema
	for _, s := range schemas.Catalog().All() {
		for _, subject := range s.Subjects() {
			known = append(known, embedded.Schema{ID: s.ID, Subject: subject, Version: s.Version, Schema: s.Text})
		}
	}
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{
		Dir: filepath.Join(f.opts.Dir, "registry"), Port: f.ports[name], Schemas: known,
	})
	if err != nil {
		return nil, err
	}
	return &running{stop: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), lifecycle.PartTimeout)
		defer cancel()
		return registry.Close(ctx)
	}}, nil
}
