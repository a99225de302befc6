package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// freeBase finds a port base whose ports are all free.
func freeBase(t *testing.T) int {
	t.Helper()
	for base := 20000 + os.Getpid()%100*100; base < 60000; base += 2000 {
		if len(takenPorts(base)) == 0 {
			return base
		}
	}
	t.Fatal("no port base is free")
	return 0
}

func dataDir(t *testing.T) string {
	t.Helper()
	return testkit.Dir(t, "dev")
}

// call runs a command of the binary to its end.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = run(ctx, args, &out, &err)
	return code, out.String(), err.String()
}

// devRunning starts the dev command and returns when it says ready. The
// returned function is Ctrl-C; it gives the exit code.
func devRunning(t *testing.T, dir string, base int) (output string, interrupt func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	exited := make(chan int, 1)
	go func() {
		code := run(ctx, []string{"dev", "--data-dir", dir, "--port-base", strconv.Itoa(base), "--traffic=0"}, writer, writer)
		_ = writer.Close() // a pipe's never fails
		exited <- code
	}()
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		output += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "ready") {
			go func() { _, _ = io.Copy(io.Discard, reader) }()
			return output, func() int { cancel(); return <-exited }
		}
	}
	cancel()
	t.Fatalf("the dev run ended with %d before it was ready:\n%s", <-exited, output)
	return "", nil
}

func TestDevRunsStopsAndFindsItsData(t *testing.T) {
	dir, base := dataDir(t), freeBase(t)
	addr := fmt.Sprintf("--addr=127.0.0.1:%d", base)

	output, interrupt := devRunning(t, dir, base)
	for _, want := range []string{"postgres", "broker", "registry", "order", "timeline", "Try, in a second shell", addr[2:6]} {
		if !strings.Contains(output, want) {
			t.Errorf("the output misses %q:\n%s", want, output)
		}
	}
	if code, _, stderr := call(t, "dev", "--data-dir", dir, "--port-base", strconv.Itoa(base)); code != exitError ||
		!strings.Contains(stderr, fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(stderr, "next:") {
		t.Errorf("a second run on the same directory: exit %d, %s", code, stderr)
	}
	if code, _, stderr := call(t, addr, "order", "place", "--id=o-1"); code != exitOK {
		t.Errorf("order place: exit %d, %s", code, stderr)
	}
	begun := time.Now()
	if code := interrupt(); code != exitOK {
		t.Errorf("Ctrl-C gave exit %d", code)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("Ctrl-C took %s, want 10 s at most", took)
	}

	_, interrupt = devRunning(t, dir, base)
	if code, stdout, stderr := call(t, addr, "order", "get", "o-1"); code != exitOK || !strings.Contains(stdout, "o-1") {
		t.Errorf("order get after a restart: exit %d, %s%s", code, stdout, stderr)
	}
	interrupt()
}

func TestDevNamesWhoHoldsAPort(t *testing.T) {
	dir, base := dataDir(t), freeBase(t)
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+101))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	code, _, stderr := call(t, "dev", "--data-dir", dir, "--port-base", strconv.Itoa(base))
	for _, want := range []string{strconv.Itoa(base + 101), "(order)", fmt.Sprintf("process %d", os.Getpid()), "--port-base="} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the error misses %q: %s", want, stderr)
		}
	}
	if code != exitError {
		t.Errorf("exit %d, want %d", code, exitError)
	}
}
