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

func TestGolden(t *testing.T) {
	conformance.Golden(t, operations.View(), append(history.NewStory("o-1").All(), history.Bare("o-2")...))
}
