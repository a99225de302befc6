package timeline_test

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

func TestLaw(t *testing.T) {
	conformance.Law(t, timeline.View(), history.Draw)
}
