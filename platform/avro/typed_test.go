package avro_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/schemas"
)

// blocks writes a list in many blocks, some with their sizes, as other writers do.
func blocks(items [][]byte, r *rand.Rand) []byte {
	var all []byte
	for len(items) > 0 {
		n := 1 + r.IntN(len(items))
		block := join(items[:n]...)
		if r.IntN(2) == 0 {
			all = append(binary.AppendVarint(binary.AppendVarint(all, int64(-n)), int64(len(block))), block...)
		} else {
			all = append(binary.AppendVarint(all, int64(n)), block...)
		}
		items = items[n:]
	}
	return append(all, 0)
}

// Bytes of today's versions are read without goavro. Whatever the bytes, honest or
// spoiled, what comes of them is what goavro and the conversion make of them.
func TestTodaysBytesReadAsGoavroReadsThem(t *testing.T) {
	set := schemas.Catalog()
	codec := newCodec(t, set)
	const seed = 20261122
	r := rand.New(rand.NewPCG(seed, 2))
	read, refused := 0, 0
	same := func(schema schemas.Schema, bare []byte) {
		t.Helper()
		got, err := codec.Decode(schema.Name, schema.Version, bare)
		want, wanted := codec.ViaNative(schema.Key, bare)
		if (err == nil) != (wanted == nil) {
			t.Fatalf("%s: %x: error %v, goavro's is %v (seed %d)", schema.Key, bare, err, wanted, seed)
		}
		if err != nil {
			refused++
			return
		}
		read++
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: %x: (-goavro +ours)\n%s", schema.Key, bare, diff)
		}
	}
	rounds := 200
	if testing.Short() {
		rounds = 50
	}
	for _, schema := range set.All() {
		seeds := [][]byte{dense(schema.Root, true, 3), dense(schema.Root, false, 2), dense(schema.Root, true, avro.MaxItems), dense(schema.Root, true, 0)}
		for _, c := range goldens(t) {
			if c.Key == schema.Key {
				seeds = append(seeds, c.Bare)
			}
		}
		for i, bare := range seeds {
			same(schema, bare)
			for range rounds {
				if i == 2 && r.IntN(20) > 0 {
					continue // it is large
				}
				same(schema, mutate(r, bare))
			}
		}
	}
	if read < 300 || refused < 300 {
		t.Errorf("%d records were read and %d refused: this proves little", read, refused)
	}
	t.Logf("%d records were read, %d refused", read, refused)
}

// Lists come in blocks, of any number and with or without their sizes.
func TestListsInBlocks(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	r := rand.New(rand.NewPCG(7, 7))
	for _, name := range []string{"OrderPlaced", "ControlRecord"} {
		schema, _ := schemas.Catalog().Lookup(schemas.Key{Name: name, Version: 1})
		for range 50 {
			var bare []byte
			for i := range schema.Root.Fields {
				node := &schema.Root.Fields[i].Type
				if node.Type != "array" {
					bare = append(bare, dense(node, true, 1)...)
					continue
				}
				var items [][]byte
				for range r.IntN(6) {
					items = append(items, dense(node.Items, true, 1))
				}
				bare = append(bare, blocks(items, r)...)
			}
			want, err := codec.ViaNative(schema.Key, bare)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Decode(schema.Name, schema.Version, bare)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s: (-goavro +ours)\n%s", name, diff)
			}
			if !schemas.FromBytes(schemas.Catalog().New(name), bare) {
				t.Fatalf("%s: %x needs goavro", name, bare)
			}
		}
	}
}

// Times that no fact can have are refused.
func TestTimesOutsideTheCalendar(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	schema, _ := schemas.Catalog().Lookup(schemas.Key{Name: "ControlRecord", Version: 1})
	for micros, good := range map[int64]bool{
		-62135596800000000: false, -62135596799999999: true, 253402300799999999: true, 253402300800000000: false, -1: true, 1<<63 - 1: false, -1 << 63: false,
	} {
		var bare []byte
		for i := range schema.Root.Fields {
			node := &schema.Root.Fields[i].Type
			if node.LogicalType == "timestamp-micros" {
				bare = append(bare, long(micros)...)
				continue
			}
			bare = append(bare, dense(node, false, 0)...)
		}
		got, err := codec.Decode(schema.Name, 1, bare)
		want, wanted := codec.ViaNative(schema.Key, bare)
		if (err == nil) != good || (wanted == nil) != good {
			t.Errorf("%d: %v, goavro: %v", micros, err, wanted)
		}
		if diff := cmp.Diff(want, got); good && diff != "" {
			t.Errorf("%d: (-goavro +ours)\n%s", micros, diff)
		}
	}
}

// Today's bytes are read the short way: with nothing to fall back on.
func TestGoldenBytesNeedNoGoavro(t *testing.T) {
	set := schemas.Catalog()
	for _, c := range goldens(t) {
		if c.Version == set.Today(c.Name) && !schemas.FromBytes(set.New(c.Name), c.Bare) {
			t.Errorf("%s, %s: cannot be read", c.Key, c.Case)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	codec := newCodec(b, schemas.Catalog())
	headers, key, value := record(b, codec)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.DecodeRecord(headers, key, value); err != nil {
			b.Fatal(err)
		}
	}
}
