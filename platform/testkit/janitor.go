package testkit

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// EndWithProcess has a small shell process wait for the end of this process,
// whatever ends it (os.Exit, a panic, SIGKILL). It then ends the server whose
// process id stands in the first line of pidFile, with signal and after three
// seconds with SIGKILL, and removes dir. Deferred functions and t.Cleanup
// cannot promise that. A server that was stopped before removes its pidFile,
// so that nobody else who got its number is hurt.
func EndWithProcess(pidFile string, signal syscall.Signal, dir string) error {
	const script = `cat >/dev/null
pid=$(head -n 1 "$1" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -"$2" "$pid" 2>/dev/null
  n=0; while kill -0 "$pid" 2>/dev/null && [ $n -lt 60 ]; do sleep 0.05; n=$((n+1)); done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf -- "$3"`
	cmd := exec.Command("sh", "-c", script, "sh", pidFile, strconv.Itoa(int(signal)), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	// The write end stays open: the kernel closes it when we are gone.
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("watch over %s: %w", dir, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watch over %s: %w", dir, err)
	}
	go func() { _ = cmd.Wait() }() // also keeps the pipe from the garbage collector
	return nil
}
