package operations

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
)

// The contract is for those who do not read Go; it must say what the code does.
func TestContractStatesThePolicy(t *testing.T) {
	hours := func(d time.Duration) string { return fmt.Sprintf("%dh", d/time.Hour) }
	severity := map[int64]string{low: "low", medium: "medium", high: "high"}
	row := func(r rule, after string) map[string]any {
		return map[string]any{"after": after, "act": hours(r.act), "severity": severity[r.severity], "late": severity[r.late]}
	}
	allowed := map[string]any{}
	for status, a := range allowances {
		external := hours(a.external)
		if a.external == 0 {
			external = "none"
		}
		allowed[status] = map[string]any{"managed": hours(a.managed), "external": external}
	}
	want := map[string]any{
		"stuck":                  row(stuckRule, "allowance"),
		"promise_at_risk":        row(promiseRule, hours(promiseRule.after)),
		"payment_declined":       row(declinedRule, hours(declinedRule.after)),
		"held":                   row(heldRule, hours(heldRule.after)),
		"needs_person":           row(personRule, hours(personRule.after)),
		"shipment_delayed":       row(delayedRule, hours(delayLimit)+" behind the expected date; 0h if there is no date any more"),
		"shipment_lost":          row(lostRule, hours(lostRule.after)),
		"captured_but_cancelled": row(keptRule, hours(keptRule.after)),
		"allowances":             allowed,
	}
	got := conformance.Contract(t, View(), Truths(), operationsv1.OperationsService_ServiceDesc, history.NewStory("o-1").All()...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policy (-code +readmodel.yaml):\n%s", diff)
	}
}
