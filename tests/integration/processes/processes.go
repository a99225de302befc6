// Package processes runs the fleet the way it is deployed, every part as a
// process of its own, for tests that kill, freeze and starve them. A part that
// ends is started again, as an init system would.
package processes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Parts are all parts, in the order in which they start.
func Parts() []string {
	return []string{"postgres", "broker", "registry", "payment", "shipment", "order", "timeline", "operations"}
}

// Options say what to run.
type Options struct {
	// Dir takes the data, below "data", and one log per part.
	Dir string
	// Parts to run as processes, in this order. What is left out the test runs.
	Parts []string
	// Base is the port base of the fleet; see FreeBase.
	Base int
	// Bases moves single parts to another port base, so that the test can stand
	// in between.
	Bases map[string]int
	// Databases are the ports of servers that hold the databases of single parts,
	// if it is not the part postgres.
	Databases map[string]int
	// Programs has single parts run by another program than today's, for instance
	// by an earlier release's.
	Programs map[string]string
}

// Fleet is a fleet of processes that are started again when they end.
type Fleet struct {
	t      *testing.T
	opts   Options
	binary string // today's
	ctx    context.Context
	schema string // of the timeline's generation

	mu      sync.Mutex
	running map[string]*exec.Cmd
	program map[string]string        // of a part, unless it is today's
	ready   map[string]chan struct{} // closed while the part serves
	starts  map[string]int
	done    sync.WaitGroup
}

// Build compiles the program that the processes run, from the checkout in
// source, today's if it is empty, to dir.
func Build(t *testing.T, source, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "tidemark")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/tidemark-dev/tidemark/cmd/tidemark")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// Start starts the parts and keeps them running until the test ends.
func Start(t *testing.T, opts Options) *Fleet {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &Fleet{
		t: t, opts: opts, binary: Build(t, "", opts.Dir), ctx: ctx,
		running: map[string]*exec.Cmd{}, program: maps.Clone(opts.Programs), ready: map[string]chan struct{}{}, starts: map[string]int{},
	}
	for _, part := range opts.Parts {
		f.ready[part] = make(chan struct{})
	}
	t.Cleanup(func() {
		cancel()
		for _, part := range opts.Parts {
			f.Signal(part, syscall.SIGKILL)
		}
		f.done.Wait()
	})
	for _, part := range opts.Parts {
		f.done.Go(func() { f.keep(part) })
		f.Await(part) // the next one leans on it
	}
	return f
}

// keep starts a part again whenever it ends, as an init system would.
func (f *Fleet) keep(part string) {
	for f.ctx.Err() == nil {
		if err := f.once(part); err != nil && f.ctx.Err() == nil {
			f.t.Errorf("%s cannot be started: %v", part, err)
			return
		}
	}
}

// once runs a part until it ends.
func (f *Fleet) once(part string) error {
	log, err := os.OpenFile(filepath.Join(f.opts.Dir, part+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	f.mu.Lock()
	program := f.binary
	if other, ok := f.program[part]; ok {
		program = other
	}
	f.mu.Unlock()
	cmd := exec.Command(program, "part", part, "--data-dir", filepath.Join(f.opts.Dir, "data"), "--port-base", strconv.Itoa(f.base(part)))
	cmd.Stderr = log
	cmd.SysProcAttr = OwnGroup()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.ctx.Err() != nil {
		f.mu.Unlock()
		return nil
	}
	if err := cmd.Start(); err != nil {
		f.mu.Unlock()
		return err
	}
	f.running[part] = cmd
	f.starts[part]++
	f.mu.Unlock()

	for lines := bufio.NewScanner(io.TeeReader(out, log)); lines.Scan(); {
		if lines.Text() == "ready" {
			f.mu.Lock()
			close(f.ready[part])
			f.mu.Unlock()
		}
	}
	_ = cmd.Wait() // it was killed; how it ended is in its log
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, part)
	select {
	case <-f.ready[part]:
		f.ready[part] = make(chan struct{})
	default:
	}
	return nil
}

// Await waits until a part serves.
func (f *Fleet) Await(part string) {
	f.t.Helper()
	deadline := time.After(2 * time.Minute)
	f.mu.Lock()
	ready := f.ready[part]
	f.mu.Unlock()
	select {
	case <-ready:
	case <-f.ctx.Done():
	case <-deadline:
		f.t.Fatalf("%s does not serve; see %s", part, filepath.Join(f.opts.Dir, part+".log"))
	}
}

// AwaitAll waits until every part serves.
func (f *Fleet) AwaitAll() {
	f.t.Helper()
	for _, part := range f.opts.Parts {
		f.Await(part)
	}
}

// Signal sends a signal to a part and whatever it started; false if it is not
// running. After one that ends it, Await waits for the next start.
func (f *Fleet) Signal(part string, signal syscall.Signal) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	cmd := f.running[part]
	if cmd == nil {
		return false
	}
	if signal != syscall.SIGSTOP && signal != syscall.SIGCONT {
		select {
		case <-f.ready[part]: // from now on, ready means started again
			f.ready[part] = make(chan struct{})
		default:
		}
	}
	err := syscall.Kill(-cmd.Process.Pid, signal)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		f.t.Errorf("kill %s: %v", part, err)
	}
	return err == nil
}

