package journal

import (
	"context"
	"fmt"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
)

const (
	readPage = 200
	headPage = 500
)

// Decoder turns the payloads of a journal into facts; platform/avro has it.
type Decoder interface {
	// Learn makes sure that a schema is known, if it was released at all. An error
	// means to try again later.
	Learn(ctx context.Context, source, name string, version int) error
	// Decode decodes a payload. An error means that no retry by this code can help.
	Decode(name string, version int, bare []byte) (event.Body, error)
}

// Reader reads the journals of other services. An event that this code cannot
// decode is a fact without a body.
type Reader struct {
	codec   Decoder
	clients map[string]journalv1.JournalServiceClient
}

// NewReader returns a reader of the journals behind these clients, by source.
func NewReader(codec Decoder, clients map[string]journalv1.JournalServiceClient) *Reader {
	return &Reader{codec: codec, clients: clients}
}

func (r *Reader) of(source string) (journalv1.JournalServiceClient, error) {
	if client := r.clients[source]; client != nil {
		return client, nil
	}
	return nil, fmt.Errorf("nobody owns aggregates of type %q", source)
}

// Events returns versions from to to of an aggregate, both inclusive, oldest
// first; perhaps fewer, and none of an aggregate that does not exist.
func (r *Reader) Events(ctx context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error) {
	client, err := r.of(a.Type)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetEvents(ctx, &journalv1.GetEventsRequest{
		AggregateType: a.Type, AggregateId: a.ID, FromVersion: from, ToVersion: to, PageSize: readPage,
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", a.Type, err)
	}
	return r.facts(ctx, answer.GetEvents())
}

// Range returns the facts of a partition of a source from one sequence to
// another, both inclusive, to 0 being the newest, and the sequence to go on
// from, 0 at the end.
func (r *Reader) Range(ctx context.Context, source string, partition int32, from, to int64) ([]event.Fact, int64, error) {
	client, err := r.of(source)
	if err != nil {
		return nil, 0, err
	}
	answer, err := client.ListEvents(ctx, &journalv1.ListEventsRequest{
		Partition: partition, FromSequence: from, ToSequence: to, PageSize: readPage,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list the journal of %s: %w", source, err)
	}
	facts, err := r.facts(ctx, answer.GetEvents())
	return facts, answer.GetNextSequence(), err
}

// Heads returns the newest event of every aggregate of a partition of a source, a
// page at a time, and the token of the next page, empty at the end.
func (r *Reader) Heads(ctx context.Context, source string, partition int32, page string) ([]event.Token, string, error) {
	client, err := r.of(source)
	if err != nil {
		return nil, "", err
	}
	answer, err := client.ListHeads(ctx, &journalv1.ListHeadsRequest{Partition: partition, PageSize: headPage, PageToken: page})
	if err != nil {
		return nil, "", fmt.Errorf("list the heads of %s: %w", source, err)
	}
	heads := make([]event.Token, 0, len(answer.GetHeads()))
	for _, h := range answer.GetHeads() {
		heads = append(heads, event.Token{
			Aggregate: event.Aggregate{Type: h.GetAggregateType(), ID: h.GetAggregateId()},
			Version:   h.GetVersion(), Epoch: h.GetEpoch(), EventID: h.GetEventId(),
		})
	}
	return heads, answer.GetNextPageToken(), nil
}

// facts decodes events. One that cannot be decoded has no body, and will park.
func (r *Reader) facts(ctx context.Context, events []*journalv1.JournalEvent) ([]event.Fact, error) {
	facts := make([]event.Fact, 0, len(events))
	for _, e := range events {
		if err := r.codec.Learn(ctx, e.GetSource(), e.GetType(), int(e.GetSchemaVersion())); err != nil {
			return nil, err
		}
		f, err := factOf(r.codec, e)
		if err != nil {
			f.Body = nil
		}
		facts = append(facts, f)
	}
	return facts, nil
}

func factOf(codec Decoder, e *journalv1.JournalEvent) (event.Fact, error) {
	body, err := codec.Decode(e.GetType(), int(e.GetSchemaVersion()), e.GetPayload())
	return event.Fact{Body: body, Envelope: event.Envelope{
		ID: e.GetId(), Source: e.GetSource(), Type: e.GetType(), SchemaVersion: int(e.GetSchemaVersion()),
		Aggregate: event.Aggregate{Type: e.GetAggregateType(), ID: e.GetAggregateId()},
		Version:   e.GetVersion(), Epoch: e.GetEpoch(), Key: e.GetKey(), Partition: e.GetPartition(), Sequence: e.GetSequence(),
		OccurredAt: e.GetOccurredAt().AsTime(), RecordedAt: e.GetRecordedAt().AsTime(),
		CausationID: e.GetCausationId(), CorrelationID: e.GetCorrelationId(),
		TraceParent: e.GetTraceparent(), TraceState: e.GetTracestate(),
	}}, err
}
