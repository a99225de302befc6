package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/projections/operations"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/services/order"
	"github.com/tidemark-dev/tidemark/services/payment"
	"github.com/tidemark-dev/tidemark/services/shipment"
)

// TestEveryVariableIsRead compares the variables of compose.yaml with the flags
// of the program that each container runs.
func TestEveryVariableIsRead(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	programs := map[string]map[string]bool{
		"tidemark":            commandLine(t),
		"tidemark-order":      variables[order.Config](t),
		"tidemark-payment":    variables[payment.Config](t),
		"tidemark-shipment":   variables[shipment.Config](t),
		"tidemark-timeline":   variables[timeline.Config](t),
		"tidemark-operations": variables[operations.Config](t),
	}
	checked := 0
	for _, service := range slices.Sorted(maps.Keys(compose.Services)) {
		s := compose.Services[service]
		if len(s.Command) == 0 || programs[s.Command[0]] == nil {
			continue // not ours
		}
		for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
			checked++
			if !programs[s.Command[0]][name] {
				t.Errorf("%s sets %s, which %s does not read", service, name, s.Command[0])
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d variables were checked; is the file read?", checked)
	}
}

// variables returns the variables that a program with this configuration
// reads, those of lifecycle.Main for logs among them.
func variables[C any](t *testing.T) map[string]bool {
	t.Helper()
	var flags struct {
		Config C `embed:""`
	}
	parser, err := kong.New(&flags, kong.DefaultEnvars(lifecycle.EnvPrefix))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{"TIDEMARK_LOG_LEVEL": true, "TIDEMARK_LOG_FORMAT": true}
	for _, flag := range parser.Model.Flags {
		for _, name := range flag.Envs {
			names[name] = true
		}
	}
	return names
}

// commandLine returns the variables that the command line names in its tags.
func commandLine(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "..", "cmd", "tidemark", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names, tag := map[string]bool{}, regexp.MustCompile(`env:"(TIDEMARK_[A-Z_]+)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range tag.FindAllStringSubmatch(string(text), -1) {
			names[match[1]] = true
		}
	}
	return names
}
