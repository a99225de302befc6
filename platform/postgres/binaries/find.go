// Package binaries finds the Postgres server's programs on this machine and,
// where there are none, obtains them.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// ErrNone means that no Postgres server was found.
var ErrNone = errors.New("no postgres server programs found")

// Find returns the directory that holds initdb and postgres. It looks at
// TIDEMARK_POSTGRES_BIN, at PATH, where systems install them, and where Ensure
// puts them.
func Find() (string, error) {
	candidates := []string{os.Getenv("TIDEMARK_POSTGRES_BIN")}
	if path, err := exec.LookPath("postgres"); err == nil {
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(resolved))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian and Ubuntu
		"/usr/pgsql-*/bin",          // Fedora and relatives
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // only a malformed pattern fails
		slices.SortFunc(found, func(a, b string) int { return versionIn(b) - versionIn(a) })
		candidates = append(candidates, found...)
	}
	if cached, err := cacheDir(); err == nil {
		candidates = append(candidates, filepath.Join(cached, "bin"))
	}
	for _, dir := range candidates {
		if dir != "" && isServer(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: install PostgreSQL 14 or newer (Debian, Ubuntu: apt-get install postgresql), or set TIDEMARK_POSTGRES_BIN", ErrNone)
}

// Ensure returns what Find finds or else obtains Postgres and puts it into the
// user's cache, once for all clones. It says what it is doing, because that can
// take a minute. The error names every way that was tried.
func Ensure(ctx context.Context, say func(string)) (string, error) {
	found, err := Find()
	if err == nil {
		return found, nil
	}
	dir, cacheErr := cacheDir()
	if cacheErr != nil {
		return "", errors.Join(err, cacheErr)
	}
	if obtainErr := obtain(ctx, dir, say); obtainErr != nil {
		return "", fmt.Errorf("%w; obtaining one failed: %w", err, obtainErr)
	}
	return Find() // one of the ways installs into the system
}

// cacheDir is where obtained binaries live; the server's user must get there.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for postgres: %w", err)
	}
	return postgres.ReachableDir(filepath.Join(base, "tidemark", "postgres-"+npmVersion))
}

func isServer(dir string) bool {
	for _, name := range []string{"postgres", "initdb"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// versionIn returns the first number in a path, 0 without one.
func versionIn(path string) int {
	start := -1
	for i, r := range path {
		digit := r >= '0' && r <= '9'
		if digit && start < 0 {
			start = i
		}
		if !digit && start >= 0 {
			n, _ := strconv.Atoi(path[start:i]) // digits only
			return n
		}
	}
	return 0
}
