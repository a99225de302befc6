package process

import (
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

const (
	laneCap     = 128 // commands of one target in memory
	laneWorkers = 12  // calls to one target at once

	openAfter   = 5 // failures in a row that open the circuit
	minCooldown = time.Second
	maxCooldown = 4 * time.Second // one call each time is no burden

	maxTokens      = 20.0 // retries that may be made at once
	tokensPerCall  = 0.25 // retries earned by a call that was answered; a retry that was costs nothing
	tokensPerSpan  = 2.0  // and by a second that passes
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 30 * time.Second
	budgetPause    = time.Second // of a retry that the budget does not allow now
	doublingsAtTop = 9
)

// lane is the way to one target. It has its own workers, so that a target that
// hangs holds up nobody else; a circuit breaker, so that one that is down is not
// called; and a budget of retries, so that one that is slow is not buried.
type lane struct {
	target string
	ready  chan pending
	now    func() time.Time

	mu       sync.Mutex
	taken    int // of laneCap
	failures int // in a row
	opened   time.Time
	cooldown time.Duration
	probing  bool
	tokens   float64
	refilled time.Time
}

func newLane(target string, now func() time.Time) *lane {
	return &lane{target: target, ready: make(chan pending, laneCap), now: now, tokens: maxTokens, refilled: now()}
}

// reserve takes a place for a new command; false if it has to wait in the table.
func (l *lane) reserve() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failures >= openAfter || l.taken >= laneCap {
		return false
	}
	l.taken++
	return true
}

// room takes as many places as commands may be claimed now: none while the
// circuit is open, one when its cool-down is over.
func (l *lane) room() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	free := laneCap - l.taken
	if l.failures >= openAfter {
		if l.probing || l.now().Before(l.opened.Add(l.cooldown)) {
			return 0
		}
		free = min(free, 1)
		l.probing = free == 1
	}
	l.taken += free
	return free
}

// release gives places back that room or reserve took.
func (l *lane) release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken -= n
	l.probing = l.probing && n == 0 // nothing to probe with was found
}

// mayRetry takes a retry out of the budget.
func (l *lane) mayRetry() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.tokens = min(maxTokens, l.tokens+now.Sub(l.refilled).Seconds()*tokensPerSpan)
	l.refilled = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// report keeps what a call said about its target, and reports whether that is
// back after the circuit was open.
func (l *lane) report(err error, retry bool) (back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
	if !unreachable(err) {
		back = l.failures >= openAfter
		l.failures, l.cooldown = 0, 0
		if l.tokens += tokensPerCall; retry && (err == nil || !unknown(err)) {
			l.tokens++
		}
		l.tokens = min(maxTokens, l.tokens)
		return back
	}
	if l.failures++; l.failures < openAfter {
		return false
	}
	l.opened = l.now()
	l.cooldown = min(maxCooldown, max(minCooldown, 2*l.cooldown))
	l.cooldown -= rand.N(l.cooldown/4 + 1) // not everybody knocks at once
	return false
}

// openFor returns how long the circuit stays open; 0 if it is closed.
func (l *lane) openFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failures < openAfter {
		return 0
	}
	return max(1, l.opened.Add(l.cooldown).Sub(l.now()))
}

// unreachable reports whether an error says something about the target and not
// about the request: a participant that decided, whatever it decided, is alive.
func unreachable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.ResourceExhausted:
	default:
		return false
	}
	switch fault.ReasonOf(rpc.Fault(err)) {
	case "", fault.ReasonUnavailable, fault.ReasonDeadlineExceeded, fault.ReasonInternal, fault.ReasonOverloaded:
		return true
	}
	return false
}

// unknown reports whether the command may or may not have taken effect. Only
// codes that a participant gives after deciding are definite.
func unknown(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition,
		codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange, codes.Unimplemented:
		return false
	default:
		return true
	}
}

// backoff doubles from minBackoff to maxBackoff, with full jitter on the upper half.
func backoff(attempts int) time.Duration {
	d := maxBackoff
	if attempts < doublingsAtTop {
		d = min(maxBackoff, minBackoff<<max(0, attempts-1))
	}
	return d/2 + rand.N(d/2+1)
}
