package schemas_test

import (
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	tavro "github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/schemas"
)

// A chooser fills a schema with values in goavro's native form.
type chooser struct {
	present  func() bool // for a nullable value
	length   func(max int) int
	boolean  func() bool
	number   func(bits int) int64
	text     func(path string) string
	currency func() string
	time     func() time.Time
	index    func(n int) int
	fixed    func(n int) []byte
}

func (c chooser) value(node *tavro.SchemaNode, path string, format any) any {
	switch node.Type {
	case "boolean":
		return c.boolean()
	case "int":
		return int32(c.number(32))
	case "long":
		if node.LogicalType == "timestamp-micros" {
			return c.time()
		}
		return c.number(64)
	case "string":
		if format == "currency" {
			return c.currency()
		}
		return c.text(path)
	case "enum":
		return node.Symbols[c.index(len(node.Symbols))]
	case "fixed":
		return c.fixed(node.Size)
	case "union":
		if !c.present() {
			return nil
		}
		branch := &node.Branches[1]
		return map[string]any{unionName(branch): c.value(branch, path, format)}
	case "array":
		limit := 1000
		if n, ok := node.Props["maxItems"].(int64); ok {
			limit = int(n)
		}
		list := make([]any, c.length(limit))
		for i := range list {
			list[i] = c.value(node.Items, path, nil)
		}
		return list
	case "record":
		record := map[string]any{}
		for i := range node.Fields {
			field := &node.Fields[i]
			record[field.Name] = c.value(&field.Type, field.Name, field.Props["format"])
		}
		return record
	}
	panic("no values for type " + node.Type)
}

func unionName(node *tavro.SchemaNode) string {
	switch {
	case node.Name != "":
		return node.Namespace + "." + node.Name
	case node.LogicalType != "":
		return node.Type + "." + node.LogicalType
	}
	return node.Type
}

// full sets everything, least sets nothing that may be absent or empty.
func full() chooser {
	n := int64(0)
	next := func() int64 { n++; return n }
	return chooser{
		present: func() bool { return true },
		length:  func(int) int { return 2 },
		boolean: func() bool { return true },
		number:  func(bits int) int64 { return next()<<(bits-16) - next() },
		text:    func(path string) string { return path + " é✓" },
		currency: func() string {
			return "BRL"
		},
		time:  func() time.Time { return time.Date(2017, 10, 2, 10, 56, int(next()), 123456000, time.UTC) },
		index: func(n int) int { return n - 1 },
		fixed: func(n int) []byte { return []byte(strings.Repeat("\xfe\x01", n/2)) },
	}
}

func least() chooser {
	return chooser{
		present:  func() bool { return false },
		length:   func(int) int { return 0 },
		boolean:  func() bool { return false },
		number:   func(int) int64 { return 0 },
		text:     func(string) string { return "" },
		currency: func() string { return "XXX" },
		time:     func() time.Time { return time.Unix(0, 0).UTC() },
		index:    func(int) int { return 0 },
		fixed:    func(n int) []byte { return make([]byte, n) },
	}
}

// drawn lets rapid choose.
func drawn(t *rapid.T) chooser {
	text := rapid.StringN(0, 30, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") })
	return chooser{
		present: func() bool { return rapid.Bool().Draw(t, "present") },
		length:  func(limit int) int { return rapid.IntRange(0, min(limit, 6)).Draw(t, "length") },
		boolean: func() bool { return rapid.Bool().Draw(t, "boolean") },
		number: func(bits int) int64 {
			if bits == 32 {
				return int64(rapid.Int32().Draw(t, "int"))
			}
			return rapid.Int64().Draw(t, "long")
		},
		text:     func(string) string { return text.Draw(t, "text") },
		currency: func() string { return rapid.StringMatching(`[A-Z]{3}`).Draw(t, "currency") },
		time: func() time.Time {
			// One microsecond after year 1 began to one before year 10000 does.
			return time.UnixMicro(rapid.Int64Range(-62135596799999999, 253402300799999999).Draw(t, "micros")).UTC()
		},
		index: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "index") },
		fixed: func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "fixed") },
	}
}

// eachToday runs a test for today's version of every event.
func eachToday(t *testing.T, test func(t *testing.T, schema schemas.Schema, codec *goavro.Codec, fresh func() schemas.Record)) {
	set := schemas.Catalog()
	for _, schema := range set.All() {
		if schema.Version != set.Today(schema.Name) {
			continue
		}
		t.Run(schema.Name, func(t *testing.T) {
			codec, err := goavro.NewCodec(schema.Text)
			if err != nil {
				t.Fatal(err)
			}
			test(t, schema, codec, func() schemas.Record { return set.New(schema.Name) })
		})
	}
}
