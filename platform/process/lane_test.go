package process

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

var errDown = status.Error(codes.Unavailable, "connection refused")

func TestTheCircuitOpensProbesAndCloses(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLane("payment", func() time.Time { return now })
	for i := range openAfter {
		if l.openFor() != 0 || !l.reserve() {
			t.Fatalf("closed to commands after %d failures", i)
		}
		l.report(errDown, false)
		l.release(1)
	}
	if l.openFor() == 0 || l.reserve() || l.room() != 0 {
		t.Fatal("open to commands after five failures in a row")
	}
	for _, least := range []time.Duration{minCooldown, minCooldown} { // the second is longer, see below
		now = now.Add(l.openFor())
		if n := l.room(); n != 1 {
			t.Fatalf("room for %d after the cool-down, want one probe", n)
		}
		if n := l.room(); n != 0 {
			t.Fatalf("room for %d beside a probe", n)
		}
		l.report(errDown, false)
		l.release(1)
		if wait := l.openFor(); wait < least*3/4 || wait > maxCooldown {
			t.Errorf("open for %v", wait)
		}
	}
	now = now.Add(l.openFor())
	l.room()
	l.release(1) // nothing to probe with was found
	if n := l.room(); n != 1 {
		t.Fatalf("room for %d, want a probe", n)
	}
	if !l.report(nil, true) {
		t.Error("nobody is told that it is back")
	}
	l.release(1)
	if l.report(nil, false) {
		t.Error("it is back again without having been away")
	}
	if l.openFor() != 0 || l.room() != laneCap {
		t.Error("not closed after a probe that was answered")
	}
}

func TestWhoDecidesIsAlive(t *testing.T) {
	noAnswer := fault.New(fault.KindUnavailable, "PROVIDER_NO_ANSWER", "the provider did not answer")
	for _, c := range []struct {
		name string
		err  error
		dead bool
	}{
		{"ok", nil, false},
		{"refused", status.Error(codes.FailedPrecondition, "no"), false},
		{"conflict", status.Error(codes.Aborted, "again"), false},
		{"the provider behind it", rpc.Status(noAnswer).Err(), false},
		{"its database", rpc.Status(fault.Unavailable("the database does not answer")).Err(), true},
		{"itself", errDown, true},
		{"too slow", status.Error(codes.DeadlineExceeded, "late"), true},
		{"broken", errors.New("what"), true},
	} {
		if got := c.err != nil && unreachable(c.err); got != c.dead {
			t.Errorf("%s: unreachable = %v", c.name, got)
		}
	}
}

func TestRetriesHaveABudget(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLane("payment", func() time.Time { return now })
	spend := func() (n int) {
		for l.mayRetry() {
			n++
		}
		return n
	}
	if n := spend(); n != maxTokens {
		t.Errorf("%d retries at once", n)
	}
	now = now.Add(3 * time.Second)
	if n := spend(); n != 6 {
		t.Errorf("%d retries in three seconds", n)
	}
	for range 8 {
		l.report(nil, false)
	}
	if n := spend(); n != 2 {
		t.Errorf("%d retries after eight answers", n)
	}
	now = now.Add(time.Second)
	for range 50 {
		if !l.mayRetry() {
			t.Fatal("a retry that is answered costs the budget something")
		}
		l.report(nil, true)
	}
	for spend(); l.mayRetry(); {
	}
	l.report(status.Error(codes.Aborted, "again"), true)
	if l.mayRetry() {
		t.Error("a retry that settled nothing was free")
	}
	now = now.Add(time.Hour)
	if n := spend(); n != maxTokens {
		t.Errorf("%d retries saved up", n)
	}
}

func TestBackoffGrowsWithJitterToABound(t *testing.T) {
	for attempts, most := range map[int]time.Duration{1: minBackoff, 2: 2 * minBackoff, 5: 16 * minBackoff, 50: maxBackoff} {
		different := map[time.Duration]bool{}
		for range 50 {
			d := backoff(attempts)
			if d < most/2 || d > most {
				t.Errorf("attempt %d waits %v, want %v to %v", attempts, d, most/2, most)
			}
			different[d] = true
		}
		if len(different) < 10 {
			t.Errorf("attempt %d: %d different waits", attempts, len(different))
		}
	}
}
