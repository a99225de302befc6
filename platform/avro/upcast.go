package avro

import (
	"fmt"
	"maps"
	"time"

	tavro "github.com/twmb/avro"
)

// lift takes an event one version further: first the upcaster, if the step
// needs one, then the defaults of new fields; fields that are no more go.
func lift(w *writer, event map[string]any) (map[string]any, error) {
	if w.lift != nil {
		event = maps.Clone(event)
		if err := w.lift(event); err != nil {
			return nil, err
		}
	}
	lifted, err := conform(w.next.Root, event)
	if err != nil {
		return nil, err
	}
	return lifted.(map[string]any), nil
}

// conform gives a value the form of a newer schema. What it cannot bring into
// that form it leaves as it is: the typed struct refuses it later, by name.
func conform(node *tavro.SchemaNode, value any) (any, error) {
	switch typed := value.(type) {
	case map[string]any:
		if node.Type == "union" {
			return conformBranch(node, typed)
		}
		if node.Type != "record" {
			return value, nil
		}
		out := make(map[string]any, len(node.Fields))
		for i := range node.Fields {
			field := &node.Fields[i]
			inner, ok := typed[field.Name]
			var err error
			switch {
			case ok:
				inner, err = conform(&field.Type, inner)
			case field.HasDefault:
				inner, err = fromDefault(&field.Type, field.Default)
			default:
				err = fmt.Errorf("no default")
			}
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", field.Name, err)
			}
			out[field.Name] = inner
		}
		return out, nil
	case []any:
		if node.Type != "array" {
			return value, nil
		}
		out := make([]any, len(typed))
		for i, item := range typed {
			var err error
			if out[i], err = conform(node.Items, item); err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		return out, nil
	}
	return value, nil
}

func conformBranch(union *tavro.SchemaNode, value map[string]any) (any, error) {
	for i := range union.Branches {
		branch := &union.Branches[i]
		if inner, ok := value[branchName(branch)]; ok && len(value) == 1 {
			lifted, err := conform(branch, inner)
			return map[string]any{branchName(branch): lifted}, err
		}
	}
	return value, nil
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
