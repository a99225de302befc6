package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ClusterConfig describes a private Postgres cluster.
type ClusterConfig struct {
	// Dir holds the cluster: data/ and postgres.log. It is made when missing and
	// must be reachable for Account's user (see ReachableDir).
	Dir string
	// Port is the TCP port on 127.0.0.1. With 0 the cluster listens on its unix
	// socket only, which no other process can take.
	Port int
	// Durable turns fsync and synchronous commit on. Without it a crash of the
	// machine, but not of the server, loses data: right for tests only.
	Durable bool
	// BinDir holds initdb and postgres; package binaries finds it.
	BinDir string
	// LogFile is where the server logs; empty means Dir/postgres.log.
	LogFile string
	// MaxConnections is the server's limit, 200 when 0.
	MaxConnections int
}

// Cluster is a running private Postgres server. It dies with this process, even
// when this process is killed; its data stays and the next StartCluster on the
// same Dir finds it.
type Cluster struct {
	logFile   string
	socketDir string
	port      int
	server    *child
}

const clusterUser = "tidemark" // the superuser of every private cluster

const (
	socketPort  = 5432 // names the socket file; nothing listens there on TCP
	startLimit  = 60 * time.Second
	stopLimit   = 8 * time.Second
	maxUnixPath = 107 // sun_path less its final zero byte
)

// StartCluster makes the cluster if Dir is empty, starts it, and returns when
// it answers. A server that an earlier, killed process left behind on the same
// Dir is stopped first. As root it runs the server as an unprivileged user,
// because Postgres refuses to run as root.
func StartCluster(ctx context.Context, config ClusterConfig) (*Cluster, error) {
	if config.BinDir == "" {
		return nil, errors.New("a private cluster needs the directory of the server's programs")
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the cluster directory: %w", err)
	}
	config.Dir = dir
	if config.LogFile == "" {
		config.LogFile = filepath.Join(dir, "postgres.log")
	}
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dataDir := filepath.Join(config.Dir, "data")
	if err := prepareDir(config.Dir, account); err != nil {
		return nil, err
	}
	if err := stopOrphan(dataDir); err != nil {
		return nil, err
	}
	if err := checkPort(config.Port); err != nil {
		return nil, err
	}
	if err := initialise(ctx, config, dataDir, account); err != nil {
		return nil, err
	}
	socketDir, err := makeSocketDir(config.Dir, account)
	if err != nil {
		return nil, err
	}
	c := &Cluster{logFile: config.LogFile, socketDir: socketDir, port: config.Port}
	// The children of a killed server need a moment to notice; until then the
	// new one refuses to start.
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := c.start(ctx, config, dataDir, account)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errEndedAtStart) || time.Now().After(deadline) ||
			!strings.Contains(err.Error(), "shared memory block") {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// URL returns the connection URL of one database, over the unix socket: local
// programs need no port and no password.
func (c *Cluster) URL(database string) string {
	query := url.Values{"host": {c.socketDir}, "port": {strconv.Itoa(socketPort)}, "sslmode": {"disable"}}
	if c.port != 0 {
		query.Set("port", strconv.Itoa(c.port))
	}
	return "postgres://" + clusterUser + "@/" + database + "?" + query.Encode()
}

// TCPURL returns the connection URL of one database over TCP, for people and
// for programs that know no unix sockets. It is "" when Port was 0.
func (c *Cluster) TCPURL(database string) string {
	if c.port == 0 {
		return ""
	}
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", clusterUser, c.port, database)
}

// PID returns the process id of the server, for tests that kill it.
func (c *Cluster) PID() int { return c.server.pid }

// Done is closed when the server has ended, asked or not.
func (c *Cluster) Done() <-chan struct{} { return c.server.done }

// LogFile returns the path of the server's log.
func (c *Cluster) LogFile() string { return c.logFile }

// EnsureDatabases creates those of the named databases that do not exist yet.
func (c *Cluster) EnsureDatabases(ctx context.Context, names ...string) (err error) {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect to the private cluster: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, name := range names {
		var exists bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists)
		if err != nil {
			return fmt.Errorf("look for database %s: %w", name, err)
		}
		if exists {
			continue
		}
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
			return fmt.Errorf("create database %s: %w", name, err)
		}
	}
	return nil
}

// Stop ends the server: open sessions are cut, committed data is written out.
// It takes at most about ten seconds, then the server is killed.
func (c *Cluster) Stop(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	err := c.server.stop(bounded, syscall.SIGINT) // fast shutdown
	_ = os.Remove(c.socketDir)                    // unless a killed server left its socket there
	return err
}

var errEndedAtStart = errors.New("postgres ended at start")

