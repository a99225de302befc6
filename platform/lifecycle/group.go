package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// PartTimeout bounds how long the stop of one part may take before the next
// part's turn comes.
const PartTimeout = 5 * time.Second

// Group holds the parts of one process. Parts start when they are added and
// stop in the opposite order, one after the other, each within PartTimeout: so
// what was started last, and leans on the others, is gone before they are.
//
//	starting ──setup returned──▶ running ──ctx ends, or a part ended──▶ stopping ──▶ stopped
//	    └──────────setup failed──────────────────────────────────────────▲
type Group struct {
	base    context.Context // values of the caller's context, without its end
	ended   chan partEnd    // buffered for one: the first part that ended by itself
	mu      sync.Mutex
	parts   []*part
	timeout time.Duration
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid after done
}

type partEnd struct {
	name string
	err  error
}

// Run builds a group with setup and blocks until all its parts have stopped.
// They are stopped when ctx ends, when setup fails, or when any part's function
// returns: a process with a dead part is not a process. The context that setup
// gets ends with ctx or with the first dead part, so that a setup which waits
// for something gives up. The result is nil only for a stop that ctx asked for
// and that every part finished without an error and in time.
func Run(ctx context.Context, setup func(context.Context, *Group) error) error {
	g := &Group{base: context.WithoutCancel(ctx), ended: make(chan partEnd, 1), timeout: PartTimeout}
	setupCtx, cancel := context.WithCancel(ctx)
	defer cancel()

	result := make(chan error, 1)
	go func() { result <- setup(setupCtx, g) }()

	var cause error
	settingUp := true
	for running := true; running; {
		select {
		case err := <-result:
			settingUp = false
			result = nil
			if err != nil {
				cause, running = err, false
			}
		case end := <-g.ended:
			cause, running = fmt.Errorf("%s: %w", end.name, end.err), false
		case <-ctx.Done():
			running = false
		}
	}
	if settingUp {
		cancel()
		if err := <-result; cause == nil && err != nil && !errors.Is(err, context.Canceled) {
			cause = err
		}
	}
	return errors.Join(cause, g.stop(cause))
}

// Go starts run as a part of the group. The context it gets ends when it is
// this part's turn to stop; run then finishes what it must and returns nil or
// the context's error. Returning earlier, with or without an error, stops the
// whole group. A panic is not caught: it ends the process.
func (g *Group) Go(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(g.base)
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	g.parts = append(g.parts, p)
	g.mu.Unlock()
	go func() {
		p.err = run(ctx)
		asked := ctx.Err() != nil
		close(p.done)
		if asked {
			return
		}
		end := partEnd{name: name, err: p.err}
		if end.err == nil {
			end.err = ErrStoppedByItself
		}
		select {
		case g.ended <- end:
		default: // another part was first
		}
	}()
}

// OnStop adds a step to the stop order: it runs when everything added after it
// has stopped, and before anything added earlier. Its context ends after
// PartTimeout.
func (g *Group) OnStop(name string, stop func(context.Context) error) {
	g.Go(name, func(ctx context.Context) error {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(g.base, g.timeout)
		defer cancel()
		return stop(bounded)
	})
}

// stop stops all parts, last first, and returns what went wrong meanwhile.
// The error that was the cause of the stop is not repeated.
func (g *Group) stop(cause error) error {
	g.mu.Lock()
	parts := g.parts
	g.mu.Unlock()
	var errs []error
	for i := len(parts) - 1; i >= 0; i-- {
		p := parts[i]
		p.cancel()
		timer := time.NewTimer(g.timeout)
		select {
		case <-p.done:
			timer.Stop()
			if p.err != nil && !errors.Is(p.err, context.Canceled) && !errors.Is(cause, p.err) {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
			}
		case <-timer.C:
			errs = append(errs, fmt.Errorf("stop %s: not done after %s", p.name, g.timeout))
		}
	}
	return errors.Join(errs...)
}