// Upgrade asks a part to stop and has today's program go on in its place.
func (f *Fleet) Upgrade(part string) {
	f.t.Helper()
	f.mu.Lock()
	delete(f.program, part)
	f.mu.Unlock()
	f.Signal(part, syscall.SIGTERM)
	f.Await(part)
}

// Run runs one command of the command line to its end, or until ctx ends, and
// returns what it printed.
func (f *Fleet) Run(ctx context.Context, args ...string) ([]byte, error) {
	args = append(args, "--addr", fmt.Sprintf("127.0.0.1:%d", f.opts.Base))
	cmd := exec.CommandContext(ctx, f.binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	log, err := os.OpenFile(filepath.Join(f.opts.Dir, "commands.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Stderr = log
	return cmd.Output()
}

// Count asks the database of a part for one number.
func (f *Fleet) Count(ctx context.Context, database, sql string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := f.Connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var n int64
	err = conn.QueryRow(ctx, sql).Scan(&n)
	return n, err
}

// Connect opens the database of a part, past whatever the test put in between.
func (f *Fleet) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	port, apart := f.opts.Databases[database]
	if !apart {
		port = f.base("postgres") + 432
	}
	return pgx.Connect(ctx, fmt.Sprintf("postgres://tidemark@127.0.0.1:%d/tidemark_%s?sslmode=disable", port, database))
}

// Rows reads the answer of a part's database to a query, row by row.
func (f *Fleet) Rows(ctx context.Context, database, sql string, into []any, each func()) {
	f.t.Helper()
	conn, err := f.Connect(ctx, database)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // what was asked for is read
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		f.t.Fatalf("%s: %v", database, err)
	}
	if _, err := pgx.ForEachRow(rows, into, func() error { each(); return nil }); err != nil {
		f.t.Fatalf("%s: %v", database, err)
	}
}

// Committed counts all events ever committed.
func (f *Fleet) Committed(ctx context.Context) (int64, error) {
	return f.sum(ctx, `SELECT count(*) FROM journal`)
}

// Unsent counts events that the relays have not sent yet.
func (f *Fleet) Unsent(ctx context.Context) (int64, error) {
	return f.sum(ctx, `SELECT count(*) FROM outbox`)
}

func (f *Fleet) sum(ctx context.Context, sql string) (int64, error) {
	var sum int64
	for _, source := range []string{"order", "payment", "shipment"} {
		n, err := f.Count(ctx, source, sql)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Applied counts the facts that the timeline shows: one entry each.
func (f *Fleet) Applied(ctx context.Context) (int64, error) {
	return f.Entries(ctx, "true")
}

// Entries counts the entries of the timeline that meet an SQL condition.
func (f *Fleet) Entries(ctx context.Context, condition string) (int64, error) {
	if f.schema == "" {
		conn, err := f.Connect(ctx, "timeline")
		if err != nil {
			return 0, err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		err = conn.QueryRow(ctx, `SELECT schemaname FROM pg_tables WHERE tablename = 'entries'`).Scan(&f.schema)
		if err != nil {
			return 0, fmt.Errorf("find the timeline's tables: %w", err)
		}
	}
	return f.Count(ctx, "timeline", `SELECT count(*) FROM `+f.schema+`.entries WHERE `+condition)
}

// Starts returns how often each part was started.
func (f *Fleet) Starts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.starts)
}

// Backlog is what was on its way at one moment.
type Backlog struct{ Unsent, Unapplied int64 }

// Waiting looks at what is on its way; false if a database cannot be asked.
func (f *Fleet) Waiting(ctx context.Context) (Backlog, bool) {
	committed, err := f.Committed(ctx)
	if err != nil {
		return Backlog{}, false
	}
	unsent, err := f.Unsent(ctx)
	if err != nil {
		return Backlog{}, false
	}
	applied, err := f.Applied(ctx)
	if err != nil {
		return Backlog{}, false
	}
	return Backlog{Unsent: unsent, Unapplied: max(0, committed-applied)}, true
}

// base returns the port base of a part.
func (f *Fleet) base(part string) int {
	if base, ok := f.opts.Bases[part]; ok {
		return base
	}
	return f.opts.Base
}

// FreeBase finds a port base of which every part's ports are free, and none is a
// port of the other bases, where perhaps nobody listens yet. All are below
// those that the system gives to outgoing connections (32768 and up on Linux): one
// of these could take a part's port while the part is down.
func FreeBase(t *testing.T, others ...int) int {
	t.Helper()
	const span = 1_500 // the highest port is 1,432 more than the base
	for range 200 {
		base := 10_000 + 10*rand.IntN(2130)
		free := !slices.ContainsFunc(others, func(other int) bool { return max(base, other)-min(base, other) < span })
		for _, offset := range []int{81, 92, 93, 101, 102, 103, 201, 202, 432, 1081, 1092, 1101, 1102, 1103, 1201, 1202, 1432} {
			listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+offset))
			if err != nil {
				free = false
				break
			}
			_ = listener.Close()
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}
