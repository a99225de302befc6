package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
)

// batch is what becomes of one read of the unsent set.
type batch struct {
	sent, bad []*row
	pending   int // sent and not acknowledged
	stopped   map[event.Aggregate]bool
	waiting   map[event.Aggregate]bool
	waits     map[int32]int64 // by partition, the lowest sequence that waits for its schema
}

// cycle is one turn: what the last one sent is marked, what is unsent is read,
// sent and acknowledged. Where a control record is due, or anything else that
// needs a barrier, the turn ends with it: what was sent is marked at once, and
// nothing is in flight.
func (o *owner) cycle(ctx context.Context) (more bool, err error) {
	o.lastRead = time.Now()
	b := &batch{stopped: map[event.Aggregate]bool{}, waiting: map[event.Aggregate]bool{}, waits: map[int32]int64{}}
	set, err := o.readUnsent(ctx)
	if err != nil || ctx.Err() != nil {
		return false, err
	}
	if set.survey != nil {
		if err := o.stillSameTopic(); err != nil {
			return false, err
		}
	}
	if err := o.pass(o.hooks.read); err != nil {
		return false, err
	}
	for _, r := range set.rows {
		if err := o.take(ctx, b, r); err != nil {
			return false, err
		}
	}
	o.lastRows, o.backlog = len(b.sent)+len(b.bad), set.full
	if err := o.await(ctx, &b.pending, 0); err != nil {
		return false, err
	}
	good := make([]*row, 0, len(b.sent))
	for _, r := range b.sent {
		if r.bad == "" {
			good = append(good, r)
		} else {
			b.bad = append(b.bad, r) // the broker refused it
		}
	}
	if len(good) > 0 {
		if err := o.pass(o.hooks.produced); err != nil {
			return false, err
		}
	}
	o.unmarked = good
	o.advance(set, b.waits)
	if len(good) > 0 && len(b.bad) == 0 && set.survey == nil && ctx.Err() == nil && !o.controlDue(time.Now()) {
		return true, nil
	}
	if err := o.finish(ctx, b.bad); err != nil || ctx.Err() != nil {
		return false, err
	}
	if err := o.control(ctx); err != nil {
		return false, err
	}
	more, err = o.settle(ctx, set.survey)
	// A partition that was lost may be free: look at once.
	return more || set.full && o.lastRows > 0 || o.surveyed.IsZero(), err
}

// finish marks what was sent, also while the process is stopping.
func (o *owner) finish(ctx context.Context, bad []*row) error {
	outlasting, cancel := outlast(ctx)
	defer cancel()
	return o.mark(outlasting, bad)
}

// outlast returns a context that ends a while after ctx: what was acknowledged is
// marked even while the process is stopping.
func outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	outlasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(5*time.Second, cancel) })
	return outlasting, func() { stop(); cancel() }
}

// take sends a row, or sets it aside if it can never be sent or follows one
// that cannot, or leaves it where it is while its schema is asked for. Other
// aggregates go on.
func (o *owner) take(ctx context.Context, b *batch, r *row) error {
	switch {
	case r.follows || b.stopped[r.Aggregate]:
		b.stopped[r.Aggregate] = true
		b.bad = append(b.bad, r)
		return nil
	case b.waiting[r.Aggregate]:
		return nil
	}
	id, known := o.cfg.Codec.ID(r.Type, r.SchemaVersion)
	if !known && !o.learned(r) {
		b.waiting[r.Aggregate] = true
		if low, waits := b.waits[r.Partition]; !waits || r.Sequence < low {
			b.waits[r.Partition] = r.Sequence
		}
		return nil
	}
	in := r.Headers()
	switch {
	case !known:
		r.bad = fmt.Sprintf("no schema %s/%d", r.Type, r.SchemaVersion)
	case len(r.payload) > maxPayloadBytes:
		r.bad = fmt.Sprintf("%d bytes are more than the %d of a message", len(r.payload), maxPayloadBytes)
	case !plain(&r.Envelope, in):
		if err := r.Validate(); err != nil {
			r.bad = err.Error()
		}
	}
	if r.bad != "" {
		b.stopped[r.Aggregate] = true
		b.bad = append(b.bad, r)
		return nil
	}
	value := avro.Frame(id, r.payload)
	r.payload = nil // many rows wait for their acknowledgement
	return o.send(ctx, b, r, in, value)
}

// plain says cheaply of nearly every event that readers will accept its headers.
// Of what is left, Validate decides.
func plain(e *event.Envelope, headers []event.Header) bool {
	if e.ID == "" || e.Source == "" || e.Type == "" || e.Key == "" || e.Epoch == "" || e.Aggregate.Type == "" || e.Aggregate.ID == "" ||
		e.Version < 1 || e.SchemaVersion < 1 || !ordinary(e.OccurredAt) || !ordinary(e.RecordedAt) ||
		strings.Contains(e.Aggregate.Type, "/") || strings.Contains(e.Type, "/") {
		return false
	}
	for _, h := range headers {
		if len(h.Value) > 512 {
			return false
		}
		for _, c := range h.Value {
			if c < ' ' || c > '~' {
				return false
			}
		}
	}
	return true
}

func ordinary(t time.Time) bool { return t.Year() >= 1000 && t.Year() <= 9999 }

// advance moves as_of to the time of the read for every partition of which
// everything up to the highest row of that read is sent. A transaction that
// commits later with a lower sequence was acknowledged to nobody before that
// time, so as_of stays true; it is sent by a later turn.
func (o *owner) advance(set unsentSet, waits map[int32]int64) {
	for _, s := range o.shards {
		seen, read := set.shards[s.partition]
		switch {
		case !read:
			continue
		case seen.head == 0:
			s.asOf, s.target = set.at, nil
			continue
		case s.target == nil:
			s.target = &target{at: set.at, head: seen.head}
		}
		last := seen.last
		if low, some := waits[s.partition]; some {
			last = min(last, low-1)
		}
		if last >= s.target.head {
			s.asOf, s.target = s.target.at, nil
		}
	}
}
