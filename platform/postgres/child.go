package postgres

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process that must not outlive this one.
type child struct {
	pid  int
	done chan struct{}
	err  error // valid after done
}

// startChild starts cmd from a thread that lives as long as the child does: on
// Linux the parent-death signal is tied to the thread that forked, not to the
// process.
func startChild(cmd *exec.Cmd) (*child, error) {
	c := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.pid = cmd.Process.Pid
		started <- nil
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// stop sends signal, waits, and kills the child when ctx ends first.
func (c *child) stop(ctx context.Context, signal syscall.Signal) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	_ = syscall.Kill(c.pid, signal)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	_ = syscall.Kill(c.pid, syscall.SIGKILL)
	<-c.done
	return fmt.Errorf("process %d did not stop in time and was killed", c.pid)
}
