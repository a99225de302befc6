package projection

import (
	"errors"
	"fmt"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

type itemKind int

const (
	itemNothing itemKind = iota
	itemFact
	itemMark
)

// item is one record after decoding.
type item struct {
	ref        fold.Ref
	kind       itemKind
	fact       event.Fact
	mark       completeness.Mark
	err        error      // why the record cannot be applied
	unreadable bool       // it names no fact: it parks by its place and blocks nobody
	fresh      bool       // it is not before the stored position
	given      fold.Given // what was decided about the fact
}

// maxIdentity bounds each part of a fact's identity, in bytes, so that any
// identity fits an index.
const maxIdentity = 200

// read decodes a record. What cannot be decoded is an item that parks, never an
// error: there is nobody to try again.
func (p *Projection[S]) read(r consumer.Record, topicID string) item {
	it := item{ref: fold.Ref{Topic: r.Topic, TopicID: topicID, Offset: r.Offset}}
	if event.IsControl(r.Headers) {
		return p.readMark(it, r)
	}
	if r.Topic == p.cfg.ControlTopic {
		return it.spoiled(errors.New("not a control record"))
	}
	var err error
	if it.fact, err = p.decode(r); err != nil {
		it.err = err
		if it.fact.Envelope, err = event.ParseHeaders(r.Headers); err != nil {
			return it.spoiled(err)
		}
	}
	it.fact.Partition = r.Partition
	if err := p.identify(it.fact.Envelope, r); err != nil {
		return it.spoiled(err)
	}
	it.kind = itemFact
	return it
}

// decode calls the codec and survives it.
func (p *Projection[S]) decode(r consumer.Record) (f event.Fact, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("decoder panicked: %v", cause)
		}
	}()
	f, err = p.cfg.Codec.DecodeRecord(r.Headers, r.Key, r.Value)
	if err == nil && f.Body == nil {
		err = errors.New("decoded to nothing")
	}
	return f, err
}

func (it item) spoiled(err error) item {
	it.kind, it.unreadable, it.err = itemNothing, true, err
	return it
}

// identify refuses an envelope whose record is not where such a fact belongs:
// what cannot be trusted to name an order must not touch one.
func (p *Projection[S]) identify(e event.Envelope, r consumer.Record) error {
	switch {
	case p.topics[e.Source] != r.Topic:
		return fmt.Errorf("a fact of source %.40q in topic %s", e.Source, r.Topic)
	case e.Aggregate.Type != e.Source:
		return fmt.Errorf("source %s does not own aggregates of type %.40q", e.Source, e.Aggregate.Type)
	case string(r.Key) != e.Key:
		return errors.New("the record's key is not the order id of its headers")
	case event.PartitionOf(e.Key, p.cfg.Kafka.PartitionCount()) != r.Partition:
		return errors.New("the record is in another partition than its order")
	case max(len(e.ID), len(e.Aggregate.ID), len(e.Epoch), len(e.Key)) > maxIdentity:
		return fmt.Errorf("an id is longer than %d bytes", maxIdentity)
	}
	return nil
}

func (p *Projection[S]) readMark(it item, r consumer.Record) item {
	c, err := p.cfg.Codec.DecodeControl(r.Headers, r.Key, r.Value)
	if err != nil {
		return it.spoiled(fmt.Errorf("control record: %w", err))
	}
	mark := completeness.Mark{
		Source: c.Source, Epoch: c.Epoch, First: c.PredecessorEpoch == nil, Term: c.Term, Number: c.Number, AsOf: c.AsOf,
		Totals: completeness.Totals{Count: c.Count, Sum: event.Sum(c.Hash)}, Low: c.MinSequence, High: c.MaxSequence,
		Blocked: c.BlockedCount, Names: c.Blocked,
		Idle: r.Topic == p.cfg.ControlTopic, TopicID: c.DataTopicID, End: c.DataEndOffset,
	}
	topic, known := p.topics[mark.Source]
	switch {
	case !known && mark.Idle:
		return it // of a source the view does not copy
	case !known || !mark.Idle && topic != r.Topic:
		return it.spoiled(fmt.Errorf("a control record of source %.40q in topic %s", mark.Source, r.Topic))
	case c.Partition != r.Partition:
		return it.spoiled(fmt.Errorf("a control record of partition %d in partition %d", c.Partition, r.Partition))
	case len(mark.Epoch) > maxIdentity:
		return it.spoiled(errors.New("a control record with an overlong epoch"))
	}
	it.kind, it.mark = itemMark, mark
	return it
}
