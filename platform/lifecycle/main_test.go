package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

type probeConfig struct {
	Addr string `help:"Where to listen." default:"127.0.0.1:0"`
	Fail bool   `help:"Fail at once."`
}

// probe makes a command that runs this test binary as a program of Main.
func probe(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TIDEMARK_TEST_PROBE=1")
	return cmd
}

func TestMain(m *testing.M) {
	if os.Getenv("TIDEMARK_TEST_PROBE") == "" {
		os.Exit(m.Run())
	}
	Main("probe", "A program to test.", func(ctx context.Context, config probeConfig) error {
		if config.Fail {
			return errors.New("no database")
		}
		fmt.Println("listening on", config.Addr)
		<-ctx.Done()
		fmt.Println("stopping")
		return nil
	})
}

func TestMainExitCodes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, 0, "$TIDEMARK_ADDR"},
		{"an unknown flag", []string{"--adr=x"}, 2, "next: probe --help"},
		{"a failed run", []string{"--fail"}, 1, "no database"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := probe(t, tt.args...)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d (%v), want %d", code, err, tt.code)
			}
			if !bytes.Contains(out, []byte(tt.want)) {
				t.Errorf("output misses %q:\n%s", tt.want, out)
			}
		})
	}
}

func TestMainStopsOnASignal(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := probe(t)
		cmd.Env = append(cmd.Env, "TIDEMARK_ADDR=127.0.0.1:7777")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "listening on 127.0.0.1:7777" {
			t.Fatalf("the environment was not read: %q", lines.Text())
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || !strings.Contains(lines.Text(), "stopping") {
			t.Errorf("%s did not end the context", signal)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %s: %v, want exit code 0", signal, err)
		}
	}
}
