package conformance

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/projection"
)

// contract is what readmodel.yaml says.
type contract struct {
	Name               string            `yaml:"name"`
	Version            int               `yaml:"version"`
	Question           string            `yaml:"question"`
	Owner              string            `yaml:"owner"`
	Consumers          []string          `yaml:"consumers"`
	Sources            []string          `yaml:"sources"`
	StalenessObjective string            `yaml:"staleness_objective"`
	Queries            map[string]string `yaml:"queries"`
	Rebuild            struct {
		Strategy   string `yaml:"strategy"`
		TimeBudget string `yaml:"time_budget"`
	} `yaml:"rebuild"`
	Reconciliation []string       `yaml:"reconciliation"`
	PersonalData   []yaml.Node    `yaml:"personal_data"`
	Policy         map[string]any `yaml:"policy"`
}

// Contract compares readmodel.yaml, in the working directory, with the view and
// with the query service that serves it, and returns its policy table, for the
// projection's own test to compare with its code.
func Contract[S any](t *testing.T, view projection.View[S], service grpc.ServiceDesc) map[string]any {
	t.Helper()
	file, err := os.Open("readmodel.yaml")
	if err != nil {
		t.Fatalf("a read model carries its contract: %v", err)
	}
	defer func() { _ = file.Close() }()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	var c contract
	if err := decoder.Decode(&c); err != nil {
		t.Fatalf("readmodel.yaml: %v", err)
	}
	if c.Name != view.Name || c.Version != view.Version || !slices.Equal(c.Sources, view.Sources) {
		t.Errorf("readmodel.yaml is about %s %d from %v, the code about %s %d from %v",
			c.Name, c.Version, c.Sources, view.Name, view.Version, view.Sources)
	}
	var methods []string
	for _, m := range service.Methods {
		methods = append(methods, m.MethodName)
	}
	for _, s := range service.Streams {
		methods = append(methods, s.StreamName)
	}
	classes := []string{"read-your-write", "operational", "analytical"}
	for _, m := range methods {
		if !slices.Contains(classes, c.Queries[m]) {
			t.Errorf("query %s has the consistency class %q, not one of %v", m, c.Queries[m], classes)
		}
	}
	if len(c.Queries) != len(methods) {
		t.Errorf("readmodel.yaml names %d queries, the service has %d", len(c.Queries), len(methods))
	}
	for what, given := range map[string]string{
		"question": c.Question, "owner": c.Owner, "staleness_objective": c.StalenessObjective,
		"rebuild.strategy": c.Rebuild.Strategy, "rebuild.time_budget": c.Rebuild.TimeBudget,
		"consumers": fmt.Sprint(len(c.Consumers)), "reconciliation": fmt.Sprint(len(c.Reconciliation)),
	} {
		if given == "" || given == "0" {
			t.Errorf("readmodel.yaml says nothing about %s", what)
		}
	}
	return c.Policy
}
