package faults

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// detection is how soon a view must know of a loss, on whatever machine this runs.
// What it really took is logged.
const detection = 10 * time.Second

// TestWhatTheBrokerLosesIsNamedAndHealed has the broker acknowledge facts and
// forget them, of every source, while life goes on. No gap shows when it was an
// aggregate's last fact, or all of them; the totals do. The views must say so
// soon, fetch what is missing from its owner, and prove themselves complete
// again, without anybody's help.
func TestWhatTheBrokerLosesIsNamedAndHealed(t *testing.T) {
	w := open(t)
	if w.broker == nil {
		t.Skip("a real Kafka cannot be made to lose what it acknowledged")
	}
	ctx := t.Context()
	stop := w.customers(ctx)
	looking, look := context.WithCancel(ctx)
	seen := w.watchCompleteness(looking)
	if !until(ctx, 30*time.Second, func() bool { return seen.last(completenessProven) }) {
		t.Error("the view never proved itself complete before anything was lost")
	}
	for _, source := range []string{"order", "payment", "shipment"} {
		at := time.Now()
		lost := w.lose(ctx, source)
		for _, id := range lost {
			w.forgotten[id] = true
		}
		if len(lost) == 0 {
			t.Errorf("%s: nothing was lost", source)
			continue
		}
		// A later fact of the same aggregate may show the gap first. Then it is
		// closed before the totals are compared, and they agree.
		var said, healed time.Duration
		until(ctx, 30*time.Second, func() bool {
			said = seen.since(at, completenessViolated)
			if healed == 0 && w.stands(ctx, lost) {
				healed = time.Since(at)
			}
			return healed > 0
		})
		t.Logf("%s: %d acknowledged facts lost; VIOLATED after %s, healed after %s (0 s: never)", source, len(lost),
			said.Round(time.Millisecond), healed.Round(time.Millisecond))
		if healed == 0 {
			t.Errorf("%s: what was lost did not come back", source)
		}
		if (said == 0 || said > detection) && healed > detection {
			t.Errorf("%s: the loss was known after more than %s", source, detection)
		}
	}
	stop()
	w.rest(ctx)
	if !until(ctx, 30*time.Second, func() bool { return seen.last(completenessProven) }) {
		t.Error("the view does not prove itself complete again")
	}
	look()
	w.compare(ctx)
}

const (
	completenessProven   = freshnessv1.Completeness_COMPLETENESS_PROVEN
	completenessViolated = freshnessv1.Completeness_COMPLETENESS_VIOLATED
)

// lose has the broker acknowledge the next facts of a source without keeping
// them, and returns which.
func (w *world) lose(ctx context.Context, source string) []identity {
	w.t.Helper()
	select {
	case lost := <-w.losing(source):
		return lost.facts
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	return nil
}

// loss is one request that the broker answered and forgot.
type loss struct {
	at        time.Time
	facts     []identity
	partition int32
}

// losing has the broker forget the next facts of a source, and says which once it
// did.
func (w *world) losing(source string) <-chan loss {
	cluster, topic := w.broker.Cluster(), kafka.EventsTopic(source)
	id := cluster.TopicInfo(topic).TopicID
	lost := make(chan loss, 1)
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		request, ok := r.(*kmsg.ProduceRequest)
		if !ok || len(request.Topics) != 1 || (request.Topics[0].Topic != topic && request.Topics[0].TopicID != id) {
			return nil, nil, false
		}
		var facts []identity
		for _, p := range request.Topics[0].Partitions {
			facts = append(facts, w.factsIn(p.Records)...)
		}
		if len(facts) == 0 {
			return nil, nil, false // a control record
		}
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		answer := kmsg.NewProduceResponseTopic()
		answer.Topic, answer.TopicID = request.Topics[0].Topic, request.Topics[0].TopicID
		cluster.SleepControl(func() {
			for _, p := range request.Topics[0].Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition = p.Partition
				partition.BaseOffset = cluster.PartitionInfo(topic, p.Partition).HighWatermark
				answer.Partitions = append(answer.Partitions, partition)
			}
		})
		response.Topics = append(response.Topics, answer)
		lost <- loss{time.Now(), facts, request.Topics[0].Partitions[0].Partition}
		return response, nil, true
	})
	return lost
}

