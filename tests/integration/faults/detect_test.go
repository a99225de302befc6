package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// inTime is how soon a loss must be known on a machine that is not busy.
const inTime = 2 * time.Second

// TestALossIsKnownWithTheNextControlRecord has the broker acknowledge and forget
// an aggregate's last fact, and a whole aggregate, while nothing else happens:
// nothing but the totals can show it. Both views must know of it with the very
// first control record behind the loss, on whatever machine this runs, and within
// two seconds; more only for what this machine needed for things of which the
// loss is not the cause: the relay starts over, because its producer takes a
// broker that forgets for broken, and statements wait for their turn.
func TestALossIsKnownWithTheNextControlRecord(t *testing.T) {
	w := open(t)
	if w.broker == nil {
		t.Skip("a real Kafka cannot be made to lose what it acknowledged")
	}
	ctx := t.Context()
	looking, look := context.WithCancel(ctx)
	seen := w.watchCompleteness(looking)
	proven := func(when string) {
		t.Helper()
		if !until(ctx, 2*time.Minute, func() bool { return seen.last(completenessProven) }) {
			t.Fatalf("the views do not prove themselves complete %s", when)
		}
	}
	w.commands(ctx, "place", "--id", "kept", "--fulfilment", "external")
	w.rest(ctx)
	for _, tt := range []struct {
		name    string
		command []string
		lost    identity
	}{
		{"an aggregate's last fact", []string{"hold", "kept", "--reason", "forgotten"}, identity{event.Aggregate{Type: "order", ID: "kept"}, 2}},
		{"a whole aggregate", []string{"place", "--id", "whole", "--fulfilment", "external"}, identity{event.Aggregate{Type: "order", ID: "whole"}, 1}},
	} {
		proven("before " + tt.name + " is lost")
		lost := w.losing("order")
		w.commands(ctx, tt.command...)
		var l loss
		select {
		case l = <-lost:
		case <-time.After(time.Minute):
			t.Fatalf("%s: the broker was asked to keep nothing", tt.name)
		}
		waited := w.probe(ctx)
		if len(l.facts) != 1 || l.facts[0] != tt.lost {
			t.Fatalf("%s: lost %v", tt.name, l.facts)
		}
		w.forgotten[tt.lost] = true
		for _, view := range []string{"timeline", "operations"} {
			var known violation
			if !until(ctx, 2*time.Minute, func() bool { known = w.violation(view, l); return !known.at.IsZero() }) {
				t.Fatalf("%s: %s does not know of it", tt.name, view)
			}
			between := w.told(ctx, l, known.asOf)
			allowed := inTime + w.startedOver(l.at, known.at) + waited()
			took := known.at.Sub(l.at)
			t.Logf("%s: %s knew after %s, allowed were %s, with control record %d behind the loss", tt.name, view,
				took.Round(time.Millisecond), allowed.Round(time.Millisecond), between)
			if between != 1 {
				t.Errorf("%s: %s knew of it with control record %d behind the loss, want the first", tt.name, view, between)
			}
			if took > allowed {
				t.Errorf("%s: %s knew of it after %s, allowed were %s", tt.name, view, took, allowed)
			}
		}
		if !until(ctx, time.Minute, func() bool { return w.stands(ctx, []identity{tt.lost}) }) {
			t.Errorf("%s: it is not healed", tt.name)
		}
	}
	proven("in the end")
	look()
	w.rest(ctx)
	w.compare(ctx)
}

// violation is what a view's log says of a loss.
type violation struct{ at, asOf time.Time }

var proves = regexp.MustCompile(`time=(\S+) level=ERROR msg="control totals prove a fault.* source=order partition=(\d+) .* as_of=(\S+)`)

// violation returns when a view knew of a loss, and by which control record; zero
// if it has not yet.
func (w *world) violation(view string, l loss) (v violation) {
	w.t.Helper()
	log, err := os.ReadFile(filepath.Join(w.dir, view+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range proves.FindAllSubmatch(log, -1) {
		at, asOf := w.moment(m[1]), w.moment(m[3])
		if partition, err := strconv.Atoi(string(m[2])); err == nil && int32(partition) == l.partition && !at.Before(l.at.Truncate(time.Millisecond)) {
			return violation{at, asOf}
		}
	}
	return v
}

func (w *world) moment(text []byte) time.Time {
	w.t.Helper()
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

var (
	startsOver = regexp.MustCompile(`time=(\S+) level=WARN msg="relay starts over"`)
	tookOver   = regexp.MustCompile(`time=(\S+) level=INFO msg="relay took partitions over"`)
)

// startedOver returns how much of a time the relay of orders spent on starting over.
func (w *world) startedOver(from, to time.Time) (took time.Duration) {
	w.t.Helper()
	log, err := os.ReadFile(filepath.Join(w.dir, "order.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	var ends []time.Time
	for _, m := range tookOver.FindAllSubmatch(log, -1) {
		ends = append(ends, w.moment(m[1]))
	}
	for _, m := range startsOver.FindAllSubmatch(log, -1) {
		began := w.moment(m[1])
		for _, end := range ends {
			if !end.Before(began) && began.After(from) && end.Before(to) {
				took += end.Sub(began)
				break
			}
		}
	}
	return took
}

// told returns the place, among the control records that tell of what was lost, of
// the one with this as_of; 0 if it is none of them.
func (w *world) told(ctx context.Context, l loss, asOf time.Time) (place int) {
	w.t.Helper()
	committed, err := w.Count(ctx, "order", fmt.Sprintf(`SELECT count(*) FROM journal WHERE partition = %d`, l.partition))
	if err != nil {
		w.t.Fatal(err)
	}
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		kafka.TopicOrder: {l.partition: kgo.NewOffset().AtStart()}, kafka.TopicControl: {l.partition: kgo.NewOffset().AtStart()},
	}))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all []*control.ControlRecord
	for found := false; !found; {
		fetches := client.PollFetches(bounded)
		if err := fetches.Err(); err != nil {
			w.t.Fatalf("the control record of %s is not there: %v", asOf, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var headers []event.Header
			for _, h := range r.Headers {
				headers = append(headers, event.Header{Key: h.Key, Value: h.Value})
			}
			if !event.IsControl(headers) {
				return
			}
			c, err := codec.DecodeControl(headers, r.Key, r.Value)
			if err != nil {
				w.t.Fatal(err)
			}
			if c.Source == "order" && c.Count >= committed {
				all = append(all, c)
				found = found || c.AsOf.Truncate(time.Millisecond).Equal(asOf)
			}
		})
	}
	for _, c := range all {
		if !c.AsOf.Truncate(time.Millisecond).After(asOf) {
			place++
		}
	}
	return place
}

// probe asks the orders' database for something again and again, and returns a
// function that ends it and says how long it waited for answers.
func (w *world) probe(ctx context.Context) (waited func() time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	w.t.Cleanup(cancel)
	var sum atomic.Int64
	go func() {
		for ctx.Err() == nil {
			start := time.Now()
			_, _ = w.Count(ctx, "order", `SELECT count(*) FROM outbox`) // what counts is how long it takes
			sum.Add(int64(time.Since(start)))
			pass(ctx, 100*time.Millisecond)
		}
	}()
	return func() time.Duration { cancel(); return time.Duration(sum.Load()) }
}
