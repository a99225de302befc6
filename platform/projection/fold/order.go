package fold

import (
	"encoding/json"
	"fmt"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Order is what a generation remembers of one order: the view's state, and
// what was applied of each of its aggregates.
type Order[S any] struct {
	ID      string
	State   S
	Applied map[string]*Applied // by event.Aggregate.String()
	Blocked Verdict             // TooLarge when the whole order is parked
	Stored  Encoded             // as the database has it
	rows    []map[string]Row    // what Stored derives to, per table; nil if it was not derived yet
}

// Keep remembers what a run left, as the database has it once the run is written.
func (o *Order[S]) Keep(out *Outcome) {
	o.Stored = out.Encoded
	if out.After != nil {
		o.rows = out.After
	}
}

// Encoded is an order as bytes; both parts are nil for an order never stored.
type Encoded struct {
	State, Applied []byte
}

// Versions are those of an order's aggregates, as they are stored: as JSON.
type Versions struct {
	Aggregates map[string]*Applied `json:"a"`
	Blocked    Verdict             `json:"b,omitempty"`
}

// NewOrder returns an order that nothing is known of.
func NewOrder[S any](id string) *Order[S] {
	return &Order[S]{ID: id, Applied: map[string]*Applied{}}
}

// OpenOrder decodes a stored order.
func OpenOrder[S any](id string, bytes Encoded) (*Order[S], error) {
	o := NewOrder[S](id)
	o.Stored = bytes
	if bytes.State == nil {
		return o, nil
	}
	if err := json.Unmarshal(bytes.State, &o.State); err != nil {
		return nil, fmt.Errorf("decode state of an order: %w", err)
	}
	doc, err := OpenVersions(bytes.Applied)
	if err != nil {
		return nil, err
	}
	o.Applied, o.Blocked = doc.Aggregates, doc.Blocked
	return o, nil
}

// OpenVersions decodes stored versions.
func OpenVersions(bytes []byte) (Versions, error) {
	if doc, ok := scanVersions(string(bytes)); ok {
		return doc, nil
	}
	var doc Versions
	if err := json.Unmarshal(bytes, &doc); err != nil {
		return doc, fmt.Errorf("decode applied versions of an order: %w", err)
	}
	if doc.Aggregates == nil {
		doc.Aggregates = map[string]*Applied{}
	}
	return doc, nil
}

// Encode encodes the order. It does not look at the size: see [Encoded.Check].
func (o *Order[S]) Encode() (Encoded, error) {
	var out Encoded
	var err error
	if out.State, err = json.Marshal(&o.State); err != nil {
		return out, fmt.Errorf("encode state: %w", err)
	}
	if out.Applied, err = (Versions{o.Applied, o.Blocked}).marshal(); err != nil {
		return out, fmt.Errorf("encode applied versions: %w", err)
	}
	return out, nil
}

// of returns the record of an aggregate, making it if needed.
func (o *Order[S]) of(a event.Aggregate) (record *Applied, fresh bool) {
	key := a.String()
	if record = o.Applied[key]; record != nil {
		return record, false
	}
	record = &Applied{}
	o.Applied[key] = record
	return record, true
}
