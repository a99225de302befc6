// Command operations runs the operations projection.
package main

import (
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/projections/operations"
)

func main() {
	lifecycle.Main("operations", "Says what work needs attention now.", operations.Run)
}
