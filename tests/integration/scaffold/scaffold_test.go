// Package scaffold tests `make new-projection` as a reader of
// docs/howto/new-projection.md uses it: in a copy of the repository.
package scaffold

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// limit bounds one command on a busy machine; all of it takes a minute on an
// idle one.
const limit = 8 * time.Minute

// TestNewProjection makes a projection, and runs its tests and everything that
// reads the tree: vet, the linters, the architecture test.
func TestNewProjection(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	must(t, root, "tools/install.sh") // nothing to do but on a fresh clone
	at := copyOf(t, root)
	commit := func() {
		must(t, at, "git", "add", "-A")
		must(t, at, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "as it is")
	}
	must(t, at, "git", "init", "-q", ".")
	commit()

	for _, name := range []string{"", "Ware", "ware-house", "timeline", "func", "commerce"} {
		if out, err := run(t, at, "make", "new-projection", "name="+name); err == nil {
			t.Errorf("name %q was taken:\n%s", name, out)
		}
	}
	said := must(t, at, "make", "new-projection", "name=probe")
	for _, want := range []string{"go test ./projections/probe", "at port 203 behind the base"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if out, err := run(t, at, "make", "new-projection", "name=probe"); err == nil || !strings.Contains(out, "exists") {
		t.Errorf("a second one of the name: %v\n%s", err, out)
	}

	tested := must(t, at, "go", "test", "./projections/probe", "-count=1", "-v")
	for _, want := range []string{"PASS: TestConformance/crash", "PASS: TestConformance/golden", "PASS: TestReadYourWrite"} {
		if !strings.Contains(tested, want) {
			t.Errorf("no %q in:\n%s", want, tested)
		}
	}
	must(t, at, "go", "test", "./tests/integration/architecture", "-count=1")
	must(t, at, "go", "vet", "./projections/probe/...", "./proto/probe/...", "./cmd/tidemark/fleet")
	must(t, filepath.Join(at, "projections"), filepath.Join(root, ".tools/bin/staticcheck"), "./probe/...")
	if out := must(t, at, "gofmt", "-l", "projections", "tests/integration/architecture", "cmd/tidemark/fleet"); out != "" {
		t.Errorf("not formatted: %s", out)
	}
	must(t, at, filepath.Join(root, ".tools/bin/buf"), "lint")
	if out := must(t, at, filepath.Join(root, ".tools/bin/buf"), "format", "-d", "proto", "--path", "proto/probe"); out != "" {
		t.Errorf("proto files are not formatted:\n%s", out)
	}
	inFleet(t, at)
	viewDiff(t, at, commit)
}

// inFleet tests that the fleet starts the projection.
func inFleet(t *testing.T, at string) {
	t.Helper()
	const starts = `package fleet

import "testing"

func TestProbe(t *testing.T) {
	f, err := Start(t.Context(), Options{Dir: t.TempDir(), Parts: []string{Postgres, Broker, Registry, "probe"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
}
`
	if err := os.WriteFile(filepath.Join(at, "cmd/tidemark/fleet/probe_test.go"), []byte(starts), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, at, "go", "test", "./cmd/tidemark/fleet", "-run", "^TestProbe$", "-count=1")
	if err := os.Remove(filepath.Join(at, "cmd/tidemark/fleet/probe_test.go")); err != nil {
		t.Fatal(err)
	}
}

// viewDiff tests `make view-diff` on the copy: a view that is new, one that did
// not change, and one whose rows do.
func viewDiff(t *testing.T, at string, commit func()) {
	t.Helper()
	out := must(t, at, "make", "view-diff", "ARGS=-base HEAD -fail")
	if !strings.Contains(out, "probe is new") || strings.Count(out, "nothing changed") != 2 {
		t.Errorf("with a new view beside the others it says\n%s", out)
	}
	commit()
	file := filepath.Join(at, "projections/probe/view.go")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), `Step = "confirmed"`, `Step = "accepted"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = run(t, at, "make", "view-diff", "ARGS=-base HEAD -fail")
	for _, want := range []string{`step changes in`, `order_id=o-1: "confirmed" → "accepted"`, "step=accepted", "give probe a new Version"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, and it does not say %q of a view that changed:\n%s", err, want, out)
		}
	}
	if left := must(t, at, "git", "worktree", "list"); strings.Count(left, "\n") != 1 {
		t.Errorf("it leaves behind:\n%s", left)
	}
}

// copyOf copies what git would commit, and links the tools.
func copyOf(t *testing.T, root string) string {
	t.Helper()
	at := t.TempDir()
	files := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard")
	files.Dir = root
	out, err := files.Output()
	if err != nil {
		t.Fatalf("list the repository: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		if err := copyFile(filepath.Join(root, name), filepath.Join(at, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	tools, err := filepath.EvalSymlinks(filepath.Join(root, ".tools"))
	if err == nil {
		err = os.Symlink(tools, filepath.Join(at, ".tools"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		_ = target.Close()
		return err
	}
	return target.Close()
}

func run(t *testing.T, dir, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -buildvcs=false", "GOWORK=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs a command of the copy and returns what it printed.
func must(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	started := time.Now()
	if !filepath.IsAbs(program) && strings.Contains(program, "/") {
		program = filepath.Join(dir, program)
	}
	out, err := run(t, dir, program, args...)
	t.Logf("%5.1f s  %s %s", time.Since(started).Seconds(), filepath.Base(program), strings.Join(args, " "))
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}
