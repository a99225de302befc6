package avro_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// The seeds are the released bytes; inputs that once told something are kept in
// testdata/fuzz. Each target runs as a plain test over both; to look for more:
//
//	go test ./avro -run '^$' -fuzz '^FuzzRecord$' -fuzztime 60s

// Whatever lies in Kafka, as a whole: three headers of any content beside good
// ones, any key, any value. It is read, or refused by class and with whatever
// identity is readable; what is read, is under a valid envelope.
func FuzzRecord(f *testing.F) {
	set := schemas.Catalog()
	codec := newCodec(f, set)
	for i, schema := range set.All() {
		for _, c := range goldens(f) {
			if c.Key == schema.Key {
				f.Add(uint8(i), "ce_id", []byte("e-1"), "traceparent", []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), []byte("o-1"), avro.Frame(schema.ID, c.Bare))
			}
		}
	}
	f.Add(uint8(6), "", []byte(nil), "ce_type", []byte("tidemark.OrderPlaced"), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, which uint8, name1 string, value1 []byte, name2 string, value2, key, value []byte) {
		schema := set.All()[int(which)%len(set.All())]
		var headers []event.Header
		size := len(key) + len(value) + len(name1) + len(name2) + len(value1) + len(value2)
		for _, h := range envelopeOf(schema).Headers() {
			if h.Key != name1 && h.Key != name2 {
				headers = append(headers, h)
				size += len(h.Key) + len(h.Value)
			}
		}
		headers = append(headers, event.Header{Key: name1, Value: value1}, event.Header{Key: name2, Value: value2})
		var fact event.Fact
		var err error
		if got := allocated(func() { fact, err = codec.DecodeRecord(headers, key, value) }); got > bound(size) {
			t.Fatalf("%d bytes allocated for %d", got, size)
		}
		var poison *avro.Error
		switch {
		case err != nil && (!asError(err, &poison) || fact.Body != nil):
			t.Fatalf("refused without a class, or half: %v", err)
		case err == nil && (fact.Body == nil || fact.Validate() != nil || fact.Key != string(key)):
			t.Fatalf("read under an envelope that is none: %+v", fact)
		}
	})
}

// Control records decide what a reader may call proven: any value under good
// headers, and any header.
func FuzzControl(f *testing.F) {
	codec := newCodec(f, schemas.Catalog())
	headers, key, value, err := codec.EncodeControl(totals())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("ce_id", []byte("x"), key, value)
	for _, c := range goldens(f) {
		if c.Name == "ControlRecord" {
			f.Add("ce_source", []byte("tidemark/order"), key, avro.Frame(1, c.Bare))
		}
	}
	f.Fuzz(func(t *testing.T, name string, content, key, value []byte) {
		size := len(key) + len(value) + len(name) + len(content)
		given := []event.Header{{Key: name, Value: content}}
		for _, h := range headers {
			if h.Key != name {
				given = append(given, h)
				size += len(h.Key) + len(h.Value)
			}
		}
		var record *control.ControlRecord
		var err error
		if got := allocated(func() { record, err = codec.DecodeControl(given, key, value) }); got > bound(size) {
			t.Fatalf("%d bytes allocated for %d", got, size)
		}
		var poison *avro.Error
		if err != nil {
			if !asError(err, &poison) || record != nil {
				t.Fatalf("refused without a class, or half: %v", err)
			}
			return
		}
		if record.Source != string(key) || !record.Kind.Valid() || record.AsOf.IsZero() {
			t.Fatalf("read: %+v", record)
		}
		_, _, again, err := codec.EncodeControl(record)
		if err != nil {
			t.Fatalf("read and not writable: %v", err)
		}
		back, err := codec.DecodeControl(given, key, again)
		if diff := cmp.Diff(record, back); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}
