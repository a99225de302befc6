// Package kafka runs a real Apache Kafka for the integration tests: one KRaft
// node on loopback, from the project's Maven artifacts and this machine's Java.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	platformkafka "github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// BrokerVariable names the environment variable that chooses the broker of the
// integration suite: "embedded" (the default) or "kafka".
const BrokerVariable = "TIDEMARK_TEST_BROKER"

// RequireVariable names the environment variable that says what to do when no
// real Kafka can be had: "required" fails, "auto" skips and says why, "off"
// skips without trying. The default is auto, and required where CI=true.
const RequireVariable = "REAL_KAFKA"

// Brokers returns the bootstrap servers of a fresh broker of the chosen kind,
// with Tidemark's topics and nothing in them. It ends with the test.
func Brokers(t testing.TB) string {
	t.Helper()
	switch kind := os.Getenv(BrokerVariable); kind {
	case "", "embedded":
		return testkit.Broker(t).Addr()
	case "kafka":
		return Start(t).Addr()
	default:
		t.Fatalf("%s=%s: want embedded or kafka", BrokerVariable, kind)
		return ""
	}
}

// Server is a running Apache Kafka.
type Server struct {
	artifacts  artifacts
	dir        string
	wanted     int // port; 0 means any
	partitions int32
	port       int
	controller int
	cmd        *exec.Cmd
	done       chan struct{} // closed when the process has ended
}

// Start starts a fresh Apache Kafka with Tidemark's topics and stops it when
// the test ends. Where none can be had it skips or fails, as REAL_KAFKA says.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartOn(t, 0, platformkafka.DefaultPartitions)
}

// StartOn is Start on a port and the one after it, if it is not 0, and with so
// many partitions.
func StartOn(t testing.TB, port int, partitions int32) *Server {
	t.Helper()
	mode := os.Getenv(RequireVariable)
	if mode == "" {
		mode = "auto"
		if os.Getenv("CI") == "true" {
			mode = "required"
		}
	}
	if mode == "off" {
		t.Skipf("REAL KAFKA SKIPPED: %s=off", RequireVariable)
	}
	found, err := obtainOnce()
	if err != nil && mode == "required" {
		t.Fatalf("%s=required, but there is no real Kafka: %v", RequireVariable, err)
	}
	if err != nil {
		t.Skipf("REAL KAFKA SKIPPED: %v", err)
	}
	server, err := start(t.Context(), found, port, partitions)
	if err != nil {
		t.Fatalf("start Apache Kafka: %v", err)
	}
	t.Cleanup(func() {
		server.Kill()
		if err := os.RemoveAll(server.dir); err != nil {
			t.Errorf("remove the data of kafka: %v", err)
		}
	})
	return server
}

var obtainOnce = sync.OnceValues(func() (artifacts, error) { return obtain(context.Background()) })

// Addr returns host:port, as a bootstrap server list.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// Kill ends the server with SIGKILL. What it acknowledged is still there after
// Restart, because the machine did not crash.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
	_ = os.Remove(s.pidFile()) // the number is free for others now
}

// Restart starts the server again, on the same address and data, after Kill.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.run(); err != nil {
		return err
	}
	return s.waitUntilReady(ctx)
}

func start(ctx context.Context, found artifacts, port int, partitions int32) (*Server, error) {
	dir, err := testkit.TempDir("kafka")
	if err != nil {
		return nil, err
	}
	s := &Server{artifacts: found, dir: dir, wanted: port, partitions: partitions}
	if err := testkit.EndWithProcess(s.pidFile(), syscall.SIGKILL, dir); err != nil {
		return nil, err
	}
	// A port that was free a moment ago may be taken by now; then try others.
	for attempt := 1; ; attempt++ {
		err := s.startOnce(ctx)
		if err == nil {
			return s, nil
		}
		if attempt == 3 || !strings.Contains(err.Error(), "Address already in use") {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
}

func (s *Server) startOnce(ctx context.Context) error {
	var err error
	if s.port = s.wanted; s.port == 0 {
		if s.port, err = freePair(); err != nil {
			return err
		}
	}
	s.controller = s.port + 1
	if err := s.configure(ctx); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	if err := s.waitUntilReady(ctx); err != nil {
		s.Kill()
		return err
	}
	return nil
}

func (s *Server) configure(ctx context.Context) error {
	for name, content := range map[string]string{
		"server.properties": properties(s.port, s.controller, filepath.Join(s.dir, "data")),
		"log4j2.properties": logging,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("configure kafka: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		return fmt.Errorf("configure kafka: %w", err)
	}
	out, err := s.java(ctx, "128m", "kafka.tools.StorageTool", "format",
		"--cluster-id", "dGlkZW1hcmstdGVzdHMtMQ", "--config", filepath.Join(s.dir, "server.properties")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format the storage: %w: %s", err, lastLines(string(out), 5))
	}
	return nil
}

func (s *Server) java(ctx context.Context, heap, class string, args ...string) *exec.Cmd {
	options := []string{
		"-Xmx" + heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dlog4j2.configurationFile=" + filepath.Join(s.dir, "log4j2.properties"),
		"-cp", filepath.Join(s.artifacts.libs, "*"), class,
	}
	return exec.CommandContext(ctx, s.artifacts.java, append(options, args...)...)
}

func (s *Server) run() error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of kafka: %w", err)
	}
	defer log.Close() // the server has its own copy
	// The server's life is ours to end: no context.
	cmd := s.java(context.Background(), "384m", "kafka.Kafka", filepath.Join(s.dir, "server.properties"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start kafka: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	s.cmd, s.done = cmd, done
	if err := os.WriteFile(s.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		s.Kill()
		return fmt.Errorf("note the process of kafka: %w", err)
	}
	return nil
}

func (s *Server) pidFile() string { return filepath.Join(s.dir, "kafka.pid") }

func (s *Server) logFile() string { return filepath.Join(s.dir, "kafka.log") }

// startLimit bounds a start. On an idle machine it takes three seconds, after a
// kill, with logs to look through, and beside twenty others, half a minute.
const startLimit = 3 * time.Minute

func (s *Server) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready after %s", startLimit))
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", s.Addr())
		if err == nil {
			_ = conn.Close() // only asked whether it listens
			break
		}
		select {
		case <-s.done:
			log, _ := os.ReadFile(s.logFile())
			return fmt.Errorf("kafka ended at start; its log ends with:\n%s", lastLines(string(log), 15))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return platformkafka.CreateTopics(ctx, platformkafka.Config{Brokers: s.Addr(), Replication: 1, Partitions: s.partitions})
}

// firstOutgoing is the lowest port that Linux gives to outgoing connections.
const firstOutgoing = 32_768

// freePair finds two free ports in a row, below those that the system gives to
// outgoing connections: one of these could take a port of a server that was killed,
// even a client's that tries to reach that very port.
func freePair() (int, error) {
	var last error
	for range 200 {
		port := 10_000 + rand.IntN(firstOutgoing-10_001)
		if last = bothFree(port); last == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find free ports: %w", last)
}

func bothFree(port int) error {
	for _, p := range []int{port, port + 1} {
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p))
		if err != nil {
			return err
		}
		defer func() { _ = listener.Close() }() // held until both are known to be free
	}
	return nil
}
