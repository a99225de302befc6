// Command gen writes the typed events of package facts and package control
// from the schema files, and the ids of new schema files into ids.lock. Run it
// in the folder schemas:
//
//	go run ./internal/gen          write what is missing or old
//	go run ./internal/gen -check   write nothing, fail if something would change
//
// It refuses a released schema file that changed or is gone.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail if something would change")
	root := flag.String("dir", ".", "the folder schemas")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	want, err := Generate(os.DirFS(root))
	if err != nil {
		return err
	}
	stale, err := generated(root)
	if err != nil {
		return err
	}
	var drift []string
	for name, text := range want {
		path := filepath.Join(root, name)
		delete(stale, path)
		have, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if bytes.Equal(have, text) {
			continue
		}
		drift = append(drift, name)
		if !check {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
		}
	}
	for path := range stale {
		drift = append(drift, path)
		if !check {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	if check && len(drift) > 0 {
		slices.Sort(drift)
		return fmt.Errorf("not up to date, run go generate in schemas: %s", strings.Join(drift, ", "))
	}
	return nil
}

// generated lists the files that an earlier run wrote.
func generated(root string) (map[string]bool, error) {
	found := map[string]bool{}
	for _, dir := range []string{"facts", "control"} {
		names, err := filepath.Glob(filepath.Join(root, dir, "*.gen.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found[name] = true
		}
	}
	return found, nil
}

// Generate returns the content of every generated file, by its path below the
// folder schemas.
func Generate(files fs.FS) (map[string][]byte, error) {
	text, err := fs.ReadFile(files, lock.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries, err := lock.Parse(string(text))
	if err != nil {
		return nil, err
	}
	entries, err = lock.Extend(entries, files)
	if err != nil {
		return nil, err
	}
	model, err := Read(files, entries)
	if err != nil {
		return nil, err
	}
	out, err := Emit(model)
	if err != nil {
		return nil, err
	}
	out[lock.File] = []byte(lock.Format(entries))
	return out, nil
}
