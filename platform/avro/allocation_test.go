package avro_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	tavro "github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

// dense writes the value of a schema that costs a decoder most for its size:
// lists as long as they may be, of items as small as they can be, everything
// optional there if present says so.
func dense(node *tavro.SchemaNode, present bool, items int) []byte {
	switch node.Type {
	case "boolean", "int", "long", "string", "enum", "bytes":
		if node.Props["format"] == "currency" {
			return join(long(3), []byte("EUR"))
		}
		return []byte{0}
	case "fixed":
		return make([]byte, node.Size)
	case "union":
		if !present {
			return long(0)
		}
		return join(long(1), dense(&node.Branches[1], present, items))
	case "array":
		bare := long(int64(items))
		for range items {
			bare = append(bare, dense(node.Items, present, 1)...)
		}
		return append(bare, 0)
	case "record":
		var bare []byte
		for i := range node.Fields {
			if node.Fields[i].Props["format"] == "currency" {
				bare = append(bare, join(long(3), []byte("EUR"))...)
				continue
			}
			bare = append(bare, dense(&node.Fields[i].Type, present, items)...)
		}
		return bare
	}
	panic("no bytes for type " + node.Type)
}

// mutate spoils bytes as a bad network, a bug or an attacker would: flips, runs
// of 0xff that make large numbers, cuts, insertions, pieces said twice.
func mutate(r *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range 1 + r.IntN(8) {
		if len(b) == 0 {
			b = append(b, byte(r.Uint32()))
		}
		at := r.IntN(len(b))
		switch r.IntN(6) {
		case 0:
			b[at] = byte(r.Uint32())
		case 1:
			b[at] ^= 1 << r.IntN(8)
		case 2:
			for i := at; i < min(len(b), at+r.IntN(11)); i++ {
				b[i] = 0xff
			}
		case 3:
			b = b[:at]
		case 4:
			b = append(b[:at:at], append(binary.AppendVarint(nil, int64(r.Uint64()>>r.IntN(64))), b[at:]...)...)
		case 5:
			b = append(b[:at:at], append(append([]byte(nil), b[at:min(len(b), at+r.IntN(40))]...), b[at:]...)...)
		}
	}
	return b
}

// envelopeOf returns an envelope that a fact of the schema can have.
func envelopeOf(schema schemas.Schema) event.Envelope {
	e := envelope()
	e.Source, e.Type, e.SchemaVersion = schema.Source, schema.Name, schema.Version
	if schema.Source == schemas.SourceControl {
		e.Source = "order"
	}
	return e
}

// Whatever the bytes are, of whatever released version, as costly as honest
// bytes can be or spoiled in any way, with headers spoiled too: reading them
// never panics, never allocates more than 150 times the record's size and a
// MiB, and what is refused is refused by its class.
func TestNoRecordAllocatesBeyondItsSize(t *testing.T) {
	set := schemas.Catalog()
	fake := todays(t)
	today, old := newCodec(t, set), newCodec(t, firstRelease(t))
	old.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
	const seed = 20261122
	r := rand.New(rand.NewPCG(seed, 1))
	worst, honest := 0.0, 0
	read := func(what string, codec *avro.Codec, headers []event.Header, key, value []byte) error {
		t.Helper()
		size := len(key) + len(value)
		for _, h := range headers {
			size += len(h.Key) + len(h.Value)
		}
		var err error
		got := allocated(func() {
			if event.IsControl(headers) {
				_, err = codec.DecodeControl(headers, key, value)
			} else {
				_, err = codec.DecodeRecord(headers, key, value)
			}
		})
		if worst = max(worst, float64(got)/float64(bound(size))); got > bound(size) {
			t.Errorf("%s: %d bytes allocated for %d (seed %d)", what, got, size, seed)
		}
		var poison *avro.Error
		if err != nil && !asError(err, &poison) {
			t.Errorf("%s: not classified: %v (seed %d)", what, err, seed)
		}
		return err
	}
	rounds := 60
	if testing.Short() {
		rounds = 5
	}
	for _, schema := range set.All() {
		headers := envelopeOf(schema).Headers()
		key := []byte("o-1")
		if schema.Name == "ControlRecord" {
			headers, key = event.Control{ID: "x", Source: "order", SchemaVersion: 1, AsOf: envelope().OccurredAt}.Headers(), []byte("order")
		}
		if err := old.LearnRecord(t.Context(), headers); err != nil {
			t.Fatal(err)
		}
		seeds := [][]byte{dense(schema.Root, false, 1000), dense(schema.Root, true, 1000), dense(schema.Root, true, 3)}
		for _, c := range goldens(t) {
			if c.Key == schema.Key {
				seeds = append(seeds, c.Bare)
			}
		}
		for i, bare := range seeds {
			for _, codec := range []*avro.Codec{today, old} {
				what := fmt.Sprintf("%s seed %d", schema.Key, i)
				if read(what, codec, headers, key, avro.Frame(schema.ID, bare)) == nil {
					honest++
				}
				for range rounds {
					value := avro.Frame(schema.ID, mutate(r, bare))
					if r.IntN(10) == 0 {
						value = mutate(r, value)
					}
					spoiled := headers
					if r.IntN(4) == 0 {
						spoiled = append([]event.Header(nil), headers...)
						h := &spoiled[r.IntN(len(spoiled))]
						h.Value = mutate(r, h.Value)
					}
					_ = read(what, codec, spoiled, key, value)
				}
			}
		}
	}
	t.Logf("the most was %.2f of what is allowed; %d honest records were read", worst, honest)
	if honest < 2*len(set.All()) {
		t.Errorf("only %d records were read at all: the others prove nothing", honest)
	}
}
