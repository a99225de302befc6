// Package event says what a fact is while it travels: who stated it, about
// what, in which order, when, and because of what. It knows nothing of what
// facts mean, and imports the standard library only, so every other package
// may import it.
package event

import (
	"time"
)

// Aggregate names one thing that facts are about.
type Aggregate struct {
	Type string // "order", "payment" or "shipment"
	ID   string // unique within the type
}

// String returns "type/id", as the ce_aggregate header writes it.
func (a Aggregate) String() string { return a.Type + "/" + a.ID }

// Envelope is everything about a fact except its content. The journal stores
// it in columns, the relay turns it into Kafka headers, and consumers read it
// back with [ParseHeaders].
type Envelope struct {
	ID            string    // event id, a UUIDv7; unique for ever
	Source        string    // context that decided it: "order", "payment", "shipment"
	Type          string    // name of the fact, "OrderPlaced"
	SchemaVersion int       // version of the schema its bytes were written with, from 1
	Aggregate     Aggregate // what the fact is about
	Version       int64     // place within the aggregate: 1, 2, 3 … without holes
	Epoch         string    // source epoch, see [NewEpoch]
	Key           string    // order id; the Kafka key
	Partition     int32     // computed once, at command time, from Key; not a header
	Sequence      int64     // place in the source's journal; 0 when read from Kafka
	OccurredAt    time.Time // when it happened in the business; may run backwards
	RecordedAt    time.Time // when the database took it; never runs backwards within an aggregate
	CausationID   string    // request or event that caused it; may be empty
	CorrelationID string    // what ties a whole journey together; may be empty
	TraceParent   string    // W3C trace context captured at command time; may be empty
	TraceState    string    // W3C trace state; may be empty
}

// Body is the content of a fact: a pointer to one of the generated structs in
// schemas/facts.
type Body interface {
	// FactName returns the name of the fact, for instance "OrderPlaced".
	FactName() string
}

// Fact is an envelope with its content.
type Fact struct {
	Envelope
	Body Body
}

// Token names one version of one aggregate. A command returns the token of the
// last fact it stated; a query given that token waits until it has seen it.
type Token struct {
	Aggregate
	Version int64
	Epoch   string
	EventID string
}

// Token returns the token of the fact.
func (e Envelope) Token() Token {
	return Token{Aggregate: e.Aggregate, Version: e.Version, Epoch: e.Epoch, EventID: e.ID}
}
