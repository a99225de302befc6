package relay

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// hold stops one thing at one moment: what comes by first after it was armed
// waits until it is released.
type hold struct {
	armed          atomic.Bool
	held, released chan struct{}
}

func (h *hold) arm() { h.armed.Store(true) }

func (h *hold) here() {
	if h.armed.CompareAndSwap(true, false) {
		close(h.held)
		<-h.released
	}
}

// produce has the broker hold what is sent to the data topic.
func (f *fixture) produce(h *hold) {
	cluster := f.broker.Cluster()
	id := cluster.TopicInfo(kafka.TopicOrder).TopicID
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		for _, t := range r.(*kmsg.ProduceRequest).Topics {
			if (t.Topic == kafka.TopicOrder || t.TopicID == id) && h.armed.Load() {
				cluster.SleepControl(h.here)
			}
		}
		return nil, nil, false
	})
}

// A relay loses the session by which others see that it lives, and nothing else:
// its producer, its other connections and its own clock go on. Its leases are taken
// at once, although they run for a minute, and its successor sends the same events
// and newer ones while a batch is in its hands. Whatever comes of that batch then
// is a duplicate at the most: nothing of it is marked, counted or announced, and
// no reader who compares totals sees a loss.
func TestARelayThatLostOnlyItsSession(t *testing.T) {
	for _, tt := range []struct {
		name  string
		holds func(f *fixture, r *Relay, h *hold) (arm func())
		twice int // events that the topic holds twice
		late  int // control records that it gets after it lost its leases
	}{
		{name: "before it sends", twice: 3, holds: func(_ *fixture, r *Relay, h *hold) func() {
			r.hooks.read = func(*owner) error { h.here(); return nil }
			return h.arm
		}},
		{name: "while it sends", twice: 3, holds: func(f *fixture, _ *Relay, h *hold) func() {
			f.produce(h)
			return h.arm
		}},
		{name: "before it marks", twice: 3, holds: func(_ *fixture, r *Relay, h *hold) func() {
			r.hooks.produced = func(*owner) error { h.here(); return nil }
			return h.arm
		}},
		// Its batch was marked and the record numbered while the leases were its own.
		// The record comes late, among those of a higher term.
		{name: "while it sends a control record", late: 1, holds: func(f *fixture, r *Relay, h *hold) func() {
			var next atomic.Bool
			r.hooks.produced = func(*owner) error {
				if next.CompareAndSwap(true, false) {
					h.arm()
				}
				return nil
			}
			f.produce(h)
			return func() { next.Store(true) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			f.tuning.LeaseTTL = time.Minute
			h := &hold{held: make(chan struct{}), released: make(chan struct{})}
			var arm func()
			var succeeded atomic.Bool
			var lost atomic.Bool
			f.start(f.relay(func(r *Relay) {
				r.tuning.Poll = time.Hour // until it opens another session
				arm = tt.holds(f, r, h)
				before := r.hooks.read
				r.hooks.read = func(o *owner) error {
					if succeeded.Load() && len(o.shards) == 0 {
						lost.Store(true)
					}
					return o.pass(before)
				}
			}))
			f.eventually("all is opened and told", func() bool {
				return len(f.read(kafka.TopicOrder)) == partitions && len(f.read(kafka.TopicControl)) == partitions
			})
			p := event.PartitionOf("o-1", partitions)
			term := query[int64](f, `SELECT term FROM relay_shard WHERE partition = $1`, p)
			arm()
			f.state("o-1", 3)
			<-h.held
			if n := query[int](f, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`); n != 1 {
				t.Fatalf("ended %d sessions, want the relay's", n)
			}
			f.state("o-1", 2)
			f.start(f.relay(func(r *Relay) { r.cfg.Wakes = nil }))
			f.drained()
			f.eventually("the successor tells of all", func() bool { return f.asReader(p, term).told == 5 })
			succeeded.Store(true)
			close(h.released)
			f.state("o-1", 1) // the first relay hears of it
			f.eventually("the first relay finds its leases gone", lost.Load)
			f.drained()
			f.eventually("the successor goes on", func() bool { return f.asReader(p, term).told == 6 })
			got := f.asReader(p, term)
			if got.facts != 6 || got.twice != tt.twice || got.late != tt.late {
				t.Errorf("a reader finds %d events, %d twice, and %d late control records; want 6, %d and %d", got.facts, got.twice, got.late, tt.twice, tt.late)
			}
			f.checkTotals()
		})
	}
}

// reading is what a reader makes of a partition.
type reading struct {
	facts, twice int
	told         int64 // events that the newest control record tells of
	late         int   // control records of the earlier term behind one of a later
}

// asReader reads a partition as a projection does, and fails where that would
// park something or prove a loss.
func (f *fixture) asReader(partition int32, earlier int64) (got reading) {
	f.Helper()
	ids, last, highest := map[event.Token]bool{}, map[event.Aggregate]int64{}, int64(0)
	var sum event.Sum
	for _, r := range f.read(kafka.TopicOrder) {
		if r.partition != partition {
			continue
		}
		if e := r.fact; e != nil {
			switch {
			case ids[e.Token()]:
				got.twice++
				continue
			case e.Version != last[e.Aggregate]+1:
				f.Errorf("offset %d: %s version %d after %d", r.offset, e.Aggregate, e.Version, last[e.Aggregate])
			}
			ids[e.Token()], last[e.Aggregate] = true, e.Version
			got.facts++
			sum = sum.Add(e.Envelope)
			continue
		}
		c := r.control
		if c.Term < highest {
			if c.Term == earlier {
				got.late++
			}
			continue
		}
		highest, got.told = c.Term, c.Count
		switch {
		case c.Count > int64(got.facts):
			f.Errorf("offset %d: %d events are told of, there are %d", r.offset, c.Count, got.facts)
		case c.Count == int64(got.facts) && event.Sum(c.Hash) != sum:
			f.Errorf("offset %d: other events are told of", r.offset)
		case c.Term == earlier && c.Count > 3:
			f.Errorf("offset %d: a fenced relay tells of %d events", r.offset, c.Count)
		}
	}
	return got
}
