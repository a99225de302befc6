package avro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Class says why a record cannot be read. Whatever the class, the record will
// not become readable by reading it again with the same code.
type Class string

// The classes of unreadable records.
const (
	NoHeaders        Class = "no_headers"         // somebody else's record
	BadHeader        Class = "bad_header"         // a header of ours is missing, doubled or malformed
	NullValue        Class = "null_value"         // a tombstone
	BadFrame         Class = "bad_frame"          // the value does not start as Confluent's wire format does
	UnknownSchema    Class = "unknown_schema"     // ce_dataschema names a schema this code does not have
	SchemaIDMismatch Class = "schema_id_mismatch" // the frame's id is not that of ce_dataschema
	Undecodable      Class = "undecodable"        // the bytes do not follow the schema
	TooLarge         Class = "too_large"          // more than MaxRecord bytes
)

// Error reports a record that cannot be read.
type Error struct {
	Class Class
	Err   error // details, without values of fields
}

// Error returns the class and the details.
func (e *Error) Error() string { return string(e.Class) + ": " + e.Err.Error() }

// Unwrap returns the details.
func (e *Error) Unwrap() error { return e.Err }

func poison(class Class, err error) *Error { return &Error{Class: class, Err: err} }

// frameSize is the length of Confluent's frame: a zero byte and the schema's
// id, big-endian.
const frameSize = 5

// Frame puts Confluent's frame before bare Avro.
func Frame(id int, bare []byte) []byte {
	framed := make([]byte, frameSize, frameSize+len(bare))
	binary.BigEndian.PutUint32(framed[1:], uint32(id))
	return append(framed, bare...)
}

// Unframe takes the frame off. The bytes are part of the value, not a copy.
func Unframe(value []byte) (id int, bare []byte, err error) {
	switch {
	case len(value) < frameSize:
		return 0, nil, poison(BadFrame, fmt.Errorf("%d bytes are shorter than a frame", len(value)))
	case value[0] != 0:
		return 0, nil, poison(BadFrame, fmt.Errorf("starts with byte %#x, not 0", value[0]))
	}
	id64 := binary.BigEndian.Uint32(value[1:])
	if id64 > math.MaxInt32 {
		return 0, nil, poison(BadFrame, errors.New("schema id is out of range"))
	}
	return int(id64), value[frameSize:], nil
}

// DecodeRecord reads a fact from a Kafka record. It needs no registry: the
// ce_dataschema header names the schema, and the frame's id must be that
// schema's. Partition is left to the caller. The body of a void fact is a
// [*control.FactVoided], whatever the source.
//
// The error is an [*Error]. Even then the fact's envelope holds whatever could
// be read of it, so that the record can be parked under its name; Body is nil.
func (c *Codec) DecodeRecord(headers []event.Header, key, value []byte) (event.Fact, error) {
	envelope, err := event.ParseHeaders(headers)
	fact := event.Fact{Envelope: envelope}
	switch {
	case value == nil:
		return fact, poison(NullValue, errors.New("record has no value"))
	case errors.Is(err, event.ErrNoHeaders):
		return fact, poison(NoHeaders, err)
	case err != nil:
		return fact, poison(BadHeader, err)
	case string(key) != envelope.Key:
		return fact, poison(BadHeader, errors.New("ce_subject is not the record's key"))
	}
	if envelope.Source == schemas.SourceControl {
		return fact, poison(BadHeader, errors.New("a control record says it is a fact"))
	}
	w, bare, err := c.unframe(schemas.Key{Name: envelope.Type, Version: envelope.SchemaVersion}, envelope.Source, value)
	if err != nil {
		return fact, err
	}
	body, err := c.decode(w, bare)
	if err != nil {
		return fact, err
	}
	fact.Body = body
	return fact, nil
}

// unframe finds the schema that the headers name and checks that the frame
// agrees.
func (c *Codec) unframe(key schemas.Key, source string, value []byte) (*writer, []byte, error) {
	id, bare, err := Unframe(value)
	if err != nil {
		return nil, nil, err
	}
	w := c.writer(key)
	switch {
	case w == nil:
		return nil, nil, poison(UnknownSchema, fmt.Errorf("no schema %s", key))
	case !w.statedBy(source):
		return nil, nil, poison(BadHeader, fmt.Errorf("%s is not stated by ce_source", key.Name))
	case w.Schema.ID != id:
		return nil, nil, poison(SchemaIDMismatch, fmt.Errorf("frame has id %d, %s has id %d", id, key, w.Schema.ID))
	}
	return w, bare, nil
}

// statedBy reports whether a record of the source may be of the schema. A void
// fact stands in for a fact of any source that states facts.
func (w *writer) statedBy(source string) bool {
	if w.Name == new(control.FactVoided).FactName() {
		return source != schemas.SourceControl
	}
	return w.Source == source
}

// EncodeControl returns the Kafka record of a control record: its key is the
// source's name.
func (c *Codec) EncodeControl(record *control.ControlRecord) (headers []event.Header, key, value []byte, err error) {
	name, version, bare, err := c.Encode(record)
	if err != nil {
		return nil, nil, nil, err
	}
	headers = event.Control{
		ID:     fmt.Sprintf("%s/%s/%d/%d", record.Source, record.Epoch, record.Partition, record.Number),
		Source: record.Source, SchemaVersion: version, AsOf: record.AsOf,
	}.Headers()
	return headers, []byte(record.Source), Frame(c.latest[name].Schema.ID, bare), nil
}

// DecodeControl reads a control record; [event.IsControl] tells which records
// are. The error is an [*Error].
func (c *Codec) DecodeControl(headers []event.Header, key, value []byte) (*control.ControlRecord, error) {
	envelope, err := event.ParseControl(headers)
	switch {
	case err != nil:
		return nil, poison(BadHeader, err)
	case value == nil:
		return nil, poison(NullValue, errors.New("control record has no value"))
	case string(key) != envelope.Source:
		return nil, poison(BadHeader, errors.New("ce_source is not the record's key"))
	}
	name := new(control.ControlRecord).FactName()
	w, bare, err := c.unframe(schemas.Key{Name: name, Version: envelope.SchemaVersion}, schemas.SourceControl, value)
	if err != nil {
		return nil, err
	}
	decoded, err := c.decode(w, bare)
	if err != nil {
		return nil, err
	}
	record, ok := decoded.(*control.ControlRecord)
	if !ok || record.Source != envelope.Source {
		return nil, poison(Undecodable, errors.New("control record of another source than its headers say"))
	}
	return record, nil
}
