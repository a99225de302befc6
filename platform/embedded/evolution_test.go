package embedded_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/schemas"
)

// catalogue is what the fleet seeds its registry with.
func catalogue() []embedded.Schema {
	var all []embedded.Schema
	for _, schema := range schemas.Catalog().All() {
		for _, subject := range schema.Subjects() {
			all = append(all, embedded.Schema{ID: schema.ID, Subject: subject, Version: schema.Version, Schema: schema.Text})
		}
	}
	return all
}

// The released events as they are: each change that would break a reader of
// any version, not only of the last one, gets a 409 over HTTP and leaves no
// trace; a change that FULL_TRANSITIVE allows is taken.
func TestReleasedEventsOnlyChangeCompatibly(t *testing.T) {
	t.Parallel()
	_, client := startRegistry(t, embedded.RegistryConfig{Schemas: catalogue()})
	set := schemas.Catalog()
	for _, c := range []struct {
		name, event, old, new string
		version               int // whose reader it breaks first; 0: taken
	}{
		{"a field without a default goes", "PaymentDeclined", `"name": "reason_code"`, `"name": "code", "default": ""`, 1},
		{"a field without a default comes", "OrderHeld", `{"name": "note"`, `{"name": "until", "type": "long", "doc": "x"}, {"name": "note"`, 1},
		{"a required date becomes nullable", "ShipmentDelayed", `{"name": "expected_at", "type": {"type": "long", "logicalType": "timestamp-micros"}`,
			`{"name": "expected_at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null`, 1},
		{"an enum gets a symbol", "OrderPlaced", `"BANK_TRANSFER"]`, `"BANK_TRANSFER", "CASH"]`, 1},
		{"what version 2 added gets another type", "PaymentDeclined", `"retryable", "type": "boolean"`, `"retryable", "type": "string"`, 2},
		{"a field with a default comes", "OrderHeld", `{"name": "note"`, `{"name": "until", "type": "long", "doc": "x", "default": 0}, {"name": "note"`, 0},
		{"what version 2 added goes again", "PaymentDeclined", `"name": "retryable"`, `"name": "retry_allowed"`, 0},
	} {
		newest, _ := set.Lookup(schemas.Key{Name: c.event, Version: set.Today(c.event)})
		text := strings.Replace(newest.Text, c.old, c.new, 1)
		if c.version == 2 {
			text = strings.Replace(text, `nobody said.", "default": false`, `nobody said.", "default": ""`, 1)
		}
		if text == newest.Text {
			t.Fatalf("%s: %s has no %s", c.name, c.event, c.old)
		}
		subject := newest.Subjects()[0]
		_, err := client.CreateSchema(t.Context(), subject, sr.Schema{Schema: text})
		versions, listErr := client.SubjectVersions(t.Context(), subject)
		if listErr != nil {
			t.Fatal(listErr)
		}
		var refused *sr.ResponseError
		switch {
		case c.version == 0 && (err != nil || len(versions) != newest.Version+1):
			t.Errorf("%s: %v, versions %v", c.name, err, versions)
		case c.version != 0 && (!errors.As(err, &refused) || refused.StatusCode != http.StatusConflict || len(versions) != newest.Version):
			t.Errorf("%s: %v, versions %v", c.name, err, versions)
		}
	}
}
