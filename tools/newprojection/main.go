// Command newprojection writes the skeleton of a new projection, which compiles
// and whose tests pass, and says what is left to do.
//
// It is run by `make new-projection name=…` as `go run tools/newprojection/*.go`,
// from the root.
package main

import (
	"bytes"
	"embed"
	"errors"
	"flag"
	"fmt"
	"go/format"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed skeleton
var skeleton embed.FS

func main() {
	name := flag.String("name", "", "name of the projection: lower-case letters and digits")
	flag.Parse()
	if err := run(*name); err != nil {
		fmt.Fprintln(os.Stderr, "new-projection:", err)
		os.Exit(1)
	}
}

// files are where the templates of the skeleton go.
func files(name string) map[string]string {
	return map[string]string{
		"service.proto.tmpl":   filepath.Join("proto", name, "v1", name+"_service.proto"),
		"schema.sql.tmpl":      filepath.Join("projections", name, "schema.sql"),
		"readmodel.yaml.tmpl":  filepath.Join("projections", name, "readmodel.yaml"),
		"view.go.tmpl":         filepath.Join("projections", name, "view.go"),
		"store.go.tmpl":        filepath.Join("projections", name, "store.go"),
		"server.go.tmpl":       filepath.Join("projections", name, "server.go"),
		"service.go.tmpl":      filepath.Join("projections", name, "service.go"),
		"main.go.tmpl":         filepath.Join("projections", name, "cmd", "main.go"),
		"view_test.go.tmpl":    filepath.Join("projections", name, "view_test.go"),
		"service_test.go.tmpl": filepath.Join("projections", name, "service_test.go"),
	}
}

var goodName = regexp.MustCompile(`^[a-z][a-z0-9]{1,29}$`)

func run(name string) error {
	if err := check(name); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	title := strings.ToUpper(name[:1]) + name[1:]
	targets := files(name)
	for _, source := range slices.Sorted(maps.Keys(targets)) {
		text, err := fill(source, name, title, port)
		if err != nil {
			return err
		}
		if err := write(targets[source], text); err != nil {
			return err
		}
	}
	if err := list(name, port); err != nil {
		return err
	}
	fmt.Println("generating: proto code, alerts, and the rows of version 1")
	for _, step := range []struct {
		dir string
		run []string
	}{
		{".", []string{"buf", "generate", "--path", filepath.Join("proto", name)}},
		{"projections", []string{"go", "run", "./internal/alerts"}},
		{".", []string{"env", "TIDEMARK_UPDATE=1", "go", "test", "./projections/" + name, "-run", "^TestConformance$/^(golden|contract)$", "-count=1"}},
	} {
		cmd := exec.Command(step.run[0], step.run[1:]...)
		cmd.Dir = step.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(step.run, " "), err, out)
		}
	}
	fmt.Printf(left, name, port-7000)
	return nil
}

// check refuses names that cannot be a package, a schema and a program.
func check(name string) error {
	switch {
	case name == "":
		return errors.New("which name? make new-projection name=warehouse")
	case !goodName.MatchString(name):
		return fmt.Errorf("name %q: 2 to 30 lower-case letters and digits, a letter first", name)
	case token.IsKeyword(name) || slices.Contains(reserved, name):
		return fmt.Errorf("name %q means something else in Go or here; take another", name)
	}
	for _, dir := range []string{"projections", "services", "proto"} {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("run it from the root of the repository: %w", err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s exists", filepath.Join(dir, name))
		}
	}
	return nil
}

// reserved are names that the skeleton's own code or the fleet uses.
var reserved = []string{
	"any", "bool", "broker", "context", "copy", "error", "event", "facts", "feed", "fold", "grpc", "history", "int", "internal", "kafka", "kept", "len",
	"lifecycle", "main", "metrics", "orders", "part", "pgx", "postgres", "program", "projection", "rapid", "reading", "readmodel", "registry", "rpc", "run", "running", "schema", "server", "service", "slog",
	"steps", "string", "table", "telemetry", "testing", "testkit", "time", "uuid",
}

