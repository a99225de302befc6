package main

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/schemas"
)

// A fleet whose registry numbers schemas by itself is recorded in a way that is
// read without that registry.
func TestARecordIsReadWithoutItsRegistry(t *testing.T) {
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	f := history.NewStory("o-1").All()[0]
	f.ID = "0192f0a0-0000-7000-8000-000000000001"
	name, version, bare, err := codec.Encode(f.Body)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := avro.Frame(7_000_001, bare)
	if _, err := codec.DecodeRecord(f.Headers(), []byte(f.Key), elsewhere); err == nil {
		t.Fatal("a record with another registry's number is read as it is: nothing is tested")
	}
	got, err := codec.DecodeRecord(f.Headers(), []byte(f.Key), renumbered(codec, f.Headers(), elsewhere))
	if err != nil || got.Type != name || got.SchemaVersion != version || got.Body == nil {
		t.Errorf("%s version %d is read as %v, %v", name, version, got, err)
	}
	for what, value := range map[string][]byte{"no frame": []byte("x"), "no value": nil} {
		if got := renumbered(codec, f.Headers(), value); string(got) != string(value) {
			t.Errorf("%s becomes %q", what, got)
		}
	}
	if got := renumbered(codec, []event.Header{}, elsewhere); string(got) != string(elsewhere) {
		t.Errorf("a record that is not ours becomes %q", got)
	}
}