// factsIn reads which facts a record batch holds.
func (w *world) factsIn(bytes []byte) (facts []identity) {
	var batch kmsg.RecordBatch
	if err := batch.ReadFrom(bytes); err != nil {
		w.t.Errorf("read a record batch: %v", err)
		return nil
	}
	records, err := kgo.DefaultDecompressor().Decompress(batch.Records, kgo.CompressionCodecType(batch.Attributes&7))
	if err != nil {
		w.t.Errorf("decompress a record batch: %v", err)
		return nil
	}
	for rest := records; len(rest) > 0; {
		length, n := binary.Varint(rest)
		end := n + int(length)
		if n <= 0 || length < 0 || end > len(rest) {
			w.t.Error("a record batch is cut short")
			return nil
		}
		record := kmsg.NewRecord()
		if err := record.ReadFrom(rest[:end]); err != nil {
			w.t.Errorf("read a record: %v", err)
			return nil
		}
		rest = rest[end:]
		var headers []event.Header
		for _, h := range record.Headers {
			headers = append(headers, event.Header{Key: h.Key, Value: h.Value})
		}
		if event.IsControl(headers) {
			continue
		}
		e, err := event.ParseHeaders(headers)
		if err != nil {
			w.t.Errorf("read a record's headers: %v", err)
			continue
		}
		facts = append(facts, identity{e.Aggregate, e.Version})
	}
	return facts
}

// stands reports whether the timeline has all these facts.
func (w *world) stands(ctx context.Context, facts []identity) bool {
	for _, f := range facts {
		n, err := w.Entries(ctx, fmt.Sprintf("aggregate_type = '%s' AND aggregate_id = '%s' AND version = %d", f.aggregate.Type, f.aggregate.ID, f.version))
		if err != nil || n == 0 {
			return false
		}
	}
	return true
}

// sightings are the moments at which a view's answers changed what they say of
// their completeness: the worst of all sources.
type sightings struct {
	mu    sync.Mutex
	times []time.Time
	said  []freshnessv1.Completeness
}

// since returns how long after a moment the view said so; 0 if it has not.
func (s *sightings) since(at time.Time, said freshnessv1.Completeness) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range s.times {
		if t.After(at) && s.said[i] == said {
			return t.Sub(at)
		}
	}
	return 0
}

// last reports whether this is what the view says now.
func (s *sightings) last(said freshnessv1.Completeness) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.said) > 0 && s.said[len(s.said)-1] == said
}

// watchCompleteness asks both views every 10 ms until ctx ends.
func (w *world) watchCompleteness(ctx context.Context) *sightings {
	w.t.Helper()
	fleet, err := client.Dial(client.Addresses{
		Order: processes.Address(w.base + 101), Payment: processes.Address(w.base + 102), Shipment: processes.Address(w.base + 103),
		Timeline: processes.Address(w.base + 201), Operations: processes.Address(w.base + 202),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &sightings{}
	ended := make(chan struct{})
	w.t.Cleanup(func() { <-ended; _ = fleet.Close() })
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			pass(ctx, 10*time.Millisecond)
			work, err := fleet.Operations.GetTotals(ctx, &operationsv1.GetTotalsRequest{})
			if err != nil {
				continue
			}
			past, err := fleet.Timeline.ListCustomerTimeline(ctx, &timelinev1.ListCustomerTimelineRequest{CustomerId: "customer-1"})
			if err != nil {
				continue
			}
			worst := completenessProven
			for _, source := range slices.Concat(work.GetFreshness().GetSources(), past.GetFreshness().GetSources()) {
				worst = worse(worst, source.GetCompleteness())
			}
			s.mu.Lock()
			if n := len(s.said); n == 0 || s.said[n-1] != worst {
				s.times, s.said = append(s.times, time.Now()), append(s.said, worst)
			}
			s.mu.Unlock()
		}
	}()
	return s
}

// worse returns the one that says less: violated, then unproven, then proven.
func worse(a, b freshnessv1.Completeness) freshnessv1.Completeness {
	if a == completenessViolated || b == completenessProven {
		return a
	}
	return b
}
