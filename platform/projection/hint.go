package projection

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hints let reads wait for what other processes of a view apply. Who waits asks
// the others to tell; who commits tells, outside its transaction and many
// commits at once, as long as somebody has asked lately. While nobody waits for
// others, nothing is sent at all. A hint that is lost costs fallback.
//
//	a waits ──"?"──▶ b: tells "*" now, for what it committed meanwhile, and
//	  ▲              for wantedFor what every commit touched
//	  └──"*", "1f,3c"──┘
type hints struct {
	self string        // names this process to itself
	asks chan struct{} // holds one token while a read here waits for others
	told chan struct{} // and one while there is something to tell them
	// wanted is until when others want to be told, in Unix nanoseconds.
	wanted   atomic.Int64
	hears    atomic.Bool // what others tell comes in
	fallback time.Duration
	lasts    time.Duration // how long an ask does

	mu      sync.Mutex
	touched map[uint32]struct{} // not told yet; nil is none
	all     bool
}

const (
	// recheck is how often a read that waits for others looks again if it cannot
	// hear them, and hintFallback if it can.
	recheck      = 100 * time.Millisecond
	hintFallback = time.Second
	askEvery     = time.Second
	wantedFor    = 3 * time.Second
	hintPause    = 10 * time.Millisecond // in which commits come together
	hintKeys     = 500                   // more than these are "everything"
)

func newHints() *hints {
	return &hints{self: rand.Text(), asks: make(chan struct{}, 1), told: make(chan struct{}, 1), fallback: hintFallback, lasts: wantedFor}
}

// pace is how long a read that waits for others may wait for a hint.
func (h *hints) pace() time.Duration {
	poke(h.asks)
	if h.hears.Load() {
		return h.fallback
	}
	return recheck
}

func (h *hints) isWanted() bool { return h.wanted.Load() > time.Now().UnixNano() }

func keyHash(key string) uint32 {
	f := fnv.New32a()
	_, _ = f.Write([]byte(key))
	return f.Sum32()
}

// touch notes what a commit changed; no keys are everything.
func (h *hints) touch(keys ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.touched == nil {
		h.touched = map[uint32]struct{}{}
	}
	for _, key := range keys {
		h.touched[keyHash(key)] = struct{}{}
	}
	h.all = h.all || len(keys) == 0 || len(h.touched) > hintKeys
	poke(h.told)
}

// take returns what was touched, as text, and begins anew.
func (h *hints) take() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := "*"
	if !h.all {
		var b strings.Builder
		for hash := range h.touched {
			b.WriteString(strconv.FormatUint(uint64(hash), 16) + ",")
		}
		text = b.String()
	}
	h.touched, h.all = nil, false
	return text
}

func (p *Projection[S]) hintChannel() string { return "tidemark_" + p.view.Name }

// tellOthers sends what this process asks and tells until ctx ends.
func (p *Projection[S]) tellOthers(ctx context.Context) error {
	h := p.waiters.hints
	send := func(text string) {
		if _, err := p.pool.Exec(ctx, `SELECT pg_notify($1, $2)`, p.hintChannel(), h.self+" "+text); err != nil {
			p.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hint not sent", slog.Any("error", err)) // looking again finds it
		}
	}
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.asks:
			if time.Since(asked) >= askEvery {
				asked = time.Now()
				send("?")
			}
			continue
		case <-h.told:
			send(h.take())
		}
		timer := time.NewTimer(hintPause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// hearOthers takes what others ask and tell until ctx ends, on a connection of
// its own.
func (p *Projection[S]) hearOthers(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.hear(ctx)
		p.waiters.hints.hears.Store(false)
		p.waiters.wakeAll() // they wait for hints that do not come any more
		if ctx.Err() == nil {
			p.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "hints are not heard", slog.Any("error", err))
		}
		timer := time.NewTimer(askEvery)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

func (p *Projection[S]) hear(ctx context.Context) error {
	pooled, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bounded) // nobody hears what it says
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+p.hintChannel()); err != nil {
		return fmt.Errorf("listen to the other processes: %w", err)
	}
	p.waiters.hints.hears.Store(true)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("hear the other processes: %w", err)
		}
		who, text, _ := strings.Cut(n.Payload, " ")
		switch {
		case who == p.waiters.hints.self:
		case text == "?":
			p.waiters.hints.wanted.Store(time.Now().Add(p.waiters.hints.lasts).UnixNano())
			p.waiters.hints.touch()
		case text == "*":
			p.waiters.wakeAll()
		default:
			p.waiters.wakeHashes(text)
		}
	}
}

// wakeHashes signals who waits for one of the keys with these hashes.
func (w *waiters) wakeHashes(text string) {
	touched := map[uint32]bool{}
	for hash := range strings.SplitSeq(text, ",") {
		if n, err := strconv.ParseUint(hash, 16, 32); err == nil {
			touched[uint32(n)] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, waiting := range w.byKey {
		if touched[keyHash(key)] {
			for s := range waiting {
				poke(s.c)
			}
		}
	}
}
