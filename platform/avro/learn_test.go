package avro_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// firstRelease is the catalogue as a program of the first release has it: the
// first 23 lines of ids.lock, and types of what those say. The types of
// PaymentDeclined and ShipmentScanned had no more fields than version 1 has.
func firstRelease(t testing.TB) *schemas.Set {
	t.Helper()
	files, today := fstest.MapFS{}, schemas.Catalog()
	var lock []string
	names := map[string]bool{}
	for _, schema := range today.All()[:23] {
		files["avro/"+strings.Replace(schema.Key.String(), "/", "/v", 1)+".avsc"] = &fstest.MapFile{Data: []byte(schema.Text)}
		names[schema.Name] = true
		lock = append(lock, strings.Join([]string{strconv.Itoa(schema.ID), schema.Name, strconv.Itoa(schema.Version), "x"}, " "))
	}
	files["ids.lock"] = &fstest.MapFile{Data: []byte(strings.Join(lock, "\n") + "\n")}
	set, err := schemas.NewSet(files, func(name string) schemas.Record {
		switch {
		case name == "PaymentDeclined" || name == "ShipmentScanned":
			return &made{name: name, version: 1}
		case names[name]:
			return today.New(name)
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// todays is a registry in which everything that is released today is registered.
func todays(t *testing.T) *srfake.Registry {
	t.Helper()
	fake := fakeRegistry(t)
	if _, err := client(t, fake.URL(), avro.LockNumbering).Register(t.Context(), schemas.Catalog()); err != nil {
		t.Fatal(err)
	}
	return fake
}

// stated returns a fact as today's writer puts it on Kafka.
func stated(t testing.TB, codec *avro.Codec, source string, body event.Body) (headers []event.Header, key, value []byte) {
	t.Helper()
	name, version, bare, err := codec.Encode(body)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := codec.ID(name, version)
	e := envelope()
	e.Source, e.Type, e.SchemaVersion, e.Aggregate.Type = source, name, version, source
	return e.Headers(), []byte(e.Key), avro.Frame(id, bare)
}

func scanned() *facts.ShipmentScanned {
	return &facts.ShipmentScanned{OrderID: "o-1", CustomerID: "c-1", Actor: "carrier", ShipmentID: "s-1",
		Location: "CD 4, Campinas, BR", Description: "sorted", Facility: "CD 4", Area: "Campinas", Country: "BR"}
}

func declined() *facts.PaymentDeclined {
	return &facts.PaymentDeclined{OrderID: "o-1", CustomerID: "c-1", Actor: "provider", PaymentID: "p-1", Method: facts.PaymentMethodCard,
		Amount: money(450), ReasonCode: "INSUFFICIENT_FUNDS", Message: "later, maybe", Retryable: true}
}

// New producer, old consumer: what is written in version 2 is read as version 1,
// with all that version 1 says; a fact of a new name is a fact of which nothing
// is known but its identity.
func TestAnOldConsumerReadsNewBytes(t *testing.T) {
	fake, today := todays(t), newCodec(t, schemas.Catalog())
	old := newCodec(t, firstRelease(t))
	old.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
	for _, c := range []struct {
		source string
		body   event.Body
		want   map[string]any
	}{
		{"shipment", scanned(), map[string]any{
			"order_id": "o-1", "customer_id": "c-1", "actor": "carrier", "time_estimated": false, "shipment_id": "s-1",
			"location": "CD 4, Campinas, BR", "description": "sorted"}},
		{"payment", declined(), map[string]any{
			"order_id": "o-1", "customer_id": "c-1", "actor": "provider", "time_estimated": false, "payment_id": "p-1", "method": "CARD",
			"amount": map[string]any{"amount": int64(450), "currency": "BRL"}, "reason_code": "INSUFFICIENT_FUNDS", "message": "later, maybe"}},
	} {
		headers, key, value := stated(t, today, c.source, c.body)
		if err := old.LearnRecord(t.Context(), headers); err != nil {
			t.Fatal(err)
		}
		fact, err := old.DecodeRecord(headers, key, value)
		if err != nil {
			t.Errorf("%s: %v", c.body.FactName(), err)
			continue
		}
		got, ok := fact.Body.(*made)
		if !ok || fact.SchemaVersion != 2 {
			t.Fatalf("%s: got a %T of version %d", c.body.FactName(), fact.Body, fact.SchemaVersion)
		}
		if diff := cmp.Diff(c.want, got.Value); diff != "" {
			t.Errorf("%s: %s", c.body.FactName(), diff)
		}
		_, version, bare, _ := today.Encode(c.body)
		if body, err := old.Decode(c.body.FactName(), version, bare); err != nil || cmp.Diff(c.want, body.(*made).Value) != "" {
			t.Errorf("%s from a journal: %v, %v", c.body.FactName(), body, err)
		}
	}
	headers, key, value := stated(t, today, "shipment", &facts.ShipmentStalled{OrderID: "o-1", CustomerID: "c-1", Reason: "customs"})
	if err := old.LearnRecord(t.Context(), headers); err != nil {
		t.Fatal(err)
	}
	fact, err := old.DecodeRecord(headers, key, value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event.Body(&avro.Unknown{Name: "ShipmentStalled", Version: 1}), fact.Body); diff != "" || fact.ID != "e-1" {
		t.Errorf("%+v: %s", fact.Envelope, diff)
	}
	// What the schema does not allow is poison, known or not.
	var poison *avro.Error
	if _, err := old.DecodeRecord(headers, key, value[:len(value)-1]); !errors.As(err, &poison) || poison.Class != avro.Undecodable {
		t.Error("half of it:", err)
	}
	if _, err := old.DecodeRecord(headers, key, avro.Frame(7, value[5:])); !errors.As(err, &poison) || poison.Class != avro.SchemaIDMismatch {
		t.Error("another id:", err)
	}
}

// Old producer, new consumer: the first release's bytes become today's types.
// An old relay beside a new service knows the ids of what the new one wrote.
func TestANewConsumerReadsOldBytes(t *testing.T) {
	fake, today, old := todays(t), newCodec(t, schemas.Catalog()), newCodec(t, firstRelease(t))
	name, version, bare, err := old.Encode(&made{name: "ShipmentScanned", version: 1, Value: map[string]any{
		"order_id": "o-1", "customer_id": "c-1", "actor": "carrier", "time_estimated": false, "shipment_id": "s-1",
		"location": "depot, Leipzig", "description": ""}})
	if err != nil || version != 1 {
		t.Fatal(version, err)
	}
	body, err := today.Decode(name, version, bare)
	want := &facts.ShipmentScanned{OrderID: "o-1", CustomerID: "c-1", Actor: "carrier", ShipmentID: "s-1", Location: "depot, Leipzig", Facility: "depot", Area: "Leipzig"}
	if diff := cmp.Diff(event.Body(want), body); err != nil || diff != "" {
		t.Error(err, diff)
	}
	old.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
	if _, known := old.ID("ShipmentScanned", 2); known {
		t.Error("known before it was learned")
	}
	if err := old.Learn(t.Context(), "shipment", "ShipmentScanned", 2); err != nil {
		t.Fatal(err)
	}
	ours, _ := today.ID("ShipmentScanned", 2)
	if theirs, known := old.ID("ShipmentScanned", 2); !known || theirs != ours {
		t.Errorf("id %d, %v, want %d", theirs, known, ours)
	}
}

// A registry that is down for a while is an error to try again, and nothing
// becomes poison meanwhile; what is known needs no registry at all.
func TestNothingIsLearnedWhileTheRegistryIsDown(t *testing.T) {
	fake, today := todays(t), newCodec(t, schemas.Catalog())
	var down atomic.Bool
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
		}
		return down.Load()
	})
	old := newCodec(t, firstRelease(t))
	old.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
	headers, key, value := stated(t, today, "payment", declined())
	known, knownKey, knownValue := record(t, today)
	down.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the client's own attempts
	defer cancel()
	if err := old.LearnRecord(ctx, headers); err == nil {
		t.Fatal("learned from a registry that is down")
	}
	if err := old.LearnRecord(t.Context(), known); err != nil {
		t.Error("a known schema:", err)
	}
	if _, err := old.DecodeRecord(known, knownKey, knownValue); err != nil {
		t.Error("a known schema:", err)
	}
	down.Store(false)
	if err := old.LearnRecord(t.Context(), headers); err != nil {
		t.Fatal(err)
	}
	down.Store(true) // what was learned stays
	if err := old.LearnRecord(t.Context(), headers); err != nil {
		t.Error(err)
	}
	if fact, err := old.DecodeRecord(headers, key, value); err != nil || fact.Body == nil {
		t.Error(fact, err)
	}
}

// Forged names cost the registry one question each half minute, or none; a no
// about one source is no answer about another.
func TestForgedSchemasAreNotAskedForAgainAndAgain(t *testing.T) {
	fake := todays(t)
	var asked []string
	fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		asked = append(asked, r.URL.Path)
		return false
	})
	codec := newCodec(t, firstRelease(t))
	codec.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
	for range 3 {
		for _, forged := range []struct {
			source, name string
			version      int
		}{
			{"order", "OrderFrozen", 1}, {"payment", "ShipmentStalled", 1}, {"order", "OrderPlaced", 9},
			{"nobody", "OrderFrozen", 1}, {"order", "../../secrets", 1}, {"order", "", 1}, {"order", "OrderPlaced", -1}, {"order", "OrderPlaced", 1 << 40},
			{"payment", "OrderPlaced", 3}, {"order", strings.Repeat("X", 70), 1},
		} {
			if err := codec.Learn(t.Context(), forged.source, forged.name, forged.version); err != nil {
				t.Error(err)
			}
		}
	}
	slices.Sort(asked)
	want := []string{
		"/subjects/tidemark.order.events-tidemark.order.OrderFrozen/versions/1",
		"/subjects/tidemark.order.events-tidemark.order.OrderPlaced/versions/9",
		"/subjects/tidemark.payment.events-tidemark.payment.ShipmentStalled/versions/1",
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
	var poison *avro.Error
	if _, err := codec.Decode("OrderFrozen", 1, nil); !errors.As(err, &poison) || poison.Class != avro.UnknownSchema {
		t.Error(err)
	}
	if err := codec.Learn(t.Context(), "shipment", "ShipmentStalled", 1); err != nil {
		t.Error(err)
	}
	if _, known := codec.ID("ShipmentStalled", 1); !known {
		t.Error("a no about payments hid a fact of shipments")
	}
	offline := newCodec(t, firstRelease(t))
	offline.LearnFrom(client(t, "", avro.LockNumbering))
	if err := offline.Learn(t.Context(), "shipment", "ShipmentStalled", 1); err != nil {
		t.Error("no registry:", err)
	}
}