func fill(source, name, title string, port int) ([]byte, error) {
	text, err := skeleton.ReadFile("skeleton/" + source)
	if err != nil {
		return nil, err
	}
	t, err := template.New(source).Delims("«", "»").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, map[string]any{"Name": name, "Title": title, "Port": port, "HTTPPort": port + 1000}); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

var addr = regexp.MustCompile(`rpc_addr=127\.0\.0\.1:(\d+)`)

// freePort is the first port behind those of the other projections.
func freePort() (int, error) {
	services, err := filepath.Glob("projections/*/service.go")
	if err != nil {
		return 0, err
	}
	port := 7200
	for _, file := range services {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		if found := addr.FindSubmatch(text); found != nil {
			taken, err := strconv.Atoi(string(found[1]))
			if err != nil {
				return 0, err
			}
			port = max(port, taken)
		}
	}
	return port + 1, nil
}

// The files that list all read models: for the architecture test, and for the
// fleet of `tidemark dev`.
const (
	bound   = "tests/integration/architecture/readmodels.go"
	started = "cmd/tidemark/fleet/readmodels.go"
)

// list adds the projection to them.
func list(name string, port int) error {
	if err := extend(bound, "}\n", fmt.Sprintf("\t%q,\n", name)); err != nil {
		return err
	}
	if err := extend(started, "\t}\n}\n", fmt.Sprintf("\t\t{%[1]q, %[2]d, reading(%[1]s.Run, func(c *%[1]s.Config) *readmodel.Config { return &c.Config })},\n", name, port-7000)); err != nil {
		return err
	}
	return extend(started, ")\n\n// readModel is", fmt.Sprintf("\t%q\n", module+"projections/"+name))
}

const module = "github.com/tidemark-dev/tidemark/"

// extend puts a line before the last place in a file that begins with behind.
func extend(file, behind, line string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	at := bytes.LastIndex(text, []byte(behind))
	if at < 0 {
		return fmt.Errorf("%s no longer has %q: change tools/newprojection with it", file, behind)
	}
	out, err := format.Source(sorted(slices.Concat(text[:at], []byte(line), text[at:])))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, out, 0o644)
}

func write(target string, text []byte) (err error) {
	if strings.HasSuffix(target, ".go") {
		if text, err = format.Source(sorted(text)); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	fmt.Println("  " + target)
	return os.WriteFile(target, text, 0o644)
}

// sorted sorts the lines of every import group, whose order depends on the name.
func sorted(text []byte) []byte {
	head, rest, ok := bytes.Cut(text, []byte("import (\n"))
	if !ok {
		return text
	}
	block, tail, _ := bytes.Cut(rest, []byte("\n)"))
	groups := strings.Split(string(block), "\n\n")
	for i, group := range groups {
		lines := strings.Split(group, "\n")
		slices.SortFunc(lines, func(a, b string) int { return strings.Compare(path(a), path(b)) })
		groups[i] = strings.Join(lines, "\n")
	}
	return slices.Concat(head, []byte("import (\n"+strings.Join(groups, "\n\n")+"\n)"), tail)
}

// path is what an import line imports.
func path(line string) string {
	_, quoted, _ := strings.Cut(line, `"`)
	return quoted
}

const left = `
The projection %[1]s compiles and answers on its own. Try it:

  go test ./projections/%[1]s          its tests, the conformance kit among them
  go run ./projections/%[1]s/cmd --help

Make it yours, in this order (docs/howto/new-projection.md):

  1. proto/%[1]s/v1/%[1]s_service.proto   what is asked; then: make generate
  2. projections/%[1]s/schema.sql         what is stored
  3. projections/%[1]s/view.go            what follows from facts
  4. projections/%[1]s/store.go, server.go, readmodel.yaml
  5. TIDEMARK_UPDATE=1 go test ./projections/%[1]s -run TestConformance/golden
     as long as version 1 is not released; later, a new version instead

"make dev" starts it with the others, at port %[2]d behind the base. Left to wire by hand, for deployments:

  - deploy/: build.sh, postgres/init.sh, compose.yaml, local-real.sh, prometheus/prometheus.yml, and
    tests/integration/deploy/variables_test.go
  - make baseline, when its RPC contract is released
`
