package conformance

import (
	"fmt"
	"time"

	"github.com/linkedin/goavro/v2"
	tavro "github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

// writer writes facts with any released version of their schemas.
type writer struct {
	set    *schemas.Set
	codec  *avro.Codec
	goavro map[schemas.Key]*goavro.Codec
}

func newWriter(set *schemas.Set) (*writer, error) {
	codec, err := avro.NewCodec(set)
	if err != nil {
		return nil, err
	}
	w := &writer{set, codec, map[schemas.Key]*goavro.Codec{}}
	for _, s := range set.All() {
		if w.goavro[s.Key], err = goavro.NewCodec(s.Text); err != nil {
			return nil, fmt.Errorf("schema %s: %w", s.Key, err)
		}
	}
	return w, nil
}

// sent is a fact as bytes, and as a reader of these bytes sees it.
type sent struct {
	fact  event.Fact
	value []byte
}

// send writes a fact with one version of its schema and reads it back.
func (w *writer) send(f event.Fact, version int) (sent, error) {
	record, ok := f.Body.(schemas.Record)
	if !ok {
		return sent{}, fmt.Errorf("history: %T is no generated fact", f.Body)
	}
	native, err := record.ToNative()
	if err != nil {
		return sent{}, fmt.Errorf("history: %w", err)
	}
	return w.sendNative(f.Envelope, record.FactName(), version, native)
}

func (w *writer) sendNative(e event.Envelope, name string, version int, native any) (sent, error) {
	key := schemas.Key{Name: name, Version: version}
	schema, ok := w.set.Lookup(key)
	if !ok {
		return sent{}, fmt.Errorf("history: no schema %s", key)
	}
	// goavro leaves out what the schema does not have: what an older program
	// could not say.
	bare, err := w.goavro[key].BinaryFromNative(nil, native)
	if err != nil {
		return sent{}, fmt.Errorf("history: write %s: %w", key, err)
	}
	e.Type, e.SchemaVersion = name, version
	value := avro.Frame(schema.ID, bare)
	f, err := w.codec.DecodeRecord(e.Headers(), []byte(e.Key), value)
	if err != nil {
		return sent{}, fmt.Errorf("history: read %s again: %w", key, err)
	}
	return sent{f, value}, nil
}

// of lists the schemas of the facts that a source states.
func (w *writer) of(source string) []schemas.Schema {
	var found []schemas.Schema
	for _, s := range w.set.All() {
		if s.Source == source {
			found = append(found, s)
		}
	}
	return found
}

// Marker begins every text that is planted as personal data.
const marker = "personal-"

// native makes a value of a schema: with nothing given that may be absent, or
// with everything given and texts that are personal marked.
func native(node *tavro.SchemaNode, field, order string, full, personal bool) any {
	switch node.Type {
	case "union":
		for i := range node.Branches {
			branch := &node.Branches[i]
			if branch.Type == "null" {
				if !full {
					return nil
				}
				continue
			}
			return map[string]any{branchName(branch): native(branch, field, order, full, personal)}
		}
		return nil
	case "record":
		tagged, _ := node.Props["pii"].(bool)
		out := map[string]any{}
		for i := range node.Fields {
			f := &node.Fields[i]
			out[f.Name] = native(&f.Type, f.Name, order, full, personal || tagged)
		}
		return out
	case "array":
		if !full {
			return []any{}
		}
		return []any{native(node.Items, field, order, full, personal)}
	case "map":
		return map[string]any{}
	case "enum":
		return node.Symbols[0]
	case "boolean":
		return full
	case "int":
		return int32(1)
	case "long":
		if node.LogicalType != "" {
			return dawn
		}
		return int64(0)
	case "string":
		switch {
		case field == "order_id":
			return order
		case field == "currency":
			return "EUR"
		case personal:
			return marker + field
		case full:
			return "a " + field
		}
		return ""
	}
	panic("a schema has the type " + node.Type + ", which facts do not use")
}

// dawn is the business time of facts that the kit makes.
var dawn = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

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

// made makes facts of one order that have every type and version of schema
// there is, one aggregate per source, or one per fact if apart.
func (w *writer) made(order string, sources []string, full, apart bool) ([]sent, error) {
	var all []sent
	for _, source := range sources {
		for i, schema := range w.of(source) {
			id, version := order+"-"+source, int64(i+1)
			if source == "order" {
				id = order
			}
			if apart {
				id, version = fmt.Sprintf("%s-%s", id, schema.Key), 1
			}
			one, err := w.sendNative(envelope(source, id, order, version), schema.Name, schema.Version,
				native(schema.Root, "", order, full, false))
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
	}
	return all, nil
}

func envelope(source, id, order string, version int64) event.Envelope {
	return event.Envelope{
		ID: fmt.Sprintf("%s-%s-%d", source, id, version), Source: source, SchemaVersion: 1,
		Aggregate: event.Aggregate{Type: source, ID: id}, Version: version, Epoch: "20260301T000000.000Z-0000000000000001", Key: order,
		OccurredAt: dawn.Add(time.Duration(version) * time.Minute), RecordedAt: dawn.Add(time.Duration(version) * time.Hour),
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}
