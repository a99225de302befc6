package avro_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

func long(n int64) []byte { return binary.AppendVarint(nil, n) }

func join(parts ...[]byte) []byte {
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// allocated returns how many bytes a call allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func asError(err error, target **avro.Error) bool { return errors.As(err, target) }

func bound(size int) uint64 { return uint64(150*size) + 1<<20 }

// Five bytes that ask for a gigabyte, and their relatives, are refused before
// anything is allocated for them.
func TestForgedCountsAndLengths(t *testing.T) {
	list := newCodec(t, makeSet(t, "Made", nil, `{"name":"list","type":{"type":"array","items":"string"}}`))
	text := newCodec(t, makeSet(t, "Made", nil, `{"name":"text","type":"string"}`))
	nothing := newCodec(t, makeSet(t, "Made", nil, `{"name":"list","type":{"type":"array","items":"null"}}`))
	lines := newCodec(t, makeSet(t, "Made", nil, `{"name":"list","type":{"type":"array","items":{"type":"array","items":"null"}}}`))
	for _, c := range []struct {
		name  string
		codec *avro.Codec
		bare  []byte
	}{
		{"a gigabyte of items", list, long(1 << 30)},
		{"a gigabyte of items, negative", list, join(long(-1<<30), long(1))},
		{"the lowest count", list, join(long(-1<<63), long(1))},
		{"the highest count", list, long(1<<63 - 1)},
		{"one item too many", list, join(long(1001), make([]byte, 1001), long(0))},
		{"too many in two blocks", list, join(long(1000), make([]byte, 1000), long(1), make([]byte, 1), long(0))},
		{"items that need no bytes", nothing, join(long(1001), long(0))},
		{"many blocks of items that need no bytes", nothing, join(long(600), long(600), long(0))},
		{"lists of lists that need no bytes", lines, join(long(1000), long(1<<30))},
		{"block size is too small", list, join(long(-1), long(1), long(1), []byte("x"), long(0))},
		{"block size is too large", list, join(long(-1), long(3), long(1), []byte("x"), long(0))},
		{"block size is negative", list, join(long(-1), long(-2), long(0), long(0))},
		{"block size is beyond the end", list, join(long(-1), long(1<<40), long(0), long(0))},
		{"no end", list, join(long(1), long(0))},
		{"a gigabyte of text", text, long(1 << 30)},
		{"text of negative length", text, long(-1)},
		{"text one byte too long", text, join(long(3), []byte("ab"))},
		{"text of more than MaxString that is there", text, join(long(avro.MaxString+1), make([]byte, avro.MaxString+1))},
		{"a number that never ends", text, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}},
		{"a number of 65 bits", text, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}},
		{"bytes after the end", text, join(long(1), []byte("ab"))},
		{"nothing", text, nil},
	} {
		var err error
		if got := allocated(func() { _, err = c.codec.Decode("Made", 1, c.bare) }); got > bound(len(c.bare)) {
			t.Errorf("%s: allocated %d bytes", c.name, got)
		}
		var poison *avro.Error
		if !errors.As(err, &poison) || poison.Class != avro.Undecodable {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if _, err := text.Decode("Made", 1, join(long(avro.MaxString), make([]byte, avro.MaxString))); err != nil {
		t.Error("the longest text:", err)
	}
	if _, err := list.Decode("Made", 1, join(long(-2), long(3), long(1), []byte("a"), long(0), long(1), long(0), long(0))); err != nil {
		t.Error("honest blocks of both kinds:", err)
	}
}

// Values that do not exist in the schema are refused by the same walk.
func TestForgedValues(t *testing.T) {
	for fields, values := range map[string][][]byte{
		`{"name":"x","type":"boolean"}`:                                                              {{2}, {}},
		`{"name":"x","type":"int"}`:                                                                  {long(1 << 31), long(-1<<31 - 1)},
		`{"name":"x","type":"long"}`:                                                                 {{0x80}, join(bytes.Repeat([]byte{0xff}, 9), []byte{2}), join(bytes.Repeat([]byte{0x80}, 10), []byte{0})},
		`{"name":"x","type":{"type":"enum","name":"E","symbols":["A","B"]}}`:                         {long(2), long(-1), long(1 << 40)},
		`{"name":"x","type":["null","string"]}`:                                                      {long(2), long(-1), {0x80}},
		`{"name":"x","type":{"type":"fixed","name":"F","size":4}}`:                                   {{1, 2, 3}},
		`{"name":"x","type":{"type":"record","name":"R","fields":[` + `{"name":"y","type":"int"}]}}`: {{}},
	} {
		codec := newCodec(t, makeSet(t, "Made", nil, fields))
		for _, bare := range values {
			if _, err := codec.Decode("Made", 1, bare); err == nil {
				t.Errorf("%s: %x was read", fields, bare)
			}
		}
	}
}

// The costliest honest record, as many minimal lines as fit, stays in bounds.
func TestAllocationIsBounded(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	fact := placed()
	line := fact.Lines[0]
	line.LineID, line.SKU, line.Warehouse = "", "", ""
	for len(fact.Lines) < avro.MaxItems {
		fact.Lines = append(fact.Lines, line)
	}
	name, version, bare, err := codec.Encode(fact)
	if err != nil {
		t.Fatal(err)
	}
	if got := allocated(func() { _, err = codec.Decode(name, version, bare) }); err != nil || got > bound(len(bare)) {
		t.Errorf("%d bytes allocated for %d, %v", got, len(bare), err)
	}
}

func TestSchemasThatCannotBeWalkedAreRefused(t *testing.T) {
	for _, fields := range []string{
		`{"name":"x","type":"double"}`,
		`{"name":"x","type":{"type":"map","values":"string"}}`,
		`{"name":"x","type":["null",{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}]}`,
	} {
		if _, err := avro.NewCodec(makeSet(t, "Made", nil, fields)); err == nil {
			t.Errorf("%s: accepted", fields)
		}
	}
}

// Whatever the bytes, reading them is cheap and never panics; what is read is
// written again and means the same.
func FuzzDecode(f *testing.F) {
	set := schemas.Catalog()
	codec := newCodec(f, set)
	ids := map[schemas.Key]int{}
	for i, schema := range set.All() {
		ids[schema.Key] = i
	}
	for _, c := range goldens(f) {
		f.Add(uint8(ids[c.Key]), c.Bare)
	}
	f.Fuzz(func(t *testing.T, which uint8, bare []byte) {
		schema := set.All()[int(which)%len(set.All())]
		var body event.Body
		var err error
		if got := allocated(func() { body, err = codec.Decode(schema.Name, schema.Version, bare) }); got > bound(len(bare)) {
			t.Fatalf("%d bytes allocated for %d", got, len(bare))
		}
		var poison *avro.Error
		if err != nil {
			if !errors.As(err, &poison) {
				t.Fatalf("not classified: %v", err)
			}
			return
		}
		name, version, again, err := codec.Encode(body)
		if err != nil {
			t.Fatalf("read and not writable: %v", err)
		}
		back, err := codec.Decode(name, version, again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(body, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzUnframe(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 7, 1})
	f.Add([]byte{1, 0, 0, 0, 7})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, value []byte) {
		id, bare, err := avro.Unframe(value)
		if err != nil {
			return
		}
		if diff := cmp.Diff(value, avro.Frame(id, bare)); diff != "" {
			t.Fatal(diff)
		}
	})
}
