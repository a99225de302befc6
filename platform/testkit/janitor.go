package testkit

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// EndWithProcess has a small shell process wait for the end of this process,
// whatever ends it (os.Exit, a panic, SIGKILL), then end the server pid and
// remove dir. Deferred functions and t.Cleanup cannot promise that. A pid of 0
// only removes the directory.
func EndWithProcess(pid int, dir string) error {
	const script = `cat >/dev/null
if [ "$1" -gt 1 ]; then
  kill -QUIT "$1" 2>/dev/null
  n=0; while kill -0 "$1" 2>/dev/null && [ $n -lt 60 ]; do sleep 0.05; n=$((n+1)); done
  kill -KILL "$1" 2>/dev/null
fi
rm -rf -- "$2"`
	cmd := exec.Command("sh", "-c", script, "sh", strconv.Itoa(pid), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	// The write end is never closed by us: the kernel does it when we are gone.
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("watch over %s: %w", dir, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watch over %s: %w", dir, err)
	}
	go func() { _ = cmd.Wait() }() // also keeps the pipe from the garbage collector
	return nil
}
