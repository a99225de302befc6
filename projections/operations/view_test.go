package operations_test

import (
	"testing"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/projections/operations"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Suite[operations.State]{
		View: operations.View(), Truths: operations.Truths(), History: history.Draw, Sample: append(history.NewStory("o-1").All(), history.Bare("o-2")...),
		Service: operationsv1.OperationsService_ServiceDesc,
	})
}
