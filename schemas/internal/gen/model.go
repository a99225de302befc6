package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
	"github.com/tidemark-dev/tidemark/schemas/internal/native"
)

// Namespaces of the schemas. What is in control goes into package control,
// all else into package facts.
const (
	namespaceTypes   = "tidemark.types"
	namespaceControl = "tidemark.control"
)

// Model is what there is to generate: today's version of each record, and the
// named types inside them, each once.
type Model struct {
	Events []Event
	Types  []avro.SchemaNode
}

// Event is today's version of one record that travels.
type Event struct {
	avro.SchemaNode
	Version int
}

// Read parses today's version of every schema and collects the types in them.
// A type that two events share must be the same in both.
func Read(files fs.FS, entries []lock.Entry) (*Model, error) {
	today := map[string]lock.Entry{}
	for _, e := range entries {
		if e.Version > today[e.Name].Version {
			today[e.Name] = e
		}
	}
	model := &Model{}
	types := map[string]avro.SchemaNode{}
	for _, name := range slices.Sorted(maps.Keys(today)) {
		path := lock.Key{Name: name, Version: today[name].Version}.Path()
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, err
		}
		schema, err := avro.Parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		root := schema.Root().ExpandReferences()
		if root.Type != "record" || root.Name != name || !strings.HasPrefix(root.Namespace, "tidemark.") {
			return nil, fmt.Errorf("%s: want a record %s in a namespace tidemark.*", path, name)
		}
		for _, field := range root.Fields {
			if err := collect(types, field.Type); err != nil {
				return nil, fmt.Errorf("%s: field %s: %w", path, field.Name, err)
			}
		}
		model.Events = append(model.Events, Event{*root, today[name].Version})
	}
	if err := checkDocs(model.Events); err != nil {
		return nil, err
	}
	model.Types = slices.SortedFunc(maps.Values(types), func(a, b avro.SchemaNode) int { return cmp.Compare(a.Name, b.Name) })
	return model, nil
}

func collect(types map[string]avro.SchemaNode, node avro.SchemaNode) error {
	for _, inner := range children(node) {
		if err := collect(types, inner); err != nil {
			return err
		}
	}
	if node.Name == "" {
		return nil
	}
	if node.Namespace != namespaceTypes && node.Namespace != namespaceControl {
		return fmt.Errorf("type %s belongs into namespace %s", fullName(node), namespaceTypes)
	}
	if before, ok := types[fullName(node)]; ok && !sameType(before, node) {
		return fmt.Errorf("type %s differs from its form in another event; there is one Go type for it, so change all events that use it", fullName(node))
	}
	types[fullName(node)] = node
	return nil
}

func children(node avro.SchemaNode) []avro.SchemaNode {
	all := slices.Clone(node.Branches)
	if node.Items != nil {
		all = append(all, *node.Items)
	}
	for _, field := range node.Fields {
		all = append(all, field.Type)
	}
	return all
}

// sameType compares all that a reader of the file can see.
func sameType(a, b avro.SchemaNode) bool {
	same := a.Type == b.Type && a.Name == b.Name && a.Namespace == b.Namespace && a.LogicalType == b.LogicalType && a.Doc == b.Doc &&
		a.Size == b.Size && slices.Equal(a.Symbols, b.Symbols) && reflect.DeepEqual(a.Props, b.Props) &&
		len(a.Branches) == len(b.Branches) && (a.Items == nil) == (b.Items == nil) && len(a.Fields) == len(b.Fields)
	if !same {
		return false
	}
	for i, field := range a.Fields {
		other := b.Fields[i]
		if field.Name != other.Name || field.Doc != other.Doc || field.HasDefault != other.HasDefault ||
			!reflect.DeepEqual(field.Default, other.Default) || !reflect.DeepEqual(field.Props, other.Props) {
			return false
		}
	}
	return slices.EqualFunc(children(a), children(b), sameType)
}

func fullName(node avro.SchemaNode) string { return node.Namespace + "." + node.Name }

// checkDocs wants words at every record and field: they are the contract's
// only explanation, and become the Go comments.
func checkDocs(events []Event) error {
	var check func(path string, node avro.SchemaNode) error
	check = func(path string, node avro.SchemaNode) error {
		if node.Name != "" && node.Doc == "" {
			return fmt.Errorf("%s: type %s has no doc", path, node.Name)
		}
		for _, field := range node.Fields {
			if field.Doc == "" {
				return fmt.Errorf("%s.%s: no doc", path, field.Name)
			}
		}
		for _, inner := range children(node) {
			if err := check(path+"."+inner.Name, inner); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range events {
		if err := check(e.Name, e.SchemaNode); err != nil {
			return err
		}
	}
	return nil
}

// maxItems returns how many items a list may have: its property maxItems, or
// what native allows.
func maxItems(node avro.SchemaNode) (int, error) {
	value, ok := node.Props["maxItems"]
	if !ok {
		return native.MaxItems, nil
	}
	n, ok := value.(int64)
	if !ok || n < 1 || n > native.MaxItems {
		return 0, fmt.Errorf("maxItems %v: want a whole number from 1 to %d", value, native.MaxItems)
	}
	return int(n), nil
}
