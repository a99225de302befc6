package timeline

import (
	"context"
	_ "embed"

	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/readmodel"
)

//go:embed readmodel.yaml
var contract string

// Config is all that the timeline can be told.
type Config struct {
	readmodel.Config `embed:"" set:"rpc_addr=127.0.0.1:7201" set:"http_addr=127.0.0.1:8201"`
}

// Run keeps the timeline and answers queries until the context ends.
func Run(ctx context.Context, cfg Config) error {
	cfg.PlanOnce = true // by customer or by order, in the order of an index
	return readmodel.Run(ctx, cfg.Config, View(), contract, func(p readmodel.Parts[State]) {
		timelinev1.RegisterTimelineServiceServer(p.Server, &server{copy: p.Copy, pager: p.Pager})
	}, Truths()...)
}
