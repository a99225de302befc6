package replicas

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// replica is a timeline in a process of its own.
type replica struct {
	t      *testing.T
	name   string
	binary string
	args   []string
	addr   string
	http   string
	log    string
	cmd    *exec.Cmd
	ended  chan error // takes how it ended
}

// build compiles the program that is deployed.
func build(t *testing.T, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "tidemark-timeline")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/tidemark-dev/tidemark/projections/timeline/cmd").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// freePorts finds ports that it holds open until the last is known.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs
}

func newReplica(t *testing.T, dir, binary, name string, args ...string) *replica {
	t.Helper()
	addrs := freePorts(t, 2)
	r := &replica{t: t, name: name, binary: binary, addr: addrs[0], http: addrs[1], log: filepath.Join(dir, name+".log")}
	r.args = append(args, "--addr", r.addr, "--http-addr", r.http)
	t.Cleanup(func() {
		if r.cmd != nil {
			_ = r.cmd.Process.Kill()
			<-r.ended
		}
	})
	return r
}

// start starts the replica and waits until it answers.
func (r *replica) start() {
	r.t.Helper()
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	r.cmd = exec.Command(r.binary, r.args...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = processes.OwnGroup()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(r.cmd, r.ended)
	r.until("it is ready", func() bool {
		code, _ := r.get("/readyz")
		return code == http.StatusOK
	})
}

// end sends a signal that ends the replica, and waits until it has ended.
func (r *replica) end(signal syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		r.t.Fatal(err)
	}
	if err := <-r.ended; err != nil && signal == syscall.SIGTERM {
		r.t.Errorf("%s ended with %v; see %s", r.name, err, r.log)
	}
	r.cmd = nil
}

func (r *replica) get(path string) (code int, body string) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.http+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	var text strings.Builder
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		fmt.Fprintln(&text, lines.Text())
	}
	return response.StatusCode, text.String()
}

// owns is how many partition numbers the replica says it applies; -1 if it
// does not say.
func (r *replica) owns() int {
	_, metrics := r.get("/metrics")
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "tidemark_projection_assigned") {
			fields := strings.Fields(line)
			if n, err := strconv.Atoi(fields[len(fields)-1]); err == nil {
				return n
			}
		}
	}
	return -1
}

func (r *replica) until(what string, holds func() bool) {
	r.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(90 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case err := <-r.ended:
			r.cmd = nil
			r.t.Fatalf("%s ended: %v; see %s", r.name, err, r.log)
		case <-limit:
			r.t.Fatalf("%s: not within 90 s: %s; see %s", r.name, what, r.log)
		}
	}
}
