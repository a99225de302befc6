package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

func TestKindAndReasonSurviveWrapping(t *testing.T) {
	err := fmt.Errorf("cancel order: %w", fault.IllegalTransition("order", "COMPLETED", "CancelOrder"))
	if got := fault.KindOf(err); got != fault.KindFailedPrecondition {
		t.Errorf("kind = %v", got)
	}
	if got := fault.ReasonOf(err); got != fault.ReasonIllegalTransition {
		t.Errorf("reason = %v", got)
	}
	want := map[string]string{"type": "order", "state": "COMPLETED", "command": "CancelOrder"}
	if diff := cmp.Diff(want, fault.As(err).Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

func TestAnUnclassifiedErrorIsInternal(t *testing.T) {
	if got := fault.KindOf(errors.New("boom")); got != fault.KindInternal {
		t.Errorf("kind = %v", got)
	}
	if fault.Is(nil, fault.KindInternal) {
		t.Error("no error is of no kind")
	}
}

func TestPublicHidesTheCause(t *testing.T) {
	err := fault.Unavailable("the database does not answer").Because(errors.New("password=hunter2"))
	if got := err.Public(); got != "the database does not answer" {
		t.Errorf("public = %q", got)
	}
	if got := err.Error(); got != "the database does not answer: password=hunter2" {
		t.Errorf("error = %q", got)
	}
}

func TestWithDoesNotChangeTheOriginal(t *testing.T) {
	a := fault.NotFound("order", "o-1")
	b := a.With("hint", "x")
	if _, ok := a.Metadata["hint"]; ok || b.Metadata["hint"] != "x" {
		t.Errorf("a = %v, b = %v", a.Metadata, b.Metadata)
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range fault.Kinds() {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("kind %d has the name %q", k, k.String())
		}
		seen[k.String()] = true
	}
}
