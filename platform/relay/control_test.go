package relay

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Whatever was acknowledged to a caller before as_of stands in the topic before
// the record that says so, under load and under a backlog that one read never
// takes whole.
func TestAsOfIsSound(t *testing.T) {
	f := setup(t)
	f.tuning.BatchPerPartition = 2
	f.tuning.ControlEvery = time.Nanosecond
	for i := range 60 {
		f.state(fmt.Sprintf("backlog-%d", i%5), 1)
	}
	acknowledged := sync.Map{}
	stop := f.start(f.relay())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 40 {
				id := fmt.Sprintf("w%d-%d", w, i)
				f.state(id, 1)
				// The clock that as_of is taken from, after the caller has its answer.
				acknowledged.Store(id, query[time.Time](f, `SELECT clock_timestamp()`))
			}
		})
	}
	wg.Wait()
	f.drained()
	stop()
	records := f.read(kafka.TopicOrder)
	advanced := 0
	arrived := map[string]int64{}
	for _, r := range records {
		if r.fact != nil {
			if _, seen := arrived[r.fact.Aggregate.ID]; !seen {
				arrived[r.fact.Aggregate.ID] = r.offset
			}
		}
	}
	for _, r := range records {
		if r.control == nil {
			continue
		}
		if r.control.Kind != control.ControlKindOpening {
			advanced++
		}
		acknowledged.Range(func(id, at any) bool {
			if event.PartitionOf(id.(string), partitions) == r.partition && at.(time.Time).Before(r.control.AsOf) && arrived[id.(string)] > r.offset {
				t.Errorf("partition %d: as_of %s at offset %d, but %s, acknowledged at %s, is at offset %d", r.partition,
					r.control.AsOf.Format(time.RFC3339Nano), r.offset, id, at.(time.Time).Format(time.RFC3339Nano), arrived[id.(string)])
			}
			return true
		})
	}
	if advanced < 10 {
		t.Errorf("as_of was announced %d times under load", advanced)
	}
	f.checkTotals()
}

// The head of the unsent set is that of the whole set: with a backlog of ten
// and batches of one, as_of stands until the tenth is sent.
func TestAsOfWaitsForTheWholeUnsentSet(t *testing.T) {
	f := setup(t)
	f.tuning.BatchPerPartition, f.tuning.ControlEvery = 1, time.Nanosecond
	f.state("o-1", 10)
	acknowledged := query[time.Time](f, `SELECT clock_timestamp()`)
	stop := f.start(f.relay())
	f.drained()
	f.currentAfter(acknowledged)
	stop()
	sent := 0
	for _, r := range f.read(kafka.TopicOrder) {
		if r.partition != event.PartitionOf("o-1", partitions) {
			continue
		}
		if r.fact != nil {
			sent++
		} else if r.control.AsOf.After(acknowledged) && sent < 10 {
			t.Errorf("as_of passed the acknowledgement when %d of 10 were sent", sent)
		}
	}
}

func TestControlRecordsAddUp(t *testing.T) {
	f := setup(t)
	f.tuning.ControlEvery = time.Millisecond
	stop := f.start(f.relay())
	for i := range 40 {
		f.state(fmt.Sprintf("o-%d", i%6), 1+i%2)
	}
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	stop()
	type state struct{ totals }
	seen := map[int32]*state{}
	sequences := map[string]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		s := seen[r.partition]
		if s == nil {
			s = &state{}
			seen[r.partition] = s
		}
		if r.fact != nil {
			s.count++
			s.hash = s.hash.Add(r.fact.Envelope)
			sequence := query[int64](f, `SELECT sequence FROM journal WHERE event_id = $1`, r.fact.ID)
			sequences[r.fact.ID] = sequence
			if s.min == 0 || sequence < s.min {
				s.min = sequence
			}
			s.max = max(s.max, sequence)
			continue
		}
		c := r.control
		s.number++
		if c.Number != s.number || (c.Kind == control.ControlKindOpening) != (c.Number == 1) || c.DataEndOffset != -1 {
			t.Errorf("partition %d: record %d is %+v", r.partition, s.number, c)
		}
		if c.Count != s.count || event.Sum(c.Hash) != s.hash {
			t.Errorf("partition %d: announced %d, passed %d", r.partition, c.Count, s.count)
		}
		if c.MinSequence != s.min || c.MaxSequence != s.max {
			t.Errorf("partition %d: interval %d–%d, passed %d–%d", r.partition, c.MinSequence, c.MaxSequence, s.min, s.max)
		}
		s.min, s.max = 0, 0
	}
	if len(seen) != partitions {
		t.Errorf("control records in %d partitions", len(seen))
	}
}

