//go:build linux

package processes

import "syscall"

// OwnGroup puts a program into a process group of its own, so that a signal to the
// test is not one to the program, and has the kernel ask it to end when the test
// dies, however it dies.
func OwnGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
