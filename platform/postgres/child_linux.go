//go:build linux

package postgres

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// setDeathSignal has the kernel send signal to the child when this process
// dies, however it dies.
func setDeathSignal(attr *syscall.SysProcAttr, signal syscall.Signal) {
	attr.Pdeathsig = signal
}

// isServerOf reports whether the process is a Postgres server that was started
// on dataDir.
func isServerOf(pid int, dataDir string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte("postgres")) && bytes.Contains(line, []byte(dataDir))
}
