package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parts run as one process each, in the order in which they start.
var parts = []string{"postgres", "broker", "registry", "payment", "shipment", "order", "timeline", "operations"}

// world is a fleet of processes that are started again when they die.
type world struct {
	t      *testing.T
	binary string
	dir    string
	base   int
	ctx    context.Context
	schema string // of the timeline's generation

	mu      sync.Mutex
	running map[string]*exec.Cmd
	ready   map[string]chan struct{} // closed while the part serves
	starts  map[string]int
	done    sync.WaitGroup
}

// build compiles the binary that the processes run.
func build(t *testing.T, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "tidemark")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/tidemark-dev/tidemark/cmd/tidemark").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// open starts all parts and keeps them running until the test ends.
func open(t *testing.T, binary, dir string) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{
		t: t, binary: binary, dir: dir, base: freeBase(t), ctx: ctx,
		running: map[string]*exec.Cmd{}, ready: map[string]chan struct{}{}, starts: map[string]int{},
	}
	for _, part := range parts {
		w.ready[part] = make(chan struct{})
	}
	for _, part := range parts {
		w.done.Go(func() { w.keep(part) })
		w.await(part) // the next one leans on it
	}
	t.Cleanup(func() {
		cancel()
		for _, part := range parts {
			w.kill(part, syscall.SIGKILL)
		}
		w.done.Wait()
	})
	return w
}

// keep starts a part again whenever it ends, as an init system would.
func (w *world) keep(part string) {
	for w.ctx.Err() == nil {
		if err := w.once(part); err != nil && w.ctx.Err() == nil {
			w.t.Errorf("%s cannot be started: %v", part, err)
			return
		}
	}
}

// once runs a part until it ends.
func (w *world) once(part string) error {
	log, err := os.OpenFile(filepath.Join(w.dir, part+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(w.binary, "part", part, "--data-dir", filepath.Join(w.dir, "data"), "--port-base", strconv.Itoa(w.base))
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	w.mu.Lock()
	if w.ctx.Err() != nil {
		w.mu.Unlock()
		return nil
	}
	if err := cmd.Start(); err != nil {
		w.mu.Unlock()
		return err
	}
	w.running[part] = cmd
	w.starts[part]++
	w.mu.Unlock()

	for lines := bufio.NewScanner(io.TeeReader(out, log)); lines.Scan(); {
		if lines.Text() == "ready" {
			w.mu.Lock()
			close(w.ready[part])
			w.mu.Unlock()
		}
	}
	_ = cmd.Wait() // it was killed; how it ended is in its log
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, part)
	select {
	case <-w.ready[part]:
		w.ready[part] = make(chan struct{})
	default:
	}
	return nil
}

// await waits until a part serves.
func (w *world) await(part string) {
	w.t.Helper()
	deadline := time.After(2 * time.Minute)
	w.mu.Lock()
	ready := w.ready[part]
	w.mu.Unlock()
	select {
	case <-ready:
	case <-w.ctx.Done():
	case <-deadline:
		w.t.Fatalf("%s does not serve; see %s", part, filepath.Join(w.dir, part+".log"))
	}
}

// awaitAll waits until every part serves.
func (w *world) awaitAll() {
	w.t.Helper()
	for _, part := range parts {
		w.await(part)
	}
}

// kill sends a signal to a part and whatever it started; false if it is not running.
func (w *world) kill(part string, signal syscall.Signal) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	cmd := w.running[part]
	if cmd == nil {
		return false
	}
	select {
	case <-w.ready[part]: // from now on, ready means started again
		w.ready[part] = make(chan struct{})
	default:
	}
	err := syscall.Kill(-cmd.Process.Pid, signal)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		w.t.Errorf("kill %s: %v", part, err)
	}
	return err == nil
}

// run runs one command of the command line to its end.
func (w *world) run(ctx context.Context, args ...string) ([]byte, error) {
	args = append(args, "--addr", fmt.Sprintf("127.0.0.1:%d", w.base))
	cmd := exec.CommandContext(ctx, w.binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	log, err := os.OpenFile(filepath.Join(w.dir, "import.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Stderr = log
	return cmd.Output()
}

// count asks one database for one number.
func (w *world) count(ctx context.Context, database, sql string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := w.connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var n int64
	err = conn.QueryRow(ctx, sql).Scan(&n)
	return n, err
}

func (w *world) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("postgres://tidemark@127.0.0.1:%d/tidemark_%s?sslmode=disable", w.base+432, database))
}

// committed counts all events ever committed.
func (w *world) committed(ctx context.Context) (int64, error) {
	return w.sum(ctx, `SELECT count(*) FROM journal`)
}

// unsent counts events that the relays have not sent yet.
func (w *world) unsent(ctx context.Context) (int64, error) {
	return w.sum(ctx, `SELECT count(*) FROM outbox`)
}

func (w *world) sum(ctx context.Context, sql string) (int64, error) {
	var sum int64
	for _, source := range []string{"order", "payment", "shipment"} {
		n, err := w.count(ctx, source, sql)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// applied counts the facts that the timeline shows: one entry each.
func (w *world) applied(ctx context.Context) (int64, error) {
	return w.count(ctx, "timeline", `SELECT count(*) FROM `+w.schema+`.entries`)
}

// freeBase finds a port base of which every part's ports are free.
func freeBase(t *testing.T) int {
	t.Helper()
	for range 200 {
		base := 20000 + 10*rand.IntN(3000)
		free := true
		for _, offset := range []int{81, 92, 101, 102, 103, 201, 202, 432, 1081, 1092, 1101, 1102, 1103, 1201, 1202, 1432} {
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
