package projection

import (
	"context"
	"fmt"
	"sync"
)

// brake lets the reader of a generation that does not answer stand still: while
// an operator pauses it, and while it would hold up the one that answers.
type brake struct {
	mu   sync.Mutex
	why  string
	free chan struct{} // closed while nothing holds
}

func newBrake() *brake {
	free := make(chan struct{})
	close(free)
	return &brake{free: free}
}

// set holds for a reason, or lets go if there is none.
func (b *brake) set(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.why == "" && why != "":
		b.free = make(chan struct{})
	case b.why != "" && why == "":
		close(b.free)
	}
	b.why = why
}

// holds says why the reader stands still, or "".
func (b *brake) holds() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

// wait returns when nothing holds.
func (b *brake) wait(ctx context.Context) error {
	b.mu.Lock()
	free := b.free
	b.mu.Unlock()
	select {
	case <-free:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reading stands still: %w", ctx.Err())
	}
}
