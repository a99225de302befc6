package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// ErrNoBinaries means that no Postgres server binaries were found.
var ErrNoBinaries = errors.New("no postgres server binaries found")

// FindBinaries returns the directory that holds initdb and postgres. It looks
// at TIDEMARK_POSTGRES_BIN, at cached (a directory where an earlier run put
// binaries; may be ""), at PATH, and where systems install them.
func FindBinaries(cached string) (string, error) {
	candidates := []string{os.Getenv("TIDEMARK_POSTGRES_BIN")}
	if cached != "" {
		candidates = append(candidates, filepath.Join(cached, "bin"))
	}
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
	for _, dir := range candidates {
		if dir != "" && isProgram(filepath.Join(dir, "postgres")) && isProgram(filepath.Join(dir, "initdb")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: install PostgreSQL 14 or newer (Debian, Ubuntu: apt-get install postgresql), or set TIDEMARK_POSTGRES_BIN", ErrNoBinaries)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
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
			n, _ := strconv.Atoi(path[start:i])
			return n
		}
	}
	return 0
}

func pathDigest(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:6])
}
