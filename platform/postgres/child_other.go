//go:build !linux

package postgres

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// setDeathSignal does nothing here: there is no parent-death signal. A server
// that a killed process leaves behind is stopped by the next StartCluster on
// the same directory.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// isServerOf reports whether the process is a Postgres server that was started
// on dataDir.
func isServerOf(pid int, dataDir string) bool {
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), dataDir)
}
