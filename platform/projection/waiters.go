package projection

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Subscription signals that something may have changed. Signals that nobody
// has taken yet become one.
type Subscription struct {
	// C receives after a commit that changed what was subscribed to.
	C    <-chan struct{}
	c    chan struct{}
	keys []string
	of   *waiters

	foreign func() bool
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	for _, key := range s.keys {
		delete(s.of.byKey[key], s)
		if len(s.of.byKey[key]) == 0 {
			delete(s.of.byKey, key)
		}
	}
}

// waiters are those who wait for commits of this process.
type waiters struct {
	hurry atomic.Int64 // reads that wait for a demand to be met
	hints *hints       // from and to other processes

	mu    sync.Mutex
	byKey map[string]map[*Subscription]struct{}
}

// hurried reports whether a read waits, here or elsewhere. A stream of this
// process that shows what comes does not.
func (w *waiters) hurried() bool { return w.hurry.Load() > 0 || w.hints.isWanted() }

func newWaiters() *waiters {
	return &waiters{hints: newHints(), byKey: map[string]map[*Subscription]struct{}{}}
}

const (
	anyChange = "*"
	anyMark   = "mark"
)

func orderKey(order string) string          { return "order " + order }
func aggregateKey(a event.Aggregate) string { return "aggregate " + a.String() }
func markKey(partition int32) string        { return fmt.Sprintf("mark %d", partition) }

func (w *waiters) subscribe(keys []string) *Subscription {
	c := make(chan struct{}, 1)
	s := &Subscription{C: c, c: c, keys: keys, of: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range keys {
		if w.byKey[key] == nil {
			w.byKey[key] = map[*Subscription]struct{}{}
		}
		w.byKey[key][s] = struct{}{}
	}
	return s
}

// tell signals everybody who waits for one of the changes, or for a control
// record of one of the partitions; everybody once. Other processes are told if
// they have asked for it.
func (w *waiters) tell(changes []fold.Change, marked ...int32) {
	remote := w.hints.isWanted()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byKey) == 0 && !remote {
		return
	}
	var keys []string
	if len(changes) > 0 {
		keys = append(keys, anyChange)
	}
	for _, change := range changes {
		keys = append(keys, orderKey(change.Order))
		for _, a := range change.Aggregates {
			keys = append(keys, aggregateKey(a.Aggregate))
		}
	}
	for _, partition := range marked {
		keys = append(keys, markKey(partition), anyMark)
	}
	if remote && len(keys) > 0 {
		w.hints.touch(keys...)
	}
	woken := map[*Subscription]struct{}{}
	for _, key := range keys {
		for s := range w.byKey[key] {
			woken[s] = struct{}{}
		}
	}
	for s := range woken {
		poke(s.c)
	}
}

// wakeAll signals everybody: who applies what they wait for has changed, and
// with it how they are to wait.
func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range w.byKey {
		for s := range waiting {
			poke(s.c)
		}
	}
}

// Subscribe returns a subscription to one order, or to every commit if order
// is empty. Subscribe before the first read, then read, then Wait.
func (p *Projection[S]) Subscribe(order string) *Subscription {
	key := anyChange
	if order != "" {
		key = orderKey(order)
	}
	s := p.waiters.subscribe([]string{key})
	s.foreign = p.foreign
	return s
}

// shared reports whether another process may be the one that applies what is
// read here: its commits signal nobody in this one.
func (p *Projection[S]) shared() bool {
	from := p.reads.Load()
	if from == nil || p.family == nil {
		return true
	}
	m := p.member(from.generation.schema)
	return m == nil || len(m.consumer.Status().Assigned) < int(p.cfg.Kafka.PartitionCount())
}

// Wait returns after a change, or after atMost (0: no limit), or with the
// context's error. While another process may apply what was subscribed to, that
// process is asked to tell, and Wait also returns now and then, so that its
// caller looks again.
func (s *Subscription) Wait(ctx context.Context, atMost time.Duration) error {
	if s.foreign != nil && s.foreign() {
		if pace := s.of.hints.pace(); atMost == 0 || atMost > pace {
			atMost = pace
		}
	}
	var over <-chan time.Time
	if atMost > 0 {
		timer := time.NewTimer(atMost)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for a change: %w", ctx.Err())
	case <-over:
	case <-s.C:
	}
	return nil
}

// arrivals remembers when an as_of was first seen here, on the monotonic
// clock: a wall clock that stands still or runs behind the source's must not
// make a copy look fresh.
type arrivals struct {
	mu   sync.Mutex
	seen map[arrivalKey]arrival
}

type arrivalKey struct {
	partition int32
	source    string
}

type arrival struct {
	epoch    string
	asOf, at time.Time
}

func newArrivals() *arrivals { return &arrivals{seen: map[arrivalKey]arrival{}} }

// note remembers an as_of and returns how long ago it was first seen, or how
// long ago it was overtaken, if an older snapshot shows it.
func (a *arrivals) note(partition int32, source, epoch string, asOf time.Time) time.Duration {
	key := arrivalKey{partition, source}
	asOf = asOf.UTC().Truncate(time.Microsecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.seen[key]
	if !ok || epoch > known.epoch || epoch == known.epoch && asOf.After(known.asOf) {
		known = arrival{epoch, asOf, time.Now()}
		a.seen[key] = known
	}
	return time.Since(known.at)
}
