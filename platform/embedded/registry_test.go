package embedded_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tidemark-dev/tidemark/platform/embedded"
)

const (
	subject    = "tidemark.order.events-tidemark.OrderHeld"
	heldV1     = `{"type":"record","name":"OrderHeld","namespace":"tidemark","fields":[{"name":"order_id","type":"string"}]}`
	heldV2     = `{"type":"record","name":"OrderHeld","namespace":"tidemark","fields":[{"name":"order_id","type":"string"},{"name":"note","type":"string","default":""}]}`
	heldNoDflt = `{"type":"record","name":"OrderHeld","namespace":"tidemark","fields":[{"name":"order_id","type":"string"},{"name":"note","type":"string"}]}`
	heldRetype = `{"type":"record","name":"OrderHeld","namespace":"tidemark","fields":[{"name":"order_id","type":"long"}]}`
	control    = `{"type":"record","name":"ControlRecord","namespace":"tidemark","fields":[]}`
)

func startRegistry(t *testing.T, config embedded.RegistryConfig) (*embedded.Registry, *sr.Client) {
	t.Helper()
	registry, err := embedded.StartRegistry(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeRegistry(t, registry) })
	client, err := sr.NewClient(sr.URLs(registry.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return registry, client
}

func closeRegistry(t *testing.T, registry *embedded.Registry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := registry.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestRegistryJudgesSchemas(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		schema string
		status int // 0: taken
	}{
		{"the same again", heldV1, 0},
		{"a new field with a default", heldV2, 0},
		{"a new field without a default", heldNoDflt, http.StatusConflict},
		{"another type", heldRetype, http.StatusConflict},
		{"garbage", `{"type":"recrod"}`, http.StatusUnprocessableEntity},
		{"no JSON", `record OrderHeld`, http.StatusUnprocessableEntity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, client := startRegistry(t, embedded.RegistryConfig{
				Schemas: []embedded.Schema{{ID: 7, Subject: subject, Version: 1, Schema: heldV1}},
			})
			_, err := client.CreateSchema(t.Context(), subject, sr.Schema{Schema: tt.schema})
			var refused *sr.ResponseError
			switch {
			case tt.status == 0 && err != nil:
				t.Errorf("refused: %v", err)
			case tt.status != 0 && (!errors.As(err, &refused) || refused.StatusCode != tt.status):
				t.Errorf("error = %v, want status %d", err, tt.status)
			}
			if tt.status == http.StatusUnprocessableEntity {
				return
			}
			verdict, err := client.CheckCompatibility(t.Context(), subject, 1, sr.Schema{Schema: tt.schema})
			if err != nil || verdict.Is != (tt.status == 0) {
				t.Errorf("CheckCompatibility() = %+v, %v", verdict, err)
			}
		})
	}
}

func TestRegistryComparesWithAllVersions(t *testing.T) {
	t.Parallel()
	// Version 2 drops the field, so version 3 may bring it back with another
	// type as far as version 2 knows; version 1 knows better.
	const (
		with    = `{"type":"record","name":"R","fields":[{"name":"a","type":"string","default":""}]}`
		without = `{"type":"record","name":"R","fields":[]}`
		back    = `{"type":"record","name":"R","fields":[{"name":"a","type":"long","default":0}]}`
	)
	registry, _ := startRegistry(t, embedded.RegistryConfig{})
	for _, schema := range []string{with, without} {
		if _, err := registry.Register("s", schema); err != nil {
			t.Fatal(err)
		}
	}
	_, err := registry.Register("s", back)
	var incompatible *embedded.IncompatibleError
	if !errors.As(err, &incompatible) || incompatible.Version != 1 {
		t.Errorf("Register() = %v, want incompatible with version 1", err)
	}
}

func TestRegistryKeepsTheCatalogueIDs(t *testing.T) {
	t.Parallel()
	_, client := startRegistry(t, embedded.RegistryConfig{Schemas: []embedded.Schema{
		{ID: 1, Subject: subject, Version: 1, Schema: heldV1},
		{ID: 9, Subject: subject, Version: 2, Schema: heldV2},
		{ID: 4, Subject: "tidemark.order.events-tidemark.ControlRecord", Version: 1, Schema: control},
		{ID: 4, Subject: "tidemark.control-tidemark.ControlRecord", Version: 1, Schema: control},
	}})
	for id, want := range map[int]string{1: heldV1, 9: heldV2, 4: control} {
		got, err := client.SchemaByID(t.Context(), id)
		if err != nil || got.Schema != want {
			t.Errorf("SchemaByID(%d) = %q, %v", id, got.Schema, err)
		}
	}
	found, err := client.LookupSchema(t.Context(), subject, sr.Schema{Schema: heldV2})
	if err != nil || found.ID != 9 || found.Version != 2 {
		t.Errorf("LookupSchema() = %+v, %v", found, err)
	}
	created, err := client.CreateSchema(t.Context(), "another", sr.Schema{Schema: `"string"`})
	if err != nil || created.ID < embedded.FirstRuntimeID {
		t.Errorf("a client's schema got id %d, %v; want one above the catalogue's", created.ID, err)
	}
}

func TestRegistryRemembersWhatClientsRegistered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	catalogue := []embedded.Schema{{ID: 1, Subject: subject, Version: 1, Schema: heldV1}}
	first, _ := startRegistry(t, embedded.RegistryConfig{Dir: dir, Schemas: catalogue})
	id, err := first.Register(subject, heldV2)
	if err != nil {
		t.Fatal(err)
	}
	closeRegistry(t, first)

	// A kill in the middle of a write leaves half a line.
	file, err := os.OpenFile(filepath.Join(dir, "schemas.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"id":100002,"subj`); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		again, client := startRegistry(t, embedded.RegistryConfig{Dir: dir, Schemas: catalogue})
		got, err := client.SchemaByVersion(t.Context(), subject, 2)
		if err != nil || got.ID != id || got.Schema.Schema != heldV2 {
			t.Errorf("after a restart version 2 is %+v, %v", got, err)
		}
		if _, err := again.Register("tidemark.x", control); err != nil {
			t.Error(err)
		}
		closeRegistry(t, again)
	}
}

func TestRegistryRefusesAContradictingCatalogue(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		schemas []embedded.Schema
		want    string
	}{
		{"one id, two schemas", []embedded.Schema{
			{ID: 1, Subject: "a", Version: 1, Schema: heldV1}, {ID: 1, Subject: "b", Version: 1, Schema: control}}, "another schema"},
		{"one schema, two ids", []embedded.Schema{
			{ID: 1, Subject: "a", Version: 1, Schema: heldV1}, {ID: 2, Subject: "b", Version: 1, Schema: heldV1}}, "has id 1 already"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			registry, err := embedded.StartRegistry(embedded.RegistryConfig{Schemas: tt.schemas})
			if err == nil {
				closeRegistry(t, registry)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("StartRegistry() = %v, want %q", err, tt.want)
			}
		})
	}
}
