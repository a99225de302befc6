// Command size prints the smoke detectors of the house style for the named
// folders. They are detectors, not grades: it never fails.
//
// It is run by `make size` as `go run tools/size/*.go`, from the root.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

type count struct {
	packages             map[string]bool
	code, tests          int // lines, generated code left out
	interfaces           int
	exported, documented int
	files                []file
}

type file struct {
	path  string
	lines int
}

func main() {
	total := newCount()
	fmt.Printf("%-20s %8s %8s %8s %10s %11s %8s %6s %10s\n",
		"folder", "code", "tests", "test:code", "packages", "interfaces", "median", "max", "documented")
	for _, dir := range os.Args[1:] {
		c := newCount()
		if err := c.walk(dir); err != nil {
			fmt.Fprintf(os.Stderr, "size: %v\n", err)
			os.Exit(1)
		}
		c.print(dir)
		total.add(c)
	}
	total.print("all")
	fmt.Printf("%-20s %8s %8s %8s %10s %11s %8s %6s %10s\n", "budget", "", "", "≥ 1", "≤ 2.5/k", "≤ 1/k", "≤ 130", "≤ 400", "≥ 95 %")
	for _, f := range total.files {
		if f.lines > 400 {
			fmt.Printf("over 400 lines: %s (%d)\n", f.path, f.lines)
		}
	}
}

func newCount() *count { return &count{packages: map[string]bool{}} }

func (c *count) add(other *count) {
	for name := range other.packages {
		c.packages[name] = true
	}
	c.code += other.code
	c.tests += other.tests
	c.interfaces += other.interfaces
	c.exported += other.exported
	c.documented += other.documented
	c.files = append(c.files, other.files...)
}

func (c *count) walk(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if ast.IsGenerated(parse(path, content)) {
			return nil
		}
		lines := bytes.Count(content, []byte("\n"))
		if strings.HasSuffix(path, "_test.go") {
			c.tests += lines
			return nil
		}
		c.code += lines
		c.packages[filepath.Dir(path)] = true
		c.files = append(c.files, file{path, lines})
		c.inspect(parse(path, content))
		return nil
	})
}

func parse(path string, content []byte) *ast.File {
	parsed, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ParseComments)
	if err != nil {
		fmt.Fprintf(os.Stderr, "size: %v\n", err)
		os.Exit(1)
	}
	return parsed
}

func (c *count) inspect(parsed *ast.File) {
	for _, decl := range parsed.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || receiverExported(d.Recv) {
				c.name(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					c.name(s.Name, s.Doc, d.Doc)
					if _, ok := s.Type.(*ast.InterfaceType); ok {
						c.interfaces++
					}
				case *ast.ValueSpec:
					for _, name := range s.Names {
						c.name(name, s.Doc, s.Comment, d.Doc)
					}
				}
			}
		}
	}
}

func receiverExported(fields *ast.FieldList) bool {
	expr := fields.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if index, ok := expr.(*ast.IndexExpr); ok {
		expr = index.X
	}
	name, ok := expr.(*ast.Ident)
	return ok && name.IsExported()
}

func (c *count) name(name *ast.Ident, docs ...*ast.CommentGroup) {
	if !name.IsExported() {
		return
	}
	c.exported++
	if slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d.Text() != "" }) {
		c.documented++
	}
}

func (c *count) print(name string) {
	if c.code == 0 {
		return
	}
	lines := make([]int, 0, len(c.files))
	for _, f := range c.files {
		lines = append(lines, f.lines)
	}
	slices.Sort(lines)
	thousand := float64(c.code) / 1000
	fmt.Printf("%-20s %8d %8d %8.2f %8.2f/k %9.2f/k %8d %6d %8.0f %%\n", name, c.code, c.tests,
		float64(c.tests)/float64(c.code), float64(len(c.packages))/thousand, float64(c.interfaces)/thousand,
		lines[len(lines)/2], lines[len(lines)-1], 100*float64(c.documented)/float64(max(1, c.exported)))
}
