// Package feed plays the services in tests of projections: it puts facts and
// control records on a broker, as a relay would, and serves their journal.
package feed

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Feed publishes to one broker.
type Feed struct {
	t          testing.TB
	partitions int32
	codec      *avro.Codec
	client     *kgo.Client
	number     int64
	sent       map[event.Token]bool
	totals     map[string][]control.ControlRecord // by source and partition
}

// New returns a feed that ends with the test.
func New(t testing.TB, cfg kafka.Config) *Feed {
	t.Helper()
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &Feed{t: t, partitions: cfg.PartitionCount(), codec: codec, client: client, sent: map[event.Token]bool{}, totals: map[string][]control.ControlRecord{}}
}

// Publish puts facts on their topics and returns when all are acknowledged.
func (f *Feed) Publish(facts ...event.Fact) {
	f.t.Helper()
	var records []*kgo.Record
	for _, fact := range facts {
		name, version, bare, err := f.codec.Encode(fact.Body)
		if err != nil {
			f.t.Fatal(err)
		}
		id, _ := f.codec.ID(name, version)
		records = append(records, record(kafka.EventsTopic(fact.Source), event.PartitionOf(fact.Key, f.partitions),
			fact.Headers(), []byte(fact.Key), avro.Frame(id, bare)))
		f.count(fact.Envelope)
	}
	f.produce(records)
}

// PublishBytes puts a fact on its topic whose content is given as bare Avro and
// may be of a schema that this program does not know; the envelope names it, and
// id is the registry's.
func (f *Feed) PublishBytes(e event.Envelope, id int, bare []byte) {
	f.t.Helper()
	f.count(e)
	f.produce([]*kgo.Record{record(kafka.EventsTopic(e.Source), event.PartitionOf(e.Key, f.partitions), e.Headers(), []byte(e.Key), avro.Frame(id, bare))})
}

// count adds a fact to the totals of its source, once.
func (f *Feed) count(e event.Envelope) {
	if f.sent[e.Token()] {
		return
	}
	f.sent[e.Token()] = true
	c := &f.of(e.Source)[event.PartitionOf(e.Key, f.partitions)]
	c.Epoch = max(c.Epoch, e.Epoch)
	c.Count++
	c.Hash = control.Sum(event.Sum(c.Hash).Add(e))
}

func (f *Feed) of(source string) []control.ControlRecord {
	if f.totals[source] == nil {
		f.totals[source] = make([]control.ControlRecord, f.partitions)
		for p := range f.partitions {
			f.totals[source][p] = control.ControlRecord{
				Source: source, Epoch: "20260301T000000.000Z-0000000000000001", Partition: p, Term: 1,
				Kind: control.ControlKindTotals, DataEndOffset: -1,
			}
		}
	}
	return f.totals[source]
}

// Totals writes a control record with the given as_of, and the totals of what
// was published, into every partition of a source's topic.
func (f *Feed) Totals(source string, asOf time.Time) {
	f.t.Helper()
	f.number++
	var records []*kgo.Record
	for p, c := range f.of(source) {
		c.Number, c.AsOf = f.number, asOf
		headers, key, value, err := f.codec.EncodeControl(&c)
		if err != nil {
			f.t.Fatal(err)
		}
		records = append(records, record(kafka.EventsTopic(source), int32(p), headers, key, value))
	}
	f.produce(records)
}

func record(topic string, partition int32, headers []event.Header, key, value []byte) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: partition, Key: key, Value: value}
	for _, h := range headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return r
}

func (f *Feed) produce(records []*kgo.Record) {
	f.t.Helper()
	if err := f.client.ProduceSync(f.t.Context(), records...).FirstErr(); err != nil {
		f.t.Fatalf("produce: %v", err)
	}
}

// Journal serves facts as their owner's journal would.
type Journal struct {
	journalv1.UnimplementedJournalServiceServer
	codec *avro.Codec
	mu    sync.Mutex
	facts []event.Fact
}

// Serve starts a journal of the given facts and returns its address.
func Serve(t testing.TB, facts ...event.Fact) (addr string, j *Journal) {
	t.Helper()
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	j = &Journal{codec: codec, facts: facts}
	srv := grpc.NewServer()
	journalv1.RegisterJournalServiceServer(srv, j)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return lis.Addr().String(), j
}

// GetEvents implements journal.v1.JournalService.
func (j *Journal) GetEvents(_ context.Context, r *journalv1.GetEventsRequest) (*journalv1.GetEventsResponse, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	answer := &journalv1.GetEventsResponse{}
	for _, f := range j.facts {
		if f.Aggregate.Type != r.GetAggregateType() || f.Aggregate.ID != r.GetAggregateId() ||
			f.Version < r.GetFromVersion() || r.GetToVersion() > 0 && f.Version > r.GetToVersion() {
			continue
		}
		_, version, bare, err := j.codec.Encode(f.Body)
		if err != nil {
			return nil, err
		}
		answer.Events = append(answer.Events, &journalv1.JournalEvent{
			Id: f.ID, Source: f.Source, Type: f.Type, SchemaVersion: int32(version), AggregateType: f.Aggregate.Type, AggregateId: f.Aggregate.ID,
			Version: f.Version, Epoch: f.Epoch, Key: f.Key, OccurredAt: timestamppb.New(f.OccurredAt), RecordedAt: timestamppb.New(f.RecordedAt),
			Traceparent: f.TraceParent, Payload: bare,
		})
	}
	return answer, nil
}
