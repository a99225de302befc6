package projection

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

// rateMeter measures units per second over the last few seconds.
type rateMeter struct {
	ends   map[string]map[int32]consumer.Bounds
	endsAt time.Time
	seen   []reached
}

type reached struct {
	done int64
	at   time.Time
}

// rate notes how far it got and says how fast it went lately.
func (m *rateMeter) rate(done int64, now time.Time) float64 {
	m.seen = append(m.seen, reached{done, now})
	for len(m.seen) > 2 && now.Sub(m.seen[0].at) > 10*time.Second {
		m.seen = m.seen[1:]
	}
	first := m.seen[0]
	if passed := now.Sub(first.at).Seconds(); passed > 0 {
		return float64(done-first.done) / passed
	}
	return 0
}

// eta is how long the rest takes at the present rate.
func (o *operation) eta() (time.Duration, bool) {
	if o.rate <= 0 || o.total <= o.done {
		return 0, false
	}
	return time.Duration(float64(o.total-o.done) / o.rate * float64(time.Second)), true
}

// beat renews the lease of an operation while something takes long, and ends
// that when the operation is paused, cancelled or lost.
type beat struct {
	ctx      context.Context
	progress func(done, total int64)
	cancel   context.CancelCauseFunc
	done     chan struct{}
}

func (p *Projection[S]) beat(ctx context.Context, o *operation) *beat {
	inside, cancel := context.WithCancelCause(ctx)
	moved := make(chan [2]int64, 1)
	b := &beat{ctx: inside, cancel: cancel, done: make(chan struct{}), progress: func(done, total int64) {
		select {
		case <-moved:
		default:
		}
		moved <- [2]int64{done, total}
	}}
	go func() {
		defer close(b.done)
		ticker := time.NewTicker(p.progressEvery)
		defer ticker.Stop()
		var meter rateMeter
		for {
			select {
			case <-inside.Done():
				return
			case <-ticker.C:
			}
			select {
			case at := <-moved:
				o.done, o.total = at[0], at[1]
				o.rate = meter.rate(o.done, time.Now())
			default:
			}
			err := p.keepUp(inside, o)
			switch {
			case errors.Is(err, errLost):
				cancel(errLost)
			case err == nil && o.state == opPaused:
				cancel(errPausedNow)
			case err == nil && o.state == opCancelling:
				cancel(errCancelled)
			}
		}
	}()
	return b
}

// end stops the beat and says why it ended what it was for, if it did.
func (b *beat) end() error {
	cause := context.Cause(b.ctx)
	b.cancel(nil)
	<-b.done
	if errors.Is(cause, errLost) || errors.Is(cause, errPausedNow) || errors.Is(cause, errCancelled) {
		return cause
	}
	return nil
}
