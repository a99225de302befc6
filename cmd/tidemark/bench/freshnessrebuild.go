package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// Rebuilds is what became of the timeline while it was built anew and switched,
// over and over, under the orders of the same run.
type Rebuilds struct {
	// Rebuilds are those that ended, of Facts facts in all and Seconds in all.
	Rebuilds int     `json:"rebuilds"`
	Facts    int64   `json:"facts"`
	Seconds  float64 `json:"seconds"`
	// Swaps went through the gate; Refused did not, the last for the reason Why.
	Swaps   int    `json:"swaps"`
	Refused int    `json:"refused"`
	Why     string `json:"why,omitempty"`
	// Reads of one order in a closed loop beside it, in milliseconds, and what of
	// them fell into a swap, from the request for it to its end.
	Reads       int       `json:"reads"`
	FailedReads int       `json:"failed_reads"`
	Read        Quantiles `json:"read_ms"`
	DuringSwap  Quantiles `json:"read_during_swap_ms"`
	// Staleness is the greatest of the sources' in each answer; a control record
	// comes twice a second, so it is about a quarter of one when nothing is late.
	Staleness Quantiles `json:"staleness_ms"`
}

// readEvery is how long the reader rests between two reads.
const readEvery = 2 * time.Millisecond

// span is when something began and ended.
type span struct{ from, to time.Time }

func (s span) meets(o span) bool { return s.from.Before(o.to) && o.from.Before(s.to) }

// rebuildOver builds the timeline anew, switches, and drops what answered before,
// until the context ends. What is under way then is left.
func rebuildOver(ctx context.Context, to *client.Fleet, order string) (*Rebuilds, error) {
	r := &Rebuilds{}
	var swaps, reads []span
	var stale []time.Duration
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			from := time.Now()
			answer, err := to.Timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: order})
			if ctx.Err() != nil {
				return
			}
			reads = append(reads, span{from, time.Now()})
			if err != nil {
				r.FailedReads++
			}
			oldest := time.Duration(0)
			for _, s := range answer.GetFreshness().GetSources() {
				oldest = max(oldest, s.GetStaleness().AsDuration())
			}
			stale = append(stale, oldest)
			wait(ctx, readEvery)
		}
	})
	generations := readmodelv1.NewGenerationServiceClient(to.Views["timeline"])
	var err error
	for ctx.Err() == nil && err == nil {
		var swap span
		if swap, err = r.once(ctx, generations); !swap.to.IsZero() {
			swaps = append(swaps, swap)
		}
	}
	reader.Wait()
	if ctx.Err() == nil {
		return r, err
	}
	var all, during []time.Duration
	for _, read := range reads {
		all = append(all, read.to.Sub(read.from))
		for _, swap := range swaps {
			if read.meets(swap) {
				during = append(during, read.to.Sub(read.from))
			}
		}
	}
	r.Reads, r.Read, r.DuringSwap, r.Staleness = len(reads), quantiles(all), quantiles(during), quantiles(stale)
	return r, nil
}

// once is one rebuild, one swap and one drop. swap is when, if it was made.
func (r *Rebuilds) once(ctx context.Context, g readmodelv1.GenerationServiceClient) (swap span, err error) {
	asked := func() *readmodelv1.Request {
		return &readmodelv1.Request{RequestId: uuid.NewString(), Actor: "operator:bench", Reason: "benchmark"}
	}
	began := time.Now()
	started, err := g.StartRebuild(ctx, &readmodelv1.StartRebuildRequest{Request: asked()})
	if err != nil {
		return swap, err
	}
	built, err := ended(ctx, g, started.GetOperation())
	if err != nil {
		return swap, err
	}
	if built.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return swap, fmt.Errorf("a rebuild ended as %s: %s", built.GetState(), built.GetError())
	}
	r.Rebuilds++
	r.Facts += built.GetDone()
	r.Seconds += time.Since(began).Seconds()
	from := time.Now()
	drop, why := built.GetGeneration(), ""
	if swapping, err := g.SwapGeneration(ctx, &readmodelv1.SwapGenerationRequest{Request: asked()}); err != nil {
		why = err.Error()
	} else if o, err := ended(ctx, g, swapping.GetOperation()); err != nil {
		return swap, err
	} else if why = o.GetError(); o.GetState() == readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		swap, drop, why = span{from, time.Now()}, o.GetBase(), ""
		r.Swaps++
	}
	if ctx.Err() != nil {
		return swap, ctx.Err()
	}
	if swap.to.IsZero() {
		r.Refused++
		r.Why = why
	}
	dropped, err := g.DropGeneration(ctx, &readmodelv1.DropGenerationRequest{Request: asked(), Generation: drop, WithinWindow: true})
	if err != nil {
		return swap, err
	}
	_, err = ended(ctx, g, dropped.GetOperation())
	return swap, err
}

// ended waits for the end of an operation.
func ended(ctx context.Context, g readmodelv1.GenerationServiceClient, o *readmodelv1.Operation) (*readmodelv1.Operation, error) {
	for o.GetFinishedAt() == nil {
		wait(ctx, 20*time.Millisecond)
		r, err := g.GetOperation(ctx, &readmodelv1.GetOperationRequest{Id: o.GetId()})
		if err != nil {
			return nil, err
		}
		o = r.GetOperation()
	}
	return o, nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
