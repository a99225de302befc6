// Package schemas holds the contracts of all events: one immutable Avro schema
// file for each version of each event (avro/Name/v1.avsc), and the append-only
// list that numbers them for ever (ids.lock). Packages facts and control hold
// the Go types that are generated from them.
package schemas

//go:generate go run ./internal/gen

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/schemas/control"
	"github.com/tidemark-dev/tidemark/schemas/facts"
	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

//go:embed avro ids.lock
var files embed.FS

// Key names one version of one event's schema.
type Key struct {
	Name    string // "OrderPlaced"
	Version int    // from 1
}

// String returns "Name/version", as the ce_dataschema header writes it.
func (k Key) String() string { return fmt.Sprintf("%s/%d", k.Name, k.Version) }

// Schema is one released version of one event's schema.
type Schema struct {
	Key
	ID       int              // number in the schema registry and in the Confluent frame
	FullName string           // "tidemark.order.OrderPlaced"
	Source   string           // who states it: "order", "payment", "shipment"; or [SourceControl]
	Text     string           // the schema file
	Root     *avro.SchemaNode // the schema file parsed, every name expanded
}

// SourceControl is the Source of schemas that belong to no context: any source
// may write them.
const SourceControl = "control"

// Subjects returns the names under which the registry knows the schema: topic,
// dash, full name (TopicRecordNameStrategy). A fact has one topic; a void fact
// stands in for a fact of any of them; a control record travels in every topic.
func (s Schema) Subjects() []string {
	if s.Source != SourceControl {
		return []string{"tidemark." + s.Source + ".events-" + s.FullName}
	}
	subjects := []string{
		"tidemark.order.events-" + s.FullName,
		"tidemark.payment.events-" + s.FullName,
		"tidemark.shipment.events-" + s.FullName,
	}
	if s.Name == new(control.ControlRecord).FactName() {
		subjects = append(subjects, "tidemark.control-"+s.FullName)
	}
	return subjects
}

// Record is the typed content of an event: a pointer to a generated struct.
type Record interface {
	// FactName returns the name of the event, for instance "OrderPlaced".
	FactName() string
	// AvroSchemaVersion returns the version of the schema it is written with.
	AvroSchemaVersion() int
	// ToNative returns the record as goavro writes it.
	ToNative() (map[string]any, error)
	// FromNative sets the record from what goavro read.
	FromNative(value any) error
}

// Upcaster lifts an event from its version to the next, in goavro's native
// form. It only does what needs thought: before the next upcaster or the typed
// struct sees the event, new fields it did not set get their defaults, and
// fields that the next version no longer has are dropped.
type Upcaster func(event map[string]any) error

// Set is a set of released schemas, with the Go types of today's versions and
// the upcasters that lead there. It does not change and may be shared.
type Set struct {
	schemas   []Schema
	byKey     map[Key]Schema
	today     map[string]int
	newRecord func(name string) Record
	upcasters map[Key]Upcaster
}

// Catalog returns the released schemas of Tidemark. It panics if what is
// embedded is broken, which the tests of this package rule out.
func Catalog() *Set {
	set, err := NewSet(files, newRecord, upcasters())
	if err != nil {
		panic("schemas: " + err.Error())
	}
	return set
}

func newRecord(name string) Record {
	switch name {
	case new(control.ControlRecord).FactName():
		return new(control.ControlRecord)
	case new(control.FactVoided).FactName():
		return new(control.FactVoided)
	}
	if fact := facts.New(name); fact != nil {
		return fact
	}
	return nil
}

// NewSet reads schemas from a file system that is laid out as this folder is.
// newRecord makes an empty record of today's type, or nil if the name is
// unknown; upcasters holds the step from each key's version to the next, where
// a step is needed.
func NewSet(files fs.FS, newRecord func(name string) Record, upcasters map[Key]Upcaster) (*Set, error) {
	text, err := fs.ReadFile(files, lock.File)
	if err != nil {
		return nil, err
	}
	entries, err := lock.Parse(string(text))
	if err != nil {
		return nil, err
	}
	set := &Set{byKey: map[Key]Schema{}, today: map[string]int{}, newRecord: newRecord, upcasters: upcasters}
	for _, entry := range entries {
		text, err := fs.ReadFile(files, lock.Key{Name: entry.Name, Version: entry.Version}.Path())
		if err != nil {
			return nil, err
		}
		parsed, err := avro.Parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s version %d: %w", entry.Name, entry.Version, err)
		}
		root := parsed.Root().ExpandReferences()
		schema := Schema{
			Key: Key{entry.Name, entry.Version}, ID: entry.ID,
			FullName: root.Namespace + "." + root.Name, Source: strings.TrimPrefix(root.Namespace, "tidemark."),
			Text: string(text), Root: root,
		}
		set.schemas = append(set.schemas, schema)
		set.byKey[schema.Key] = schema
		set.today[entry.Name] = max(set.today[entry.Name], entry.Version)
	}
	for name, version := range set.today {
		if record := newRecord(name); record == nil || record.AvroSchemaVersion() != version {
			return nil, fmt.Errorf("%s has no Go type of version %d: run go generate", name, version)
		}
	}
	return set, nil
}

// All returns all schemas in the order of ids.lock. Registering them in this
// order gives them these ids in a registry that counts from 1.
func (s *Set) All() []Schema { return s.schemas }

// Lookup returns the schema of the key.
func (s *Set) Lookup(key Key) (Schema, bool) {
	schema, ok := s.byKey[key]
	return schema, ok
}

// Today returns the version that is written today, or 0 if the name is unknown.
func (s *Set) Today(name string) int { return s.today[name] }

// New returns an empty record of today's type, or nil if the name is unknown.
func (s *Set) New(name string) Record { return s.newRecord(name) }

// Upcaster returns the step from the key's version to the next; nil if filling
// in defaults and dropping fields is all there is to it.
func (s *Set) Upcaster(key Key) Upcaster { return s.upcasters[key] }

// WithIDs returns the same schemas under other ids, those of a registry that
// numbers them in its own way. Keys that are missing keep their ids.
func (s *Set) WithIDs(ids map[Key]int) *Set {
	other := *s
	other.schemas = make([]Schema, len(s.schemas))
	other.byKey = make(map[Key]Schema, len(s.byKey))
	for i, schema := range s.schemas {
		if id, ok := ids[schema.Key]; ok {
			schema.ID = id
		}
		other.schemas[i] = schema
		other.byKey[schema.Key] = schema
	}
	return &other
}
