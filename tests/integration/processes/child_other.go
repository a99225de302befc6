//go:build !linux

package processes

import "syscall"

// ownGroup puts a part into a process group of its own, so that a signal to the
// test is not one to the part.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
