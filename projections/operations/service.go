package operations

import (
	"context"
	_ "embed"
	"time"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"

	"github.com/tidemark-dev/tidemark/platform/readmodel"
)

//go:embed readmodel.yaml
var contract string

// Config is all that operations can be told.
type Config struct {
	readmodel.Config `embed:"" set:"rpc_addr=127.0.0.1:7202" set:"http_addr=127.0.0.1:8202"`
	// Now is the clock that decides what is late; nil is the real one.
	Now func() time.Time `kong:"-"`
}

// Run keeps operations and answers queries until the context ends.
func Run(ctx context.Context, cfg Config) error {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	return readmodel.Run(ctx, cfg.Config, View(), contract, func(p readmodel.Parts[State]) {
		operationsv1.RegisterOperationsServiceServer(p.Server, &server{copy: p.Copy, pager: p.Pager, now: now})
	}, Truths()...)
}
