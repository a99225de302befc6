// Command timeline runs the timeline projection.
package main

import (
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/projections/timeline"
)

func main() {
	lifecycle.Main("timeline", "Remembers what happened to customers' orders.", timeline.Run)
}