// While nothing happens freshness stays true and the data topic does not grow.
func TestIdleKeepsFreshnessTrueAndTheDataTopicStill(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	f.state("o-1", 2)
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	size := len(f.read(kafka.TopicOrder))
	from := query[time.Time](f, `SELECT clock_timestamp()`)
	f.eventually("many idle records of every partition", func() bool {
		count := map[int32]int{}
		for _, r := range f.read(kafka.TopicControl) {
			if r.control.AsOf.After(from) {
				count[r.partition]++
			}
		}
		for p := range int32(partitions) {
			if count[p] < 5 {
				return false
			}
		}
		return true
	})
	data := f.read(kafka.TopicOrder)
	if len(data) != size {
		t.Errorf("the data topic grew from %d to %d records", size, len(data))
	}
	end := map[int32]int64{}
	for _, r := range data {
		end[r.partition] = r.offset + 1
	}
	for _, r := range f.read(kafka.TopicControl) {
		if c := r.control; c.AsOf.After(from) && (c.DataEndOffset != end[r.partition] || c.DataTopicID == "" || c.Partition != r.partition) {
			t.Errorf("partition %d ends at %d: %+v", r.partition, end[r.partition], c)
		}
	}
}

// The broker goes away while the relay publishes, and comes back.
func TestABrokerRestartLosesNothing(t *testing.T) {
	f := setup(t)
	dir := t.TempDir()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	f.brokers = broker.Addr()
	f.start(f.relay())
	f.state("o-1", 3)
	f.drained()
	broker.Close()
	for i := range 20 {
		f.state(fmt.Sprintf("o-%d", i), 1)
	}
	var port int
	if _, err := fmt.Sscanf(f.brokers, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	broker, err = embedded.StartBroker(t.Context(), embedded.BrokerConfig{Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	f.drained()
	f.checkTotals()
	arrived := map[string]bool{}
	for _, id := range f.sent() {
		arrived[id] = true
	}
	if len(arrived) != 23 {
		t.Errorf("%d of 23 events arrived", len(arrived))
	}
}

// The broker answers that the sequence of an idempotent producer is broken,
// which is fatal for the producer. It is replaced, and the unsent set sent again.
func TestAFatalProducerErrorIsSurvived(t *testing.T) {
	f := setup(t)
	lines := make(chan string, 1000)
	f.start(f.relay(func(r *Relay) {
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			select {
			case lines <- string(p):
			default:
			}
		}), nil))
	}))
	f.state("o-1", 1)
	f.drained()
	fault := f.broker.Cluster().Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: kafka.TopicOrder, Partitions: []int32{event.PartitionOf("o-1", partitions)}, Err: kerr.OutOfOrderSequenceNumber,
	})
	f.state("o-1", 3)
	f.drained()
	if fault.Hits() == 0 {
		t.Fatal("the fault did not bite")
	}
	fatal := false
	for len(lines) > 0 {
		line := <-lines
		fatal = fatal || strings.Contains(line, "starts over")
	}
	if !fatal {
		t.Error("the producer was not replaced: was the error fatal?")
	}
	f.state("o-1", 1)
	f.drained()
	f.checkTotals()
	next := map[string]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact == nil {
			continue
		}
		if r.fact.Version > next[r.fact.Aggregate.ID]+1 {
			t.Errorf("version %d after %d", r.fact.Version, next[r.fact.Aggregate.ID])
		}
		next[r.fact.Aggregate.ID] = max(next[r.fact.Aggregate.ID], r.fact.Version)
	}
	if next["o-1"] != 5 {
		t.Errorf("arrived up to version %d of 5", next["o-1"])
	}
}

// A topic with another number of partitions than the journal computed is
// refused; nothing is sent into wrong partitions.
func TestAnotherPartitionCountIsRefused(t *testing.T) {
	f := setup(t)
	f.state("o-1", 1)
	refused := make(chan string, 100)
	f.start(f.relay(func(r *Relay) {
		r.cfg.Kafka.Partitions = 4
		r.cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
			select {
			case refused <- string(p):
			default:
			}
		}), nil))
	}))
	if got := <-refused; !strings.Contains(got, "8 partitions, configured are 4") {
		t.Errorf("log: %s", got)
	}
	if f.unsent() != 1 {
		t.Error("the event left the unsent set")
	}
}
