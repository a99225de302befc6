package avro_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

func TestDecodeRecord(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	fact, err := codec.DecodeRecord(record(t, codec))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event.Fact{Envelope: envelope(), Body: placed()}, fact); diff != "" {
		t.Error(diff)
	}
}

// A fact that was released reads as its void, under the identity of the fact
// and whoever's fact it was; a control record never passes for one.
func TestVoidFact(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	void := &control.FactVoided{
		OriginalName: "OrderPlaced", OriginalVersion: 1, Reason: "too large for the broker", Actor: "operator:ana",
		VoidedAt: time.Date(2026, 11, 30, 11, 0, 0, 123456000, time.UTC),
	}
	name, version, bare, err := codec.Encode(void)
	if err != nil {
		t.Fatal(err)
	}
	body, err := codec.Decode(name, version, bare)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event.Body(void), body); diff != "" {
		t.Error("as the journal serves it:", diff)
	}
	id, _ := codec.ID(name, version)
	for _, source := range []string{"order", "payment", "shipment"} {
		e := envelope()
		e.Source, e.Type, e.SchemaVersion = source, name, version
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		fact, err := codec.DecodeRecord(e.Headers(), []byte(e.Key), avro.Frame(id, bare))
		if err != nil {
			t.Errorf("%s: %v", source, err)
		}
		if diff := cmp.Diff(event.Fact{Envelope: e, Body: void}, fact); diff != "" {
			t.Errorf("%s: %s", source, diff)
		}
	}
	_, _, total, err := codec.EncodeControl(totals())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		source, name string
		value        []byte
	}{{schemas.SourceControl, name, avro.Frame(id, bare)}, {schemas.SourceControl, "ControlRecord", total}, {"order", "ControlRecord", total}} {
		e := envelope()
		e.Source, e.Type, e.SchemaVersion = c.source, c.name, 1
		var poison *avro.Error
		if _, err := codec.DecodeRecord(e.Headers(), []byte(e.Key), c.value); !errors.As(err, &poison) || poison.Class != avro.BadHeader {
			t.Errorf("%s stated by %s: %v", c.name, c.source, err)
		}
	}
}

// Every way to be unreadable has its class, and costs no more of the identity
// than it must.
func TestPoisonIsClassifiedAndNamed(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	headers, key, value := record(t, codec)
	with := func(name, v string) []event.Header {
		changed := slices.Clone(headers)
		for i := range changed {
			if changed[i].Key == name {
				changed[i].Value = []byte(v)
			}
		}
		return changed
	}
	without := func(name string) []event.Header {
		return slices.DeleteFunc(slices.Clone(headers), func(h event.Header) bool { return h.Key == name })
	}
	whole := event.Token{Aggregate: event.Aggregate{Type: "order", ID: "o-1"}, Version: 1, Epoch: "ep", EventID: "e-1"}
	for _, c := range []struct {
		name    string
		headers []event.Header
		key     []byte
		value   []byte
		class   avro.Class
		token   event.Token
	}{
		{"tombstone of ours", headers, key, nil, avro.NullValue, whole},
		{"tombstone of a stranger", nil, key, nil, avro.NullValue, event.Token{}},
		{"no headers", nil, key, value, avro.NoHeaders, event.Token{}},
		{"a stranger's headers", []event.Header{{Key: "app", Value: []byte("x")}}, key, []byte(`{"a":1}`), avro.NoHeaders, event.Token{}},
		{"a stranger's cloud event", []event.Header{{Key: "ce_id", Value: []byte("e-9")}, {Key: "ce_source", Value: []byte("/them")}}, key, value,
			avro.BadHeader, event.Token{EventID: "e-9"}},
		{"no version", without("ce_version"), key, value, avro.BadHeader, event.Token{Aggregate: whole.Aggregate, Epoch: "ep", EventID: "e-1"}},
		{"no id", without("ce_id"), key, value, avro.BadHeader, event.Token{Aggregate: whole.Aggregate, Version: 1, Epoch: "ep"}},
		{"another key", headers, []byte("o-2"), value, avro.BadHeader, whole},
		{"no key", headers, nil, value, avro.BadHeader, whole},
		{"stated by another source", with("ce_source", "tidemark/payment"), key, value, avro.BadHeader, whole},
		{"empty value", headers, key, []byte{}, avro.BadFrame, whole},
		{"half a frame", headers, key, value[:4], avro.BadFrame, whole},
		{"JSON", headers, key, []byte(`{"order_id":"o-1"}`), avro.BadFrame, whole},
		{"id out of range", headers, key, avro.Frame(-1, value[5:]), avro.BadFrame, whole},
		{"a version from the future", with("ce_dataschema", "OrderPlaced/2"), key, value, avro.UnknownSchema, whole},
		{"a fact from the future", replace(headers, "ce_type", "tidemark.OrderFrozen", "ce_dataschema", "OrderFrozen/1"), key, value, avro.UnknownSchema, whole},
		{"frame contradicts ce_dataschema", headers, key, avro.Frame(2, value[5:]), avro.SchemaIDMismatch, whole},
		{"truncated", headers, key, value[:len(value)-1], avro.Undecodable, whole},
		{"bytes after the end", headers, key, append(slices.Clone(value), 0), avro.Undecodable, whole},
		{"only a frame", headers, key, value[:5], avro.Undecodable, whole},
		{"too large", headers, key, append(slices.Clone(value), make([]byte, avro.MaxRecord)...), avro.TooLarge, whole},
		{"a currency that does not exist", headers, key, bytes.Replace(value, []byte("BRL"), []byte("brl"), 1), avro.Undecodable, whole},
	} {
		fact, err := codec.DecodeRecord(c.headers, c.key, c.value)
		var poison *avro.Error
		if !errors.As(err, &poison) || poison.Class != c.class {
			t.Errorf("%s: got %v, want class %s", c.name, err, c.class)
		}
		if fact.Body != nil {
			t.Errorf("%s: has a body", c.name)
		}
		if diff := cmp.Diff(c.token, fact.Token()); diff != "" {
			t.Errorf("%s: identity: %s", c.name, diff)
		}
	}
}

