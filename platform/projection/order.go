package projection

import (
	"encoding/json"
	"fmt"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// order is what a generation remembers of one order: the view's state, and
// what was applied of each of its aggregates.
type order[S any] struct {
	id      string
	state   S
	applied map[string]*applied // by event.Aggregate.String()
	blocked Verdict             // TooLarge when the whole order is parked
	stored  encoded             // as the database has it
	rows    []map[string]row    // what stored derives to, per table; nil if it was not derived yet
}

// keep remembers what a run left, as the database has it once the run is written.
func (o *order[S]) keep(out *outcome) {
	o.stored = out.encoded
	if out.after != nil {
		o.rows = out.after
	}
}

// encoded is an order as bytes; both parts are nil for an order never stored.
type encoded struct {
	state, applied []byte
}

// appliedDoc is the JSON of an order's versions.
type appliedDoc struct {
	Aggregates map[string]*applied `json:"a"`
	Blocked    Verdict             `json:"b,omitempty"`
}

func newOrder[S any](id string) *order[S] {
	return &order[S]{id: id, applied: map[string]*applied{}}
}

// openOrder decodes a stored order.
func openOrder[S any](id string, bytes encoded) (*order[S], error) {
	o := newOrder[S](id)
	o.stored = bytes
	if bytes.state == nil {
		return o, nil
	}
	if err := json.Unmarshal(bytes.state, &o.state); err != nil {
		return nil, fmt.Errorf("decode state of an order: %w", err)
	}
	doc, err := openApplied(bytes.applied)
	if err != nil {
		return nil, err
	}
	o.applied, o.blocked = doc.Aggregates, doc.Blocked
	return o, nil
}

func openApplied(bytes []byte) (appliedDoc, error) {
	if doc, ok := scanApplied(string(bytes)); ok {
		return doc, nil
	}
	var doc appliedDoc
	if err := json.Unmarshal(bytes, &doc); err != nil {
		return doc, fmt.Errorf("decode applied versions of an order: %w", err)
	}
	if doc.Aggregates == nil {
		doc.Aggregates = map[string]*applied{}
	}
	return doc, nil
}

func (o *order[S]) encode() (encoded, error) {
	var out encoded
	var err error
	if out.state, err = json.Marshal(&o.state); err != nil {
		return out, fmt.Errorf("encode state: %w", err)
	}
	if out.applied, err = (appliedDoc{o.applied, o.blocked}).marshal(); err != nil {
		return out, fmt.Errorf("encode applied versions: %w", err)
	}
	return out, nil
}

// of returns the record of an aggregate, making it if needed.
func (o *order[S]) of(a event.Aggregate) (record *applied, fresh bool) {
	key := a.String()
	if record = o.applied[key]; record != nil {
		return record, false
	}
	record = &applied{}
	o.applied[key] = record
	return record, true
}
