package projection

import (
	"context"
	"sync"
	"time"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

// ends is what is known of the ends of the logs. Nobody asks the broker while
// all is well; a reader that waits for a place, or has too much, does.
type ends struct {
	wanted chan struct{}

	mu    sync.Mutex
	at    time.Time
	known map[string]map[int32]consumer.Bounds
}

func newEnds() *ends { return &ends{wanted: make(chan struct{}, 1)} }

func (e *ends) ask() { poke(e.wanted) }

// after returns the end of a log as it was at some time after t.
func (e *ends) after(t time.Time, topic string, partition int32) (int64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.at.After(t) {
		return 0, false
	}
	log, ok := e.known[topic][partition]
	return log.End, ok
}

func (e *ends) note(at time.Time, known map[string]map[int32]consumer.Bounds) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at, e.known = at, known
}

// boundsOnce looks up the bounds of the logs once for the partition numbers that
// are claimed together.
func (p *Projection[S]) boundsOnce(ctx context.Context) (map[string]map[int32]consumer.Bounds, error) {
	p.claiming.Lock()
	defer p.claiming.Unlock()
	if time.Since(p.claimed.at) < 200*time.Millisecond {
		return p.claimed.known, nil
	}
	known, err := p.bounds(ctx)
	if err == nil {
		p.claimed.at, p.claimed.known = time.Now(), known
	}
	return known, err
}

// watchEnds looks up the ends of the logs when somebody wants to know, at most
// twice a second.
func (p *Projection[S]) watchEnds(ctx context.Context) error {
	pause := time.NewTicker(500 * time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.ends.wanted:
		}
		at := p.clock()
		known, err := p.bounds(ctx)
		if err == nil {
			p.ends.note(at, known)
		}
		// A broker that does not answer is the consumer's to report.
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}
