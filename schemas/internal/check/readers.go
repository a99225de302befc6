package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	module    = "github.com/tidemark-dev/tidemark/"
	factsAt   = module + "schemas/facts"
	controlAt = module + "schemas/control"
)

// consumer is a package that takes events apart. What it reads is found in its
// code: the fields it selects, and the events its type switches name.
type consumer struct {
	name    string
	handles map[string][]string            // event to places
	fields  map[string]map[string][]string // event to field, without underscores, to places
}

// everyEvent is the event of what is read through facts.Common.
const everyEvent = "*"

// reads says what the consumer does with an event and one of its fields, or "".
func (c consumer) reads(event, field string) string {
	if places := c.fields[event][plain(field)]; len(places) > 0 {
		return fmt.Sprintf("reads %s.%s at %s", event, field, strings.Join(places, ", "))
	}
	if places := c.fields[everyEvent][plain(field)]; len(places) > 0 {
		return fmt.Sprintf("reads %s of any fact, through facts.Common, at %s", field, strings.Join(places, ", "))
	}
	if len(c.handles[event]) > 0 {
		return fmt.Sprintf("handles %s at %s", event, strings.Join(c.handles[event], ", "))
	}
	return ""
}

// plain makes one word of a schema's field and of its Go name.
func plain(field string) string { return strings.ToLower(strings.ReplaceAll(field, "_", "")) }

// listed is what `go list` says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles, Imports        []string
	Standard                bool
}

// readers type-checks every package of the workspace that imports the typed
// events and collects what it reads of them.
func readers(root string) ([]consumer, error) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	packages, err := list(absolute)
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})
	var all []consumer
	for _, p := range packages {
		own := strings.TrimPrefix(p.ImportPath, module)
		if own == p.ImportPath || strings.HasPrefix(own, "schemas") || !slices.Contains(p.Imports, factsAt) && !slices.Contains(p.Imports, controlAt) {
			continue
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		}
		info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{}}
		// A package that does not compile still says what it reads: a field that
		// a broken schema took away is one of its errors.
		config := types.Config{Importer: imports, Error: func(error) {}}
		_, _ = config.Check(p.ImportPath, fset, files, info)
		c := consumer{name: role(own), handles: map[string][]string{}, fields: map[string]map[string][]string{}}
		for _, file := range files {
			c.collect(file, info, func(n ast.Node) string {
				at := fset.Position(n.Pos())
				path, err := filepath.Rel(absolute, at.Filename)
				if err != nil {
					path = at.Filename
				}
				return fmt.Sprintf("%s:%d", filepath.ToSlash(path), at.Line)
			})
		}
		if len(c.handles)+len(c.fields) > 0 {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b consumer) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

func role(path string) string {
	kind, name, ok := strings.Cut(path, "/")
	if !ok {
		return path
	}
	return strings.TrimSuffix(kind, "s") + " " + name
}

// collect walks over one file. What is assigned to is written, not read.
func (c consumer) collect(file *ast.File, info *types.Info, place func(ast.Node) string) {
	written := map[ast.Expr]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				written[left] = true
			}
		case *ast.CaseClause:
			for _, e := range n.List {
				if event := eventOf(info.TypeOf(e)); event != "" {
					c.handles[event] = append(c.handles[event], place(e))
				}
			}
		case *ast.TypeAssertExpr:
			if n.Type != nil {
				if event := eventOf(info.TypeOf(n.Type)); event != "" {
					c.handles[event] = append(c.handles[event], place(n))
				}
			}
		case *ast.SelectorExpr:
			selected := info.Selections[n]
			if written[n] || selected == nil || selected.Kind() != types.FieldVal {
				return true
			}
			event := eventOf(selected.Recv())
			if event == "" {
				return true
			}
			if event == "Common" {
				event = everyEvent
			}
			if c.fields[event] == nil {
				c.fields[event] = map[string][]string{}
			}
			field := plain(n.Sel.Name)
			c.fields[event][field] = append(c.fields[event][field], place(n))
		}
		return true
	})
}

// eventOf returns the name of a type of the typed events, or "".
func eventOf(t types.Type) string {
	if pointer, ok := t.(*types.Pointer); ok {
		t = pointer.Elem()
	}
	named, ok := t.(*types.Named)
	if !ok || named.Obj().Pkg() == nil {
		return ""
	}
	if path := named.Obj().Pkg().Path(); path != factsAt && path != controlAt {
		return ""
	}
	return named.Obj().Name()
}

// list asks the go command for the workspace's packages and for the compiled
// form of what they import.
func list(root string) ([]listed, error) {
	command := exec.Command("go", "list", "-e", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles,Imports,Standard", "work")
	command.Dir = root
	var out, complaint bytes.Buffer
	command.Stdout, command.Stderr = &out, &complaint
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, complaint.String())
	}
	var all []listed
	for decoder := json.NewDecoder(&out); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, p)
	}
}

func git(root string, args ...string) (string, error) {
	command := exec.Command("git", args...)
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return string(out), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
