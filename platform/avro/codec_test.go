package avro_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// Released bytes become today's types; what is today's version is written as
// the same bytes again. Many goroutines share one codec.
func TestReleasedBytesAreReadable(t *testing.T) {
	set := schemas.Catalog()
	codec := newCodec(t, set)
	cases := goldens(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, c := range cases {
				body, err := codec.Decode(c.Name, c.Version, c.Bare)
				if err != nil {
					t.Errorf("%s %s: %v", c.Key, c.Case, err)
					continue
				}
				if c.Version != set.Today(c.Name) {
					continue
				}
				name, version, bare, err := codec.Encode(body)
				if err != nil || name != c.Name || version != c.Version || !bytes.Equal(bare, c.Bare) {
					t.Errorf("%s %s: written as %s/%d %x, %v", c.Key, c.Case, name, version, bare, err)
				}
			}
		})
	}
	group.Wait()
}

// Bytes of version 1 mean in today's type what their writers meant: what was one
// text has its parts, and what nobody said has the default.
func TestReleasedFirstVersionsAreLifted(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	for _, c := range goldens(t) {
		if c.Version == schemas.Catalog().Today(c.Name) {
			continue
		}
		body, err := codec.Decode(c.Name, c.Version, c.Bare)
		if err != nil {
			t.Fatalf("%s %s: %v", c.Key, c.Case, err)
		}
		switch f := body.(type) {
		case *facts.ShipmentScanned:
			if f.Facility != f.Location || f.Area != "" || f.Country != "" || (c.Case == "full") != (f.Location != "") {
				t.Errorf("%s %s: %+v", c.Key, c.Case, f)
			}
		case *facts.PaymentDeclined:
			if f.Retryable || f.Amount.Currency == "" {
				t.Errorf("%s %s: %+v", c.Key, c.Case, f)
			}
		default:
			t.Errorf("%s: say here what its old bytes mean today", c.Key)
		}
	}
	// "depot, Campinas, SP" in a text of version 1: its length is its first byte.
	for _, c := range goldens(t) {
		if c.Key == (schemas.Key{Name: "ShipmentScanned", Version: 1}) && c.Case == "least" {
			text := "depot, Campinas, SP"
			bare := append(append(append([]byte{}, c.Bare[:len(c.Bare)-2]...), byte(2*len(text))), text...)
			body, err := codec.Decode(c.Name, c.Version, append(bare, 0))
			if f, ok := body.(*facts.ShipmentScanned); err != nil || !ok || f.Location != text || f.Facility != "depot" || f.Area != "Campinas, SP" {
				t.Errorf("%+v, %v", body, err)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	codec := newCodec(t, schemas.Catalog())
	big := placed()
	big.Channel = strings.Repeat("x", avro.MaxRecord)
	if _, _, _, err := codec.Encode(big); !errors.Is(err, avro.ErrTooLarge) {
		t.Error("too large:", err)
	}
	long := placed()
	long.Channel = strings.Repeat("x", avro.MaxString+1)
	if _, _, _, err := codec.Encode(long); !errors.Is(err, avro.ErrTooLarge) {
		t.Error("too long a text:", err)
	}
	long.Channel = long.Channel[1:]
	if name, version, bare, err := codec.Encode(long); err != nil {
		t.Error("the longest text:", err)
	} else if _, err := codec.Decode(name, version, bare); err != nil {
		t.Error("the longest text:", err)
	}
	wrong := placed()
	wrong.Total.Currency = "secret"
	if _, _, _, err := codec.Encode(wrong); err == nil || !strings.Contains(err.Error(), "OrderPlaced.total.currency") || strings.Contains(err.Error(), "secret") {
		t.Error("currency:", err)
	}
	if _, _, _, err := codec.Encode(&made{name: "OrderPlaced", version: 2}); err == nil {
		t.Error("another version was written")
	}
	if _, _, _, err := codec.Encode(&made{name: "OrderPlaced", version: 1, Value: map[string]any{"order_id": "secret"}}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error("half a record:", err)
	}
	if _, _, _, err := codec.Encode(stranger{}); err == nil {
		t.Error("a stranger was written")
	}
}

type stranger struct{}

func (stranger) FactName() string { return "OrderPlaced" }

const money3 = `{"type":"record","name":"Money","namespace":"tidemark.types","fields":[{"name":"amount","type":"long"},` +
	`{"name":"currency","type":"string"},{"name":"scale","type":"int","default":2}]}`

// Old bytes pass through every step to today's form: a hand-written step, new
// fields with defaults of every kind, fields that are gone, changed records in
// lists and unions.
func TestOldVersionsAreLifted(t *testing.T) {
	const (
		v1 = `{"name":"old","type":"string","default":""},` +
			`{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"n","type":"int"}]}}},` +
			`{"name":"price","type":["null",{"type":"record","name":"Money","namespace":"tidemark.types","fields":[{"name":"amount","type":"long"},{"name":"currency","type":"string"}]}]},` +
			`{"name":"kept","type":["null","string"],"default":null}`
		v2 = `{"name":"old","type":"string","default":""},{"name":"new","type":"string","default":"?"},` +
			`{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"n","type":"int"},{"name":"note","type":"string","default":"none"}]}}},` +
			`{"name":"price","type":["null",` + money3 + `]},` +
			`{"name":"kept","type":["null","string"],"default":null}`
		v3 = `{"name":"new","type":"string","default":"?"},` +
			`{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"n","type":"int"},{"name":"note","type":"string","default":"none"}]}}},` +
			`{"name":"price","type":["null",` + money3 + `]},` +
			`{"name":"kept","type":["null","string"],"default":null},` +
			`{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"},"default":1000001},` +
			`{"name":"fee","type":"tidemark.types.Money","default":{"amount":5,"currency":"EUR"}},` +
			`{"name":"tags","type":{"type":"array","items":"string"},"default":["a"]},` +
			`{"name":"gone","type":["null","int"],"default":null}`
	)
	upcasters := map[schemas.Key]schemas.Upcaster{
		{Name: "Made", Version: 1}: func(event map[string]any) error {
			if event["old"] == "broken" {
				return errors.New("cannot be lifted")
			}
			event["new"] = event["old"].(string) + "!"
			return nil
		},
	}
	write := newCodec(t, makeSet(t, "Made", nil, v1))
	_, _, bare, err := write.Encode(&made{name: "Made", version: 1, Value: map[string]any{
		"old": "word", "lines": []any{map[string]any{"n": int32(1)}}, "kept": map[string]any{"string": "k"},
		"price": map[string]any{"tidemark.types.Money": map[string]any{"amount": int64(7), "currency": "BRL"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	read := newCodec(t, makeSet(t, "Made", upcasters, v1, v2, v3))
	body, err := read.Decode("Made", 1, bare)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"new": "word!", "lines": []any{map[string]any{"n": int32(1), "note": "none"}}, "kept": map[string]any{"string": "k"},
		"price": map[string]any{"tidemark.types.Money": map[string]any{"amount": int64(7), "currency": "BRL", "scale": int32(2)}},
		"at":    time.UnixMicro(1000001).UTC(), "tags": []any{"a"}, "gone": nil,
		"fee": map[string]any{"amount": int64(5), "currency": "EUR", "scale": int32(2)},
	}
	if diff := cmp.Diff(want, body.(*made).Value); diff != "" {
		t.Error(diff)
	}
	_, _, bare, err = write.Encode(&made{name: "Made", version: 1, Value: map[string]any{"old": "broken", "lines": []any{}, "price": nil, "kept": nil}})
	if err != nil {
		t.Fatal(err)
	}
	var poison *avro.Error
	if _, err := read.Decode("Made", 1, bare); !errors.As(err, &poison) || poison.Class != avro.Undecodable {
		t.Error("a step that fails:", err)
	}
}

// Fields without a default cannot be made up; the event is named, not guessed.
func TestNewFieldWithoutDefaultIsRefused(t *testing.T) {
	const a = `{"name":"a","type":"string"}`
	_, _, bare, err := newCodec(t, makeSet(t, "Made", nil, a)).Encode(&made{name: "Made", version: 1, Value: map[string]any{"a": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = newCodec(t, makeSet(t, "Made", nil, a, a+`,{"name":"b","type":"string"}`)).Decode("Made", 1, bare)
	if err == nil || !strings.Contains(err.Error(), "field b") {
		t.Error(err)
	}
}

func BenchmarkOrderPlaced(b *testing.B) {
	codec := newCodec(b, schemas.Catalog())
	fact := placed()
	for i := 2; i <= 3; i++ {
		line := fact.Lines[0]
		line.LineID = fmt.Sprint(i)
		fact.Lines = append(fact.Lines, line)
	}
	name, version, bare, err := codec.Encode(fact)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			_, _, _, _ = codec.Encode(fact)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			_, _ = codec.Decode(name, version, bare)
		}
	})
}

var _ schemas.Record = (*facts.OrderPlaced)(nil)
