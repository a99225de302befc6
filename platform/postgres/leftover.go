package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// StopLeftover stops a server that a killed process left running on the cluster
// in dir. StartCluster does that too; a program that looks at its ports first
// calls it before.
func StopLeftover(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find the cluster directory: %w", err)
	}
	return stopOrphan(filepath.Join(dir, "data"))
}

// stopOrphan stops a server that still runs on dataDir. Its process id stands
// in the cluster's own postmaster.pid; a number that meanwhile belongs to
// another program is left alone, and Postgres itself clears a stale file.
func stopOrphan(dataDir string) error {
	pidFile := filepath.Join(dataDir, "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no file: no server
	}
	if err != nil {
		return fmt.Errorf("look for an earlier postgres: %w", err)
	}
	lines := strings.Split(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 || len(lines) < 2 || strings.TrimSpace(lines[1]) != dataDir {
		return nil
	}
	ended := !isServerOf(pid, dataDir)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if ended {
			break
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) { // gone already is what we want
			return fmt.Errorf("stop an earlier postgres (process %d): %w", pid, err)
		}
		ended = within(3*time.Second, func() bool { return !isServerOf(pid, dataDir) })
	}
	if !ended {
		return fmt.Errorf("an earlier postgres (process %d) still runs on %s and does not stop", pid, dataDir)
	}
	// A dead process keeps its number until its parent collects it, which the
	// first process of many containers never does, and Postgres takes the number
	// for a running server. The files it left can go: should a child of that
	// server still live, the new one finds its shared memory in use and waits.
	if within(3*time.Second, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }) {
		return nil
	}
	left := []string{pidFile}
	if len(lines) > 4 && filepath.IsAbs(lines[4]) { // its port and the directory of its socket
		left = append(left, filepath.Join(lines[4], ".s.PGSQL."+lines[3]+".lock"))
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clear what a dead postgres (process %d) left: %w", pid, err)
		}
	}
	return nil
}

// within reports whether the condition came true in that time. The server is no
// child of this process, so nothing tells when it ends.
func within(limit time.Duration, condition func() bool) bool {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(limit)
	for !condition() {
		select {
		case <-look.C:
		case <-deadline:
			return condition()
		}
	}
	return true
}
