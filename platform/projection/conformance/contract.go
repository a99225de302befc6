package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/contract"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Contract compares readmodel.yaml, in the working directory, with the view and
// with the query service that serves it, and returns its policy table, for the
// projection's own test to compare with its code.
//
// The sample is facts that carry personal data, in structs named Contact and
// Address: wherever a table or a log keeps some of that, the contract must say
// so, and nowhere else.
func Contract[S any](t *testing.T, view fold.View[S], truths []projection.Truth[S], service grpc.ServiceDesc, sample ...event.Fact) map[string]any {
	t.Helper()
	text, err := os.ReadFile("readmodel.yaml")
	if err != nil {
		t.Fatalf("a read model carries its contract: %v", err)
	}
	c, err := contract.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Match(view.Name, view.Version, view.Sources); err != nil {
		t.Error(err)
	}
	for _, problem := range slices.Concat(queries(c, service), personal(t, c, view, sample), owners(c, view, truths, sample)) {
		t.Error(problem)
	}
	return c.Policy
}

// queries compares the queries that a contract lists with those of a service.
func queries(c *contract.Contract, service grpc.ServiceDesc) (problems []string) {
	methods := map[string]bool{}
	for _, m := range service.Methods {
		methods[m.MethodName] = true
	}
	for _, s := range service.Streams {
		methods[s.StreamName] = true
	}
	for m := range methods {
		if c.Queries[m] == "" {
			problems = append(problems, fmt.Sprintf("readmodel.yaml does not say which consistency %s has", m))
		}
	}
	for m := range c.Queries {
		if !methods[m] {
			problems = append(problems, fmt.Sprintf("readmodel.yaml lists %s, which %s does not have", m, service.ServiceName))
		}
	}
	return problems
}

// personal compares where the view keeps personal data with where it says so.
func personal[S any](t *testing.T, c *contract.Contract, view fold.View[S], sample []event.Fact) (problems []string) {
	t.Helper()
	m := fold.NewMemory(view)
	if err := m.Apply(sample...); err != nil {
		t.Fatal(err)
	}
	var secrets []string
	for _, f := range sample {
		secrets = append(secrets, personalTexts(reflect.ValueOf(f.Body), false)...)
	}
	kept := map[string]bool{}
	for table, rows := range m.All() {
		for _, r := range rows {
			for column, value := range r {
				leaves(table+"."+column, value, func(path, text string) {
					declared := false
					for _, p := range c.PersonalData {
						if path == p.Field || strings.HasPrefix(path, p.Field+".") {
							kept[p.Field], declared = true, true
						}
					}
					holds := slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(text, s) })
					if holds && !declared {
						problems = append(problems, fmt.Sprintf("%s keeps personal data and readmodel.yaml does not say so", path))
					}
				})
			}
		}
	}
	for _, p := range c.PersonalData {
		if !kept[p.Field] {
			problems = append(problems, fmt.Sprintf("readmodel.yaml says that %s keeps personal data; no row of the sample has it", p.Field))
		}
	}
	return problems
}

// owners compares the fields that a contract says are compared with what the
// owners answer with those that the truths name, and looks for personal
// data in one that does not say that it holds some.
func owners[S any](c *contract.Contract, view fold.View[S], truths []projection.Truth[S], sample []event.Fact) (problems []string) {
	named := map[string]map[string]bool{}
	orders := map[string]*S{}
	for _, f := range sample {
		if orders[f.Key] == nil {
			orders[f.Key] = new(S)
		}
		view.Fold(orders[f.Key], f)
	}
	for _, truth := range truths {
		named[truth.Source] = map[string]bool{}
		for _, f := range sample {
			if f.Source != truth.Source {
				continue
			}
			said := truth.Shown(f.Key, orders[f.Key], f.Aggregate.ID)
			for _, name := range said.Names() {
				named[truth.Source][name] = true
			}
			problems = append(problems, shownPersonal(truth.Source, said, personalTexts(reflect.ValueOf(f.Body), false))...)
		}
		fields := slices.Sorted(maps.Keys(named[truth.Source]))
		if want := slices.Sorted(slices.Values(c.OwnerFields[truth.Source])); !slices.Equal(fields, want) {
			problems = append(problems, fmt.Sprintf("readmodel.yaml says that %v of %s are compared with the owner's answers, the code compares %v", want, truth.Source, fields))
		}
	}
	for source := range c.OwnerFields {
		if named[source] == nil {
			problems = append(problems, fmt.Sprintf("readmodel.yaml says that %s is compared with the owner's answers, and no truth is about it", source))
		}
	}
	slices.Sort(problems)
	return slices.Compact(problems)
}

func shownPersonal(source string, said projection.Said, secrets []string) (problems []string) {
	for _, f := range said.Fields {
		if !f.Personal && slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(f.Value, s) }) {
			problems = append(problems, fmt.Sprintf("the truth about %s shows personal data in %s, which does not say so", source, f.Name))
		}
	}
	return problems
}

// leaves visits every text of a value, with its path; JSON texts are entered.
func leaves(path string, value any, visit func(path, text string)) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			leaves(path+"."+key, inner, visit)
		}
	case []any:
		for _, inner := range v {
			leaves(path, inner, visit)
		}
	case string:
		var inner any
		if strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
			leaves(path, inner, visit)
			return
		}
		visit(path, v)
	}
}

// personalTexts collects the texts inside of structs named Contact or Address,
// but for those too short to tell from others, such as a country's code.
func personalTexts(v reflect.Value, inside bool) (texts []string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return personalTexts(v.Elem(), inside)
		}
	case reflect.Struct:
		inside = inside || v.Type().Name() == "Contact" || v.Type().Name() == "Address"
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				texts = append(texts, personalTexts(v.Field(i), inside)...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts = append(texts, personalTexts(v.Index(i), inside)...)
		}
	case reflect.String:
		if inside && v.Len() > 2 {
			return []string{v.String()}
		}
	}
	return texts
}
