// Package avro turns typed events into bytes and back. It knows how events
// travel and never what they mean: types, schemas and upcasters come from a
// [schemas.Set].
//
// Bytes from outside are checked against the writer's schema before anything
// is allocated for them, because a forged length is otherwise believed. What
// cannot be read gives an [*Error], whose class says why.
package avro

import (
	"errors"
	"fmt"

	"github.com/linkedin/goavro/v2"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

const (
	// MaxRecord is the most bytes an event may have, the frame not counted.
	MaxRecord = 256 << 10
	// MaxItems is the most items a list in an event may have.
	MaxItems = 1000
	// MaxString is the most bytes one text in an event may have.
	MaxString = 32 << 10
)

// Codec encodes and decodes the events of one set of schemas. It is safe for
// concurrent use.
type Codec struct {
	set     *schemas.Set
	byKey   map[schemas.Key]*writer
	names   map[string]bool    // the keys of byKey, as headers write them
	latest  map[string]*writer // by name, the version that is written today
	learned *learned           // what was released after this program was built
}

// writer is one version of a schema, ready for use.
type writer struct {
	schemas.Schema
	goavro *goavro.Codec
	shape  *shape
	next   *writer // the version after it, nil for today's
	lift   schemas.Upcaster
	// Of a schema that was learned:
	project  *writer // today's version here, nil if the event has no type here
	unusable error   // why no record of it can be read
}

// NewCodec prepares a codec for all schemas of the set. The ids in the set are
// those that frames carry: Resolve a [Registry] first if it has ids of its own.
func NewCodec(set *schemas.Set) (*Codec, error) {
	c := &Codec{set: set, byKey: map[schemas.Key]*writer{}, names: map[string]bool{}, latest: map[string]*writer{}, learned: newLearned()}
	for _, schema := range set.All() {
		codec, err := goavro.NewCodec(schema.Text)
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", schema.Key, err)
		}
		shape, err := shapeOf(schema.Root)
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", schema.Key, err)
		}
		w := &writer{Schema: schema, goavro: codec, shape: shape, lift: set.Upcaster(schema.Key)}
		c.byKey[schema.Key], c.names[schema.Key.String()] = w, true
		if schema.Version == set.Today(schema.Name) {
			c.latest[schema.Name] = w
		}
	}
	for key, w := range c.byKey {
		w.next = c.byKey[schemas.Key{Name: key.Name, Version: key.Version + 1}]
	}
	return c, nil
}

// Encode returns the event as bare Avro, in today's version, with the name and
// version to store beside it. It refuses what a reader would refuse: a field
// that is not set or not allowed, a list of more than MaxItems, a text of more
// than MaxString bytes, more than MaxRecord bytes in all. The error names the field and never holds a value.
func (c *Codec) Encode(body event.Body) (name string, version int, bare []byte, err error) {
	record, ok := body.(schemas.Record)
	if !ok {
		return "", 0, nil, fmt.Errorf("encode: %T is no generated event", body)
	}
	w := c.latest[record.FactName()]
	if w == nil || w.Version != record.AvroSchemaVersion() {
		return "", 0, nil, fmt.Errorf("encode: no schema %s/%d", record.FactName(), record.AvroSchemaVersion())
	}
	native, err := record.ToNative()
	if err != nil {
		return "", 0, nil, fmt.Errorf("encode: %w", err)
	}
	bare, err = w.goavro.BinaryFromNative(nil, native)
	if err != nil {
		return "", 0, nil, fmt.Errorf("encode %s: does not follow its schema", w.Key)
	}
	if len(bare) > MaxRecord {
		return "", 0, nil, fmt.Errorf("encode %s: %d bytes, more than %d: %w", w.Key, len(bare), MaxRecord, ErrTooLarge)
	}
	if err := w.shape.check(bare); errors.Is(err, errString) {
		return "", 0, nil, fmt.Errorf("encode %s: %w: %w", w.Key, err, ErrTooLarge)
	} else if err != nil {
		return "", 0, nil, fmt.Errorf("encode %s: %w", w.Key, err)
	}
	return w.Name, w.Version, bare, nil
}

// ErrTooLarge reports an event of more than MaxRecord bytes, or with a text of
// more than MaxString, at encode.
var ErrTooLarge = errors.New("event is too large")

// Decode reads bare Avro with the schema it was written with, and lifts it to
// today's type. A version that was learned and is later than today's here is
// projected to it. The error is an [*Error] of class UnknownSchema, TooLarge or
// Undecodable.
func (c *Codec) Decode(name string, version int, bare []byte) (event.Body, error) {
	w := c.writer(schemas.Key{Name: name, Version: version})
	if w == nil {
		return nil, poison(UnknownSchema, fmt.Errorf("no schema %s/%d", name, version))
	}
	return c.decode(w, bare)
}

func (c *Codec) decode(w *writer, bare []byte) (event.Body, error) {
	if w.unusable != nil {
		return nil, poison(UnknownSchema, fmt.Errorf("%s: %w", w.Key, w.unusable))
	}
	if len(bare) > MaxRecord {
		return nil, poison(TooLarge, fmt.Errorf("%s: %d bytes, more than %d", w.Key, len(bare), MaxRecord))
	}
	if err := w.shape.check(bare); err != nil {
		return nil, poison(Undecodable, fmt.Errorf("%s: %w", w.Key, err))
	}
	decoded, _, err := w.goavro.NativeFromBinary(bare)
	if err != nil {
		return nil, poison(Undecodable, fmt.Errorf("%s: %w", w.Key, err))
	}
	native, ok := decoded.(map[string]any)
	if !ok {
		return nil, poison(Undecodable, fmt.Errorf("%s: is a %T, not a record", w.Key, decoded))
	}
	for ; w.next != nil; w = w.next {
		if err := lift(w, native); err != nil {
			return nil, poison(Undecodable, fmt.Errorf("lift %s: %w", w.Key, err))
		}
	}
	if w.project != nil {
		if err := conform(w.project.Root, native); err != nil {
			return nil, poison(Undecodable, fmt.Errorf("project %s: %w", w.Key, err))
		}
	}
	record := c.set.New(w.Name)
	if record == nil {
		return &Unknown{Name: w.Name, Version: w.Version}, nil
	}
	if err := record.FromNative(native); err != nil {
		return nil, poison(Undecodable, err)
	}
	return record, nil
}

// ID returns the id that frames of this schema carry.
func (c *Codec) ID(name string, version int) (int, bool) {
	w := c.writer(schemas.Key{Name: name, Version: version})
	if w == nil {
		return 0, false
	}
	return w.Schema.ID, true
}
