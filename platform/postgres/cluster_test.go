package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/postgres/binaries"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// clusterDir returns a directory that the server's user can reach: t.TempDir
// is closed to it when the tests run as root.
func clusterDir(t *testing.T) string {
	t.Helper()
	return testkit.Dir(t, "cluster")
}

func startCluster(t *testing.T, dir string, port int) *postgres.Cluster {
	t.Helper()
	binDir, err := binaries.Ensure(t.Context(), func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := postgres.StartCluster(t.Context(), postgres.ClusterConfig{Dir: dir, BinDir: binDir, Port: port, Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopCluster(t, cluster) })
	return cluster
}

func stopCluster(t *testing.T, cluster *postgres.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cluster.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func waitForEnd(t *testing.T, cluster *postgres.Cluster) {
	t.Helper()
	select {
	case <-cluster.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the server did not end")
	}
}

func TestClusterFindsItsDataAfterAStopAndAfterAKill(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	first := startCluster(t, dir, 0)
	if err := first.EnsureDatabases(t.Context(), "tidemark_order"); err != nil {
		t.Fatal(err)
	}
	exec1(t, first.URL("tidemark_order"), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
	stopCluster(t, first)
	waitForEnd(t, first)

	second := startCluster(t, dir, 0)
	exec1(t, second.URL("tidemark_order"), "INSERT INTO kept VALUES (2)")
	if err := syscall.Kill(second.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitForEnd(t, second)

	third := startCluster(t, dir, 0)
	if err := third.EnsureDatabases(t.Context(), "tidemark_order"); err != nil {
		t.Fatal(err)
	}
	exec1(t, third.URL("tidemark_order"), "SELECT 1/(count(*)/2)::int FROM kept") // fails unless both rows are there
}

func TestClusterListensOnItsPort(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	dir := clusterDir(t)

	binDir, err := binaries.Find()
	if err != nil {
		t.Fatal(err)
	}
	_, err = postgres.StartCluster(t.Context(), postgres.ClusterConfig{Dir: dir, BinDir: binDir, Port: port})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(port)) {
		t.Errorf("StartCluster() on a taken port = %v, want an error naming it", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	cluster := startCluster(t, dir, port)
	exec1(t, cluster.TCPURL("postgres"), "SELECT 1")
	exec1(t, cluster.URL("postgres"), "SELECT 1")
}

func TestClusterRunsBelowAVeryLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(clusterDir(t), strings.Repeat("a-long-directory-name/", 8))
	exec1(t, startCluster(t, dir, 0).URL("postgres"), "SELECT 1")
}

// orphanDir tells the re-executed test binary to start a cluster and be killed.
const orphanDir = "TIDEMARK_TEST_ORPHAN_CLUSTER"

func TestAServerLeftBehindIsStopped(t *testing.T) {
	if dir := os.Getenv(orphanDir); dir != "" {
		fmt.Println("server", startCluster(t, dir, 0).PID())
		<-context.Background().Done() // until killed
	}
	dir := clusterDir(t)
	pid := leaveServerBehind(t, dir)
	cluster := startCluster(t, dir, 0)
	if cluster.PID() == pid {
		t.Error("the orphan was taken for a new server")
	}
	exec1(t, cluster.URL("postgres"), "SELECT 1")
}

// leaveServerBehind has another process start a cluster in dir and kills that
// process; the server stays, stopped, and its process id is returned.
func leaveServerBehind(t *testing.T, dir string) int {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestAServerLeftBehindIsStopped$")
	child.Env = append(os.Environ(), orphanDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "server %d", &pid) // other lines are the test framework's
	}
	if pid == 0 {
		t.Fatal("the child started no server")
	}
	// A stopped server cannot obey the kernel's parent-death signal yet: it is
	// the orphan that other systems always have.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed, as wanted
	return pid
}