func (c *Cluster) start(ctx context.Context, config ClusterConfig, dataDir string, account *account) error {
	logFile, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the postgres log: %w", err)
	}
	defer logFile.Close() // the server has its own copy
	cmd := exec.Command(filepath.Join(config.BinDir, "postgres"), serverArgs(config, dataDir, c.socketDir)...)
	cmd.Dir = dataDir
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = account.sysProcAttr(syscall.SIGQUIT)
	server, err := startChild(cmd)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.server = server
	bounded, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for !servesNow(dataDir, server.pid) {
		select {
		case <-server.done:
			return fmt.Errorf("%w (%w); last lines of %s:\n%s", errEndedAtStart, server.err, c.LogFile(), tail(c.LogFile(), 12))
		case <-bounded.Done():
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
			defer cancel()
			return errors.Join(fmt.Errorf("postgres is not ready: %w", bounded.Err()), server.stop(stopCtx, syscall.SIGQUIT))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// servesNow reads what the server itself writes into its pid file: the process
// id comes first, the eighth line says "ready" once it takes connections.
// Trying to connect instead would fill its log with refusals.
func servesNow(dataDir string, pid int) bool {
	content, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(content), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

func serverArgs(config ClusterConfig, dataDir, socketDir string) []string {
	connections := config.MaxConnections
	if connections == 0 {
		connections = 200
	}
	port, listen := socketPort, ""
	if config.Port != 0 {
		port, listen = config.Port, "127.0.0.1"
	}
	durable := "off"
	if config.Durable {
		durable = "on"
	}
	args := []string{"-D", dataDir}
	if runtime.GOOS == "linux" {
		// After a kill the server syncs its whole directory, file by file, unless
		// the system can do it in one call.
		args = append(args, "-c", "recovery_init_sync_method=syncfs")
	}
	for _, setting := range []string{
		"listen_addresses=" + listen,
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=" + socketDir,
		"unix_socket_permissions=0777",
		"max_connections=" + strconv.Itoa(connections),
		"fsync=" + durable,
		"synchronous_commit=" + durable,
		"full_page_writes=" + durable,
		"shared_buffers=96MB",
		"max_wal_size=1GB", "checkpoint_timeout=15min", // every page that changes after a checkpoint is logged whole
		"autovacuum_naptime=10s", // the outbox is a queue: its dead rows must go soon
		"wal_level=replica",
		"max_wal_senders=0",
		"max_logical_replication_workers=0",
		"jit=off",
		"huge_pages=off",
		"log_line_prefix=%m [%p] %q%d ",
		"log_checkpoints=off",
		"timezone=UTC",
		"log_timezone=UTC",
		"cluster_name=tidemark",
	} {
		args = append(args, "-c", setting)
	}
	return args
}

func initialise(ctx context.Context, config ClusterConfig, dataDir string, account *account) error {
	if _, err := os.Stat(filepath.Join(dataDir, "PG_VERSION")); err == nil {
		return nil
	}
	// A killed initdb leaves a directory that it will not enter again.
	making := dataDir + ".making"
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("clear an unfinished cluster: %w", err)
	}
	args := []string{"-D", making, "-U", clusterUser, "-E", "UTF8", "--locale=C", "--auth=trust"}
	if !config.Durable {
		args = append(args, "--no-sync")
	}
	runtime.LockOSThread() // the death signal belongs to the thread that forks
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, filepath.Join(config.BinDir, "initdb"), args...)
	cmd.Dir = config.Dir
	cmd.Env = serverEnv()
	cmd.SysProcAttr = account.sysProcAttr(syscall.SIGKILL)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := os.Rename(making, dataDir); err != nil {
		return fmt.Errorf("name the new cluster: %w", err)
	}
	return nil
}

func serverEnv() []string {
	return []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH"), "HOME=/", "LD_LIBRARY_PATH=" + os.Getenv("LD_LIBRARY_PATH")}
}

// makeSocketDir makes a directory for the server's unix socket: inside dir or,
// when dir's path is too long for a socket (a deep clone), below the system's
// temporary directory. The name is the same at every start, so that killed runs
// leave no heap of directories behind.
func makeSocketDir(dir string, account *account) (string, error) {
	const longestName = "/.s.PGSQL.65535.lock"
	socketDir := filepath.Join(dir, "socket")
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if len(socketDir)+len(longestName) > maxUnixPath {
			socketDir = filepath.Join(base, fmt.Sprintf("tidemark-%d-%s", account.uid, pathDigest(dir)))
		}
	}
	err := os.Mkdir(socketDir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = account.mustOwn(socketDir) // somebody else's directory would hand them our sessions
	} else if err == nil {
		err = account.own(socketDir)
	}
	if err != nil {
		return "", fmt.Errorf("make the socket directory: %w", err)
	}
	return socketDir, nil
}

func checkPort(port int) error {
	if port == 0 {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("postgres port %d: %w", port, err)
	}
	return listener.Close()
}

func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
