// Package contract reads what a read model promises, readmodel.yaml beside its
// code, and writes the alert rules that hold it to that.
package contract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// Contract is what a read model promises. The program carries it and serves it,
// alerts are generated from it, and package conformance compares it with the
// code.
type Contract struct {
	Name               string            `yaml:"name"`
	Version            int               `yaml:"version"`
	Question           string            `yaml:"question"`
	Owner              string            `yaml:"owner"`
	Consumers          []string          `yaml:"consumers"`
	Sources            []string          `yaml:"sources"`
	StalenessObjective time.Duration     `yaml:"staleness_objective"`
	Queries            map[string]string `yaml:"queries"`
	Rebuild            struct {
		Strategy   string `yaml:"strategy"`
		TimeBudget string `yaml:"time_budget"`
	} `yaml:"rebuild"`
	Reconciliation []string `yaml:"reconciliation"`
	// OwnerFields are the fields that are compared with what the owners answer, by
	// source. A source that is not named is compared with its owner's journal only.
	OwnerFields  map[string][]string `yaml:"compared_with_owners"`
	PersonalData []PersonalData      `yaml:"personal_data"`
	Policy       map[string]any      `yaml:"policy"`
}

// PersonalData is a field of a read model that holds personal data: a table, a
// column, and the path inside a JSON column, with dots.
type PersonalData struct {
	Field   string `yaml:"field"`
	Purpose string `yaml:"purpose"`
}

// consistencies are the classes a query may have.
var consistencies = map[string]readmodelv1.Consistency{
	"read-your-write": readmodelv1.Consistency_CONSISTENCY_READ_YOUR_WRITE,
	"operational":     readmodelv1.Consistency_CONSISTENCY_OPERATIONAL,
	"analytical":      readmodelv1.Consistency_CONSISTENCY_ANALYTICAL,
}

// Parse reads a contract and says everything that is wrong with it: what is
// unknown, and what is missing.
func Parse(text []byte) (*Contract, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	c := &Contract{}
	if err := decoder.Decode(c); err != nil {
		return nil, fmt.Errorf("readmodel.yaml: %w", err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("readmodel.yaml: one document only")
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("readmodel.yaml: %w", err)
	}
	return c, nil
}

func (c *Contract) check() error {
	var errs []error
	missing := func(field string, is bool) {
		if is {
			errs = append(errs, fmt.Errorf("%s is missing", field))
		}
	}
	blank := func(texts []string) bool {
		return len(texts) == 0 || slices.ContainsFunc(texts, func(s string) bool { return strings.TrimSpace(s) == "" })
	}
	missing("name", c.Name == "")
	missing("version", c.Version < 1)
	missing("question", c.Question == "")
	missing("owner", c.Owner == "")
	missing("consumers", blank(c.Consumers))
	missing("sources", blank(c.Sources))
	missing("staleness_objective", c.StalenessObjective <= 0)
	missing("queries", len(c.Queries) == 0)
	missing("rebuild.strategy", c.Rebuild.Strategy == "")
	missing("reconciliation", blank(c.Reconciliation))
	missing("personal_data, [] if there is none,", c.PersonalData == nil)
	missing("policy, {} if there is none,", c.Policy == nil)
	budget, _, _ := strings.Cut(c.Rebuild.TimeBudget, " ")
	if _, err := time.ParseDuration(budget); err != nil {
		errs = append(errs, fmt.Errorf("rebuild.time_budget: %q does not begin with a duration such as 15m", c.Rebuild.TimeBudget))
	}
	for _, query := range slices.Sorted(maps.Keys(c.Queries)) {
		if consistencies[c.Queries[query]] == 0 {
			errs = append(errs, fmt.Errorf("queries.%s: %q is not one of %v", query, c.Queries[query], slices.Sorted(maps.Keys(consistencies))))
		}
	}
	for _, source := range slices.Sorted(maps.Keys(c.OwnerFields)) {
		missing("compared_with_owners."+source, blank(c.OwnerFields[source]))
		if !slices.Contains(c.Sources, source) {
			errs = append(errs, fmt.Errorf("compared_with_owners.%s: %q is no source", source, source))
		}
	}
	for i, p := range c.PersonalData {
		missing(fmt.Sprintf("personal_data[%d].field", i), p.Field == "")
		missing(fmt.Sprintf("personal_data[%d].purpose", i), p.Purpose == "")
	}
	if _, err := structpb.NewStruct(c.Policy); err != nil {
		errs = append(errs, fmt.Errorf("policy: %w", err))
	}
	return errors.Join(errs...)
}

// Match says what is wrong if the contract is not about this version of a view.
func (c *Contract) Match(name string, version int, sources []string) error {
	if c.Name != name || c.Version != version || !slices.Equal(c.Sources, sources) {
		return fmt.Errorf("readmodel.yaml is about %s %d from %v, the code about %s %d from %v",
			c.Name, c.Version, c.Sources, name, version, sources)
	}
	return nil
}

// KeepsPersonal reports whether a field of a table, or a path inside a JSON
// column, holds personal data or is around some. Without a contract none does.
func (c *Contract) KeepsPersonal(table, field string) bool {
	full := table + "." + field
	return c != nil && slices.ContainsFunc(c.PersonalData, func(d PersonalData) bool {
		return full == d.Field || strings.HasPrefix(full, d.Field+".") || strings.HasPrefix(d.Field, full+".")
	})
}

// Proto returns the contract as it is served, nil if there is none.
func (c *Contract) Proto() *readmodelv1.Contract {
	if c == nil {
		return nil
	}
	policy, err := structpb.NewStruct(c.Policy)
	if err != nil {
		policy = nil // check refused it
	}
	p := &readmodelv1.Contract{
		Name: c.Name, Version: int32(c.Version), Question: c.Question, Owner: c.Owner, Consumers: c.Consumers, Sources: c.Sources,
		StalenessObjective: durationpb.New(c.StalenessObjective), RebuildStrategy: c.Rebuild.Strategy,
		RebuildTimeBudget: c.Rebuild.TimeBudget, Reconciliation: c.Reconciliation, Policy: policy,
	}
	for _, query := range slices.Sorted(maps.Keys(c.Queries)) {
		p.Queries = append(p.Queries, &readmodelv1.Query{Name: query, Consistency: consistencies[c.Queries[query]]})
	}
	for _, source := range slices.Sorted(maps.Keys(c.OwnerFields)) {
		p.OwnerFields = append(p.OwnerFields, &readmodelv1.OwnerFields{Source: source, Fields: c.OwnerFields[source]})
	}
	for _, d := range c.PersonalData {
		p.PersonalData = append(p.PersonalData, &readmodelv1.PersonalData{Field: d.Field, Purpose: d.Purpose})
	}
	return p
}
