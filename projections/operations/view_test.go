package operations_test

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
)

func TestLaw(t *testing.T) {
	conformance.Law(t, operations.View(), history.Draw)
}
