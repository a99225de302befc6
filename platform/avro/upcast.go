package avro

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	tavro "github.com/twmb/avro"
)

// lift takes an event one version further, in place: first the upcaster, if the
// step needs one, then the defaults of new fields; fields that are no more go.
func lift(w *writer, event map[string]any) error {
	if w.lift != nil {
		if err := w.lift(event); err != nil {
			return err
		}
	}
	return conform(w.next.Root, event)
}

// conform gives a value the form of another version's schema, in place: a copy
// of what a record of many small lines decodes to would cost as much again.
// What it cannot bring into that form it leaves as it is: the typed struct
// refuses it later, by name.
func conform(node *tavro.SchemaNode, value any) error {
	switch typed := value.(type) {
	case map[string]any:
		switch node.Type {
		case "union":
			return conformBranch(node, typed)
		case "record":
			return conformRecord(node, typed)
		}
	case []any:
		if node.Type != "array" {
			return nil
		}
		for i, item := range typed {
			if err := conform(node.Items, item); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
	}
	return nil
}

func conformRecord(node *tavro.SchemaNode, record map[string]any) error {
	for i := range node.Fields {
		field := &node.Fields[i]
		inner, ok := record[field.Name]
		var err error
		switch {
		case ok:
			err = conform(&field.Type, inner)
		case field.HasDefault:
			record[field.Name], err = fromDefault(&field.Type, field.Default)
		default:
			err = errors.New("no default")
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", field.Name, err)
		}
	}
	if len(record) > len(node.Fields) {
		maps.DeleteFunc(record, func(name string, _ any) bool {
			return !slices.ContainsFunc(node.Fields, func(f tavro.SchemaField) bool { return f.Name == name })
		})
	}
	return nil
}

func conformBranch(union *tavro.SchemaNode, value map[string]any) error {
	for i := range union.Branches {
		branch := &union.Branches[i]
		if inner, ok := value[branchName(branch)]; ok && len(value) == 1 {
			return conform(branch, inner)
		}
	}
	return nil
}

// branchName is how goavro calls a type inside a union.
func branchName(node *tavro.SchemaNode) string {
	switch {
	case node.Name != "" && node.Namespace != "":
		return node.Namespace + "." + node.Name
	case node.Name != "":
		return node.Name
	case node.LogicalType != "":
		return node.Type + "." + node.LogicalType
	}
	return node.Type
}

// fromDefault turns a schema's default into goavro's native form.
func fromDefault(node *tavro.SchemaNode, value any) (any, error) {
	switch node.Type {
	case "union":
		if value == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("the default of a union is null")
	case "record":
		fields, _ := value.(map[string]any)
		out := make(map[string]any, len(node.Fields))
		for _, field := range node.Fields {
			inner, ok := fields[field.Name]
			if !ok {
				inner = field.Default
			}
			var err error
			if out[field.Name], err = fromDefault(&field.Type, inner); err != nil {
				return nil, err
			}
		}
		return out, nil
	case "array":
		items, _ := value.([]any)
		out := make([]any, len(items))
		for i, item := range items {
			var err error
			if out[i], err = fromDefault(node.Items, item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case "long":
		if micros, ok := value.(int64); ok && node.LogicalType == "timestamp-micros" {
			return time.UnixMicro(micros).UTC(), nil
		}
	}
	return value, nil
}
