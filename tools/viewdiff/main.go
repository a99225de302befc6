// Command viewdiff folds recorded facts with the views of another commit and
// with those of the working tree, and prints which fields of which rows change.
//
// It is run by `make view-diff` as `go run tools/viewdiff/*.go`, from the root.
// Neither tree is written to: what runs in them is laid over them while they
// are built.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sample are the recorded facts that are committed.
const sample = "projections/testdata/facts.jsonl.gz"

func main() {
	base := flag.String("base", "", "commit to compare with; empty is where this branch left main")
	facts := flag.String("facts", sample, "recorded facts, as `make view-sample` writes them; may be a longer sample of your own")
	examples := flag.Int("examples", 3, "rows shown for each field that changes")
	fail := flag.Bool("fail", false, "exit with 1 if any row changes")
	flag.Parse()
	changed, err := run(*base, *facts, *examples)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "view-diff:", err)
		os.Exit(2)
	case changed && *fail:
		os.Exit(1)
	}
}

func run(base, facts string, examples int) (changed bool, err error) {
	root, err := os.Getwd()
	if err != nil {
		return false, err
	}
	if base == "" {
		if base, err = leftMain(); err != nil {
			return false, err
		}
	}
	commit, err := git("rev-parse", "--short", base+"^{commit}")
	if err != nil {
		return false, fmt.Errorf("no commit %q: %w", base, err)
	}
	input, err := unpack(facts)
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp("", "tidemark-view-diff-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	old := filepath.Join(work, "old")
	if _, err := git("worktree", "add", "--quiet", "--detach", old, commit); err != nil {
		return false, fmt.Errorf("check out %s: %w", commit, err)
	}
	defer func() {
		if _, gone := git("worktree", "remove", "--force", old); gone != nil {
			err = errors.Join(err, gone)
		}
	}()
	before, err := fold(old, filepath.Join(work, "before"), commit, input)
	if err != nil {
		return false, err
	}
	after, err := fold(root, filepath.Join(work, "after"), "the working tree", input)
	if err != nil {
		return false, err
	}
	return report(os.Stdout, before, after, commit, examples), nil
}

// leftMain is where the branch left main, as far as this clone knows.
func leftMain() (string, error) {
	for _, main := range []string{"origin/main", "main"} {
		if commit, err := git("merge-base", "HEAD", main); err == nil {
			return commit, nil
		}
	}
	return "", errors.New("there is no main here; say what to compare with: make view-diff ARGS=\"-base COMMIT\"")
}

func git(args ...string) (string, error) {
	out, err := exec.Command("git", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// folded is what the views of one tree make of the facts.
type folded map[string]struct {
	Generation string                      `json:"generation"`
	Schema     string                      `json:"schema"`
	Facts      int                         `json:"facts"`
	Parked     int                         `json:"parked"`
	Reason     string                      `json:"reason"`
	Tables     map[string][]map[string]any `json:"tables"`
}

// fold builds the dumper over a tree and gives it the facts.
func fold(tree, into, name string, facts []byte) (folded, error) {
	views, err := filepath.Glob(filepath.Join(tree, "projections", "*", "view.go"))
	if err != nil || len(views) == 0 {
		return nil, fmt.Errorf("no views in %s (%v)", name, err)
	}
	for i, file := range views {
		views[i] = filepath.Base(filepath.Dir(file))
	}
	kernel := "platform/projection/fold"
	if _, err := os.Stat(filepath.Join(tree, kernel)); errors.Is(err, fs.ErrNotExist) {
		kernel = "platform/projection" // where it was before
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	source := filepath.Join(into, "main.go")
	if err := os.WriteFile(source, []byte(dumper(kernel, views)), 0o644); err != nil {
		return nil, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(tree, "projections", "internal", "viewdump", "main.go"): source},
	})
	if err != nil {
		return nil, err
	}
	laid := filepath.Join(into, "overlay.json")
	if err := os.WriteFile(laid, overlay, 0o644); err != nil {
		return nil, err
	}
	program := filepath.Join(into, "dump")
	err = during("building the views of "+name, func() error {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-overlay", laid, "-o", program, "./projections/internal/viewdump")
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "GOWORK=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the views of %s: %w\n%s", name, err, out)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var result folded
	err = during("folding with the views of "+name, func() error {
		cmd := exec.Command(program)
		var failed bytes.Buffer
		cmd.Stdin, cmd.Stderr = bytes.NewReader(facts), &failed
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("fold with the views of %s: %w\n%s", name, err, failed.Bytes())
		}
		decoder := json.NewDecoder(bytes.NewReader(out))
		decoder.UseNumber()
		return decoder.Decode(&result)
	})
	return result, err
}

// during says on standard error what goes on, and that it still does.
func during(what string, do func() error) error {
	started := time.Now()
	fmt.Fprintf(os.Stderr, "%s", what)
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case err := <-done:
			fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(started).Seconds())
			return err
		case <-ticker.C:
			fmt.Fprint(os.Stderr, ".")
		}
	}
}
