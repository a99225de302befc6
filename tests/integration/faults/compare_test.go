package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// identity is what makes two facts the same one.
type identity struct {
	aggregate event.Aggregate
	version   int64
}

// rest waits until nothing is on its way any more: how long that takes depends on
// how long the faults took, in which customers went on. What does not get less
// stands still.
func (w *world) rest(ctx context.Context) {
	w.t.Helper()
	var state string
	least, began, since := int64(math.MaxInt64), time.Now(), time.Now()
	until(ctx, longest, func() bool {
		backlog, ok := w.Waiting(ctx)
		commands, err := w.Count(ctx, "order", `SELECT count(*) FROM process_command WHERE status = 'pending'`)
		state = fmt.Sprintf("%+v, %d commands pending (%v)", backlog, commands, err)
		if left := backlog.Unsent + backlog.Unapplied + commands; ok && err == nil && left < least {
			least, since = left, time.Now()
		}
		return least == 0 || time.Since(since) > settle
	})
	if least == 0 {
		w.t.Logf("at rest after %s", time.Since(began).Round(time.Millisecond))
		return
	}
	w.t.Errorf("not at rest after %s: %s", time.Since(began).Round(time.Second), state)
	var order, step, outcome string
	var attempts int
	w.Rows(ctx, "order", `SELECT instance_id, step, attempts, outcome FROM process_command WHERE status = 'pending' LIMIT 20`,
		[]any{&order, &step, &attempts, &outcome}, func() { w.t.Logf("order %s: %s, %d attempts, %s", order, step, attempts, outcome) })
}

// compare proves that what was committed is what was published is what was applied.
func (w *world) compare(ctx context.Context) {
	w.t.Helper()
	heads := map[event.Aggregate]int64{}
	committed := 0
	for _, source := range []string{"order", "payment", "shipment"} {
		journal := w.journal(ctx, source)
		w.published(ctx, source, journal)
		committed += len(journal)
		for id := range journal {
			heads[id.aggregate] = max(heads[id.aggregate], id.version)
		}
	}
	for _, id := range w.missing {
		if !w.forgotten[id] {
			w.t.Errorf("%s version %d was committed and is not in its topic", id.aggregate, id.version)
		}
	}
	// What was forgotten before its mark was committed may have been sent again.
	if len(w.forgotten) > 0 {
		w.t.Logf("%d of %d forgotten facts are in no topic", len(w.missing), len(w.forgotten))
		if len(w.missing) == 0 {
			w.t.Error("everything that the broker forgot was sent again: the run proves nothing about losses")
		}
	}
	for _, view := range []string{"timeline", "operations"} {
		w.applied(ctx, view, heads)
	}
	w.t.Logf("compared %d committed facts of %d aggregates", committed, len(heads))
}

// journal reads the event ids that a source committed.
func (w *world) journal(ctx context.Context, source string) map[identity]string {
	w.t.Helper()
	facts := map[identity]string{}
	var id identity
	var event string
	w.Rows(ctx, source, `SELECT aggregate_type, aggregate_id, version, event_id::text FROM journal`,
		[]any{&id.aggregate.Type, &id.aggregate.ID, &id.version, &event}, func() { facts[id] = event })
	return facts
}

// published reads a whole topic and compares it with the journal. A fact may
// stand there twice; its second place changes nothing.
func (w *world) published(ctx context.Context, source string, journal map[identity]string) {
	w.t.Helper()
	topic := kafka.EventsTopic(source)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	left := w.ends(source)
	last := map[event.Aggregate]int64{}
	seen := map[identity]bool{}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			w.t.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			var headers []event.Header
			for _, h := range r.Headers {
				headers = append(headers, event.Header{Key: h.Key, Value: h.Value})
			}
			if event.IsControl(headers) || w.foreign[place{r.Topic, r.Partition, r.Offset}] {
				return
			}
			e, err := event.ParseHeaders(headers)
			if err != nil {
				w.t.Errorf("%s/%d at %d: %v", topic, r.Partition, r.Offset, err)
				return
			}
			id := identity{e.Aggregate, e.Version}
			switch {
			case w.restored == source:
				if journal[id] != e.ID {
					return // committed once, and undone by the restore
				}
			case journal[id] != e.ID:
				w.t.Errorf("%s version %d was published with event %s, committed is %q", e.Aggregate, e.Version, e.ID, journal[id])
			case e.Version > last[e.Aggregate]+1 && !w.forgotten[identity{e.Aggregate, e.Version - 1}]:
				w.t.Errorf("%s: version %d was published after %d", e.Aggregate, e.Version, last[e.Aggregate])
			}
			last[e.Aggregate] = max(last[e.Aggregate], e.Version)
			seen[id] = true
		})
	}
	for id := range journal {
		if !seen[id] {
			w.missing = append(w.missing, id)
		}
	}
}

// ends are the offsets behind the last records of a source's topic, of every
// partition that has some.
func (w *world) ends(source string) map[int32]int64 {
	w.t.Helper()
	topic := kafka.EventsTopic(source)
	admin, err := kafka.NewConsumer(kafka.Config{Brokers: w.brokers}, kafka.ConsumerOptions{Group: "compare", ClientID: "compare"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	ends := map[int32]int64{}
	for p := range int32(partitions) {
		_, end, err := admin.QueryWatermarkOffsets(topic, p, 20_000)
		if err != nil {
			w.t.Fatalf("ask for the end of %s/%d: %v", topic, p, err)
		}
		if end > 0 {
			ends[p] = end
		}
	}
	return ends
}

// applied compares the versions a view has applied with the journals' heads.
func (w *world) applied(ctx context.Context, view string, heads map[event.Aggregate]int64) {
	w.t.Helper()
	schema := w.tables(ctx, view)
	stands := map[string]int64{}
	var text []byte
	w.Rows(ctx, view, fmt.Sprintf(`SELECT applied FROM %s.state`, schema), []any{&text}, func() {
		var doc struct {
			Aggregates map[string]struct {
				Version int64  `json:"v"`
				Parked  string `json:"p"`
			} `json:"a"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			w.t.Fatal(err)
		}
		for name, record := range doc.Aggregates {
			stands[name] = record.Version
			if record.Parked != "" {
				w.t.Errorf("%s: %s is parked: %s", view, name, record.Parked)
			}
		}
	})
	for aggregate, version := range heads {
		if got := stands[aggregate.String()]; got != version {
			w.t.Errorf("%s has applied version %d of %s, committed is %d", view, got, aggregate, version)
		}
	}
	if len(stands) != len(heads) {
		w.t.Errorf("%s knows %d aggregates, committed are %d", view, len(stands), len(heads))
	}
	var parked int64
	w.Rows(ctx, view, fmt.Sprintf(`SELECT count(*) FROM %s.parked`, schema), []any{&parked}, func() {})
	if parked != int64(len(w.foreign)) {
		w.t.Errorf("%s: %d records are parked, %d foreign ones were published", view, parked, len(w.foreign))
	}
}
