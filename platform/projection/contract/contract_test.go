package contract_test

import (
	"strings"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/projection/contract"
)

const tallyContract = `
name: tally
version: 1
question: What was noted?
owner: tests
consumers: [these tests]
sources: [order, payment]
staleness_objective: 5s
queries: {GetTally: read-your-write, ListTallies: analytical}
rebuild: {strategy: from the topics, time_budget: 15m per million facts}
reconciliation: [parts equal the owner's]
personal_data: [{field: parts.doc.name, purpose: to call them}]
policy: {late: {after: 48h}}
`

func TestParseNamesWhatIsWrong(t *testing.T) {
	tests := []struct{ name, old, with, want string }{
		{"unknown field", "owner: tests", "owner: tests\nslo: 5s", "slo"},
		{"no name", "name: tally", "", "name is missing"},
		{"no version", "version: 1", "", "version is missing"},
		{"no question", "question: What was noted?", "", "question is missing"},
		{"no owner", "owner: tests", "", "owner is missing"},
		{"no consumers", "consumers: [these tests]", "", "consumers is missing"},
		{"a blank consumer", "[these tests]", `[" "]`, "consumers is missing"},
		{"no sources", "sources: [order, payment]", "", "sources is missing"},
		{"no objective", "staleness_objective: 5s", "", "staleness_objective is missing"},
		{"an objective without a unit", "staleness_objective: 5s", "staleness_objective: soon", "soon"},
		{"no queries", "queries: {GetTally: read-your-write, ListTallies: analytical}", "", "queries is missing"},
		{"no such class", "analytical", "strong", `queries.ListTallies: "strong"`},
		{"no strategy", "strategy: from the topics, ", "", "rebuild.strategy is missing"},
		{"a budget without a time", "15m per million facts", "quick", `rebuild.time_budget: "quick"`},
		{"no reconciliation", "reconciliation: [parts equal the owner's]", "", "reconciliation is missing"},
		{"personal data not stated", "personal_data: [{field: parts.doc.name, purpose: to call them}]", "", "personal_data"},
		{"personal data without a purpose", ", purpose: to call them", "", "personal_data[0].purpose is missing"},
		{"policy not stated", "policy: {late: {after: 48h}}", "", "policy"},
		{"a second document", "owner: tests", "owner: tests\n---\nname: other", ""},
	}
	if _, err := contract.Parse([]byte(tallyContract)); err != nil {
		t.Fatalf("the whole contract: %v", err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(tallyContract, tt.old, tt.with, 1)
			if text == tallyContract {
				t.Fatal("the test changes nothing")
			}
			_, err := contract.Parse([]byte(text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
