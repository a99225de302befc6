//go:build linux

package processes

import "syscall"

// ownGroup puts a part into a process group of its own, so that a signal to the
// test is not one to the part, and has the kernel ask it to end when the test
// dies, however it dies.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