// A registry that has no compatibility check may hold anything under a later
// version: it is refused by what it is, and never applied by halves.
func TestSchemasThatDoNotFitAreNotLearned(t *testing.T) {
	fake := todays(t)
	const subject = "tidemark.order.events-tidemark.order.OrderHeld"
	record := func(fields string) string {
		return `{"type":"record","name":"OrderHeld","namespace":"tidemark.order","fields":[` + fields + `]}`
	}
	for i, c := range []struct{ text, why string }{
		{record(`{"name":"order_id","type":"string"}`), "cannot be read as version 1"},
		{strings.Replace(record(``), "OrderHeld", "Another", 1), "not of tidemark.order.OrderHeld"},
		{record(`{"name":"next","type":["null","OrderHeld"],"default":null}`), "not supported"},
		{`"string"`, "not of tidemark.order.OrderHeld"},
	} {
		version := i + 2
		fake.SeedSchema(subject, version, 1000+version, sr.Schema{Schema: c.text})
		codec := newCodec(t, schemas.Catalog())
		codec.LearnFrom(client(t, fake.URL(), avro.LockNumbering))
		if err := codec.Learn(t.Context(), "order", "OrderHeld", version); err != nil {
			t.Fatal(err)
		}
		_, err := codec.Decode("OrderHeld", version, []byte{0})
		var poison *avro.Error
		if !errors.As(err, &poison) || poison.Class != avro.UnknownSchema || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}
