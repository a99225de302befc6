package projection_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// broker is a broker with a producer of facts with JSON bodies.
type broker struct {
	t      *testing.T
	addr   string
	client *kgo.Client
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	addr := testkit.Broker(t).Addr()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &broker{t, addr, client}
}

func (b *broker) publish(facts ...event.Fact) {
	b.t.Helper()
	var records []*kgo.Record
	for _, f := range facts {
		value, err := json.Marshal(f.Body)
		if err != nil {
			b.t.Fatal(err)
		}
		r := &kgo.Record{Topic: kafka.EventsTopic(f.Source), Partition: event.PartitionOf(f.Key, kafka.DefaultPartitions), Key: []byte(f.Key), Value: value}
		for _, h := range f.Headers() {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		records = append(records, r)
	}
	if err := b.client.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broker) reach(c *projection.Config, _ *fold.View[tally]) {
	c.Kafka = kafka.Config{Brokers: b.addr}
}

// start runs a subject and returns a function that stops it.
func (s *subject) start() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// orders makes one fact of each of n orders.
func orders(n int) []event.Fact {
	var facts []event.Fact
	for i := range n {
		id := fmt.Sprintf("o%d", i)
		facts = append(facts, fact(id, "order/"+id, 1, &note{Add: 1, Text: "held"}))
	}
	return facts
}

func TestANewVersionIsBuiltBesideTheOldOneAndSwitchedTo(t *testing.T) {
	b := newBroker(t)
	facts := orders(200)
	b.publish(facts...)
	first := open(t, testkit.UsedURL(t), b.reach)
	stop := first.start()
	// It answers once it is built; until then it says that it cannot tell.
	for {
		f, err := first.read(nil, "o1")
		if err == nil {
			if len(f.GetEntityVersions()) != 1 {
				t.Fatalf("it answered before it was built: %v", f)
			}
			break
		}
	}
	same(t, memory(t, facts...), first.viewRows())
	stop()
	more := fact("o1", "order/o1", 2, &note{Add: 2})
	b.publish(more)
	second := open(t, first.url, b.reach, func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 })
	if f, err := second.read(nil, "o1"); err != nil || f.GetGeneration() != first.Generation() || f.GetEntityVersions()[0].GetVersion() != 1 {
		t.Fatalf("before it is built, version 2 answers %v, %v", f, err)
	}
	second.start()
	for {
		f, err := second.read(nil, "o1")
		if err != nil {
			t.Fatal(err)
		}
		if f.GetGeneration() == second.Generation() {
			if f.GetEntityVersions()[0].GetVersion() != 2 {
				t.Fatalf("it was switched to before it was built: %v", f)
			}
			break
		}
	}
	same(t, memory(t, append(facts, more)...), second.viewRows())
}

// Two replicas share the partitions; a caller who carries tokens sees its
// writes at either, whichever applies them.
func TestReplicasShareThePartitions(t *testing.T) {
	b := newBroker(t)
	url := testkit.UsedURL(t)
	replicas := []*subject{open(t, url, b.reach), open(t, url, b.reach)}
	facts := orders(1)
	b.publish(facts...)
	for _, r := range replicas {
		r.start()
	}
	for _, r := range replicas {
		for {
			if _, err := r.read(demand(ample, facts[0]), "o0"); err == nil {
				break
			}
		}
	}
	for v := range int64(30) {
		id := fmt.Sprintf("p%d", v)
		f := fact(id, "payment/"+id, 1, &note{Add: v})
		b.publish(f)
		facts = append(facts, f)
		for _, r := range replicas {
			if got, err := r.read(demand(ample, f), id); err != nil || !got.GetDemandMet() {
				t.Fatalf("%v, %v", got, err)
			}
		}
	}
	same(t, memory(t, facts...), replicas[0].viewRows())
}

// A replica of a new version owns every partition of the generation that it
// builds. What it answers from meanwhile, somebody else brings on.
func TestAReadOfTheOldGenerationWaitsForWhoKeepsIt(t *testing.T) {
	b := newBroker(t)
	b.publish(orders(8)...)
	old := open(t, testkit.UsedURL(t), b.reach)
	stop := old.start()
	first, second := orders(8)[7], fact("o7", "order/o7", 2, nil)
	for {
		if _, err := old.read(demand(ample, first), "o7"); err == nil {
			break
		}
	}
	stop()
	next := open(t, old.url, b.reach, func(c *projection.Config, v *fold.View[tally]) {
		v.Version, c.Generations.Swap = 2, projection.SwitchManual
	})
	next.start()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for len(next.Status().Assigned) < kafka.DefaultPartitions {
		<-ticker.C
	}
	looked, done := next.looking(demand(ample, second), "o7")
	<-looked
	b.publish(second)
	<-looked // its own generation has it, and woke everybody
	began := time.Now()
	open(t, old.url, b.reach).start()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: its budget woke it", waited)
	}
}

// TestARebuildBesideLiveReads runs two processes of one version against a
// broker: both build the second generation, and go on reading both after the
// swap and after the rollback.
func TestARebuildBesideLiveReads(t *testing.T) {
	b := newBroker(t)
	facts := orders(300)
	b.publish(facts...)
	one := open(t, testkit.UsedURL(t), b.reach)
	two := open(t, one.url, b.reach)
	one.start()
	stop := two.start()
	shows := func(s *subject, order string, version int64, generation string) {
		t.Helper()
		s.until(fmt.Sprintf("%s answers version %d of %s", generation, version, order), func() bool {
			f, err := s.read(nil, order)
			return err == nil && f.GetGeneration() == generation && len(f.GetEntityVersions()) == 1 && f.GetEntityVersions()[0].GetVersion() == version
		})
	}
	first := one.Generation()
	shows(one, "o1", 1, first)
	id, second := one.rebuild()
	if o := one.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the rebuild ended as %v", o)
	}
	if _, err := two.swap(""); err != nil {
		t.Fatal(err)
	}
	shows(one, "o2", 1, second)
	b.publish(fact("o1", "order/o1", 2, &note{Add: 2}))
	shows(one, "o1", 2, second)
	shows(two, "o1", 2, second)
	stop() // one of them goes; the other keeps both generations
	b.publish(fact("o2", "order/o2", 2, &note{Add: 2}))
	shows(one, "o2", 2, second)
	one.until("it goes back", func() bool { return one.rollback() == nil })
	shows(one, "o2", 2, first)
	shows(one, "o1", 2, first)
}