func replace(headers []event.Header, pairs ...string) []event.Header {
	changed := slices.Clone(headers)
	for i := range changed {
		for p := 0; p < len(pairs); p += 2 {
			if changed[i].Key == pairs[p] {
				changed[i].Value = []byte(pairs[p+1])
			}
		}
	}
	return changed
}

func totals() *control.ControlRecord {
	return &control.ControlRecord{
		Source: "order", Epoch: "ep", Partition: 3, Number: 17, Term: 2, Kind: control.ControlKindTotals, Count: 5,
		Hash: control.Sum(event.Sum{}.Add(envelope())), AsOf: time.Date(2026, 11, 30, 10, 15, 2, 123456000, time.UTC),
		Blocked: []string{"order/o-9"}, BlockedCount: 1, DataEndOffset: -1,
	}
}

func TestControlRecordRoundTrip(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	headers, key, value, err := codec.EncodeControl(totals())
	if err != nil {
		t.Fatal(err)
	}
	if !event.IsControl(headers) || string(key) != "order" {
		t.Errorf("key %q, headers %v", key, headers)
	}
	got, err := codec.DecodeControl(headers, key, value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(totals(), got); diff != "" {
		t.Error(diff)
	}
	if facts, _, _ := record(t, codec); event.IsControl(facts) {
		t.Error("a fact passes for a control record")
	}
}

func TestPoisonControlRecord(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	headers, key, value, err := codec.EncodeControl(totals())
	if err != nil {
		t.Fatal(err)
	}
	factHeaders, factKey, factValue := record(t, codec)
	for _, c := range []struct {
		name    string
		headers []event.Header
		key     []byte
		value   []byte
		class   avro.Class
	}{
		{"no headers", nil, key, value, avro.BadHeader},
		{"a fact", factHeaders, factKey, factValue, avro.BadHeader},
		{"null", headers, key, nil, avro.NullValue},
		{"another key", headers, []byte("payment"), value, avro.BadHeader},
		{"another source", replace(headers, "ce_source", "tidemark/payment"), []byte("payment"), value, avro.Undecodable},
		{"another schema", replace(headers, "ce_dataschema", "OrderPlaced/1"), key, value, avro.BadHeader},
		{"a later version", replace(headers, "ce_dataschema", "ControlRecord/2"), key, value, avro.UnknownSchema},
		{"id of a fact", headers, key, avro.Frame(7, value[5:]), avro.SchemaIDMismatch},
		{"truncated", headers, key, value[:len(value)-1], avro.Undecodable},
		{"no frame", headers, key, []byte("x"), avro.BadFrame},
	} {
		_, err := codec.DecodeControl(c.headers, c.key, c.value)
		var poison *avro.Error
		if !errors.As(err, &poison) || poison.Class != c.class {
			t.Errorf("%s: got %v, want class %s", c.name, err, c.class)
		}
	}
}
