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

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
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
	t        testing.TB
	cfg      kafka.Config
	codec    *avro.Codec
	producer *ck.Producer
	number   int64
}

// New returns a feed that ends with the test.
func New(t testing.TB, cfg kafka.Config) *Feed {
	t.Helper()
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	producer, err := kafka.NewProducer(cfg, "feed")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	return &Feed{t: t, cfg: cfg, codec: codec, producer: producer}
}

// Publish puts facts on their topics and returns when all are acknowledged.
func (f *Feed) Publish(facts ...event.Fact) {
	f.t.Helper()
	acks := make(chan ck.Event, len(facts))
	for _, fact := range facts {
		name, version, bare, err := f.codec.Encode(fact.Body)
		if err != nil {
			f.t.Fatal(err)
		}
		id, _ := f.codec.ID(name, version)
		f.produce(kafka.EventsTopic(fact.Source), event.PartitionOf(fact.Key, f.cfg.PartitionCount()), fact.Headers(), []byte(fact.Key), avro.Frame(id, bare), acks)
	}
	for range facts {
		f.await(acks)
	}
}

// Put puts one record as it is.
func (f *Feed) Put(topic string, partition int32, headers []event.Header, key, value []byte) {
	f.t.Helper()
	acks := make(chan ck.Event, 1)
	f.produce(topic, partition, headers, key, value, acks)
	f.await(acks)
}

// Totals writes a control record with the given as_of into every partition of
// a source's topic.
func (f *Feed) Totals(source string, asOf time.Time) {
	f.t.Helper()
	f.number++
	acks := make(chan ck.Event, f.cfg.PartitionCount())
	for p := range f.cfg.PartitionCount() {
		headers, key, value, err := f.codec.EncodeControl(&control.ControlRecord{
			Source: source, Epoch: "20260301T000000.000Z-0000000000000001", Partition: p, Number: f.number, Term: 1,
			Kind: control.ControlKindTotals, AsOf: asOf, DataEndOffset: -1,
		})
		if err != nil {
			f.t.Fatal(err)
		}
		f.produce(kafka.EventsTopic(source), p, headers, key, value, acks)
	}
	for range f.cfg.PartitionCount() {
		f.await(acks)
	}
}

func (f *Feed) produce(topic string, partition int32, headers []event.Header, key, value []byte, acks chan ck.Event) {
	f.t.Helper()
	m := &ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: partition}, Key: key, Value: value}
	for _, h := range headers {
		m.Headers = append(m.Headers, ck.Header{Key: h.Key, Value: h.Value})
	}
	if err := f.producer.Produce(m, acks); err != nil {
		f.t.Fatal(err)
	}
}

func (f *Feed) await(acks chan ck.Event) {
	f.t.Helper()
	select {
	case ev := <-acks:
		if m, ok := ev.(*ck.Message); !ok || m.TopicPartition.Error != nil {
			f.t.Fatalf("produce: %v", ev)
		}
	case <-time.After(20 * time.Second):
		f.t.Fatal("the broker acknowledged nothing within 20 s")
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
