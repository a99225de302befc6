package avro_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/schemas"
)

func fakeRegistry(t *testing.T) *srfake.Registry {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	return fake
}

func client(t *testing.T, url string, numbering avro.Numbering) *avro.Registry {
	t.Helper()
	registry, err := avro.NewRegistry(url, numbering)
	if err != nil {
		t.Fatal(err)
	}
	return registry
}

// Nothing registers itself: a registry without our schemas is an error that
// names them, and stays without.
func TestResolveRegistersNothing(t *testing.T) {
	fake := fakeRegistry(t)
	for _, numbering := range []avro.Numbering{avro.LockNumbering, avro.RegistryNumbering} {
		_, _, err := client(t, fake.URL(), numbering).Resolve(t.Context(), schemas.Catalog())
		if !errors.Is(err, avro.ErrNotRegistered) || !strings.Contains(err.Error(), "tidemark.order.events-tidemark.order.OrderPlaced version 1") {
			t.Errorf("%s: got %v", numbering, err)
		}
	}
	if fake.SubjectExists("tidemark.order.events-tidemark.order.OrderPlaced") {
		t.Error("a schema was registered")
	}
}

// A registry of our own, filled in the order of ids.lock, has its ids.
func TestRegisteredInOrderTheIDsAreThoseOfTheLock(t *testing.T) {
	fake := fakeRegistry(t)
	registry := client(t, fake.URL(), avro.LockNumbering)
	for range 2 { // the second time changes nothing
		if _, err := registry.Register(t.Context(), schemas.Catalog()); err != nil {
			t.Fatal(err)
		}
	}
	set, confirmed, err := registry.Resolve(t.Context(), schemas.Catalog())
	if err != nil || !confirmed {
		t.Fatal(confirmed, err)
	}
	for i, schema := range set.All() {
		if schema.ID != i+1 {
			t.Errorf("%s has id %d", schema.Key, schema.ID)
		}
	}
	if _, ok := fake.GetSchema("tidemark.control-tidemark.control.ControlRecord", 1); !ok {
		t.Error("the control record lacks a subject")
	}
}

// A registry shared with others numbers in its own way. Then its ids are
// refused, or taken over everywhere, but never mixed.
func TestRegistryWithOtherIDs(t *testing.T) {
	fake := fakeRegistry(t)
	fake.SeedSchema("somebody", 1, 100, sr.Schema{Schema: `{"type":"record","name":"Theirs","fields":[]}`, Type: sr.TypeAvro})
	own := client(t, fake.URL(), avro.RegistryNumbering)
	if _, err := own.Register(t.Context(), schemas.Catalog()); err != nil {
		t.Fatal(err)
	}
	_, _, err := client(t, fake.URL(), avro.LockNumbering).Resolve(t.Context(), schemas.Catalog())
	if !errors.Is(err, avro.ErrOtherIDs) || !strings.Contains(err.Error(), "OrderPlaced has id 107, not 7") {
		t.Errorf("lock numbering: got %v", err)
	}
	set, confirmed, err := own.Resolve(t.Context(), schemas.Catalog())
	if err != nil || !confirmed {
		t.Fatal(confirmed, err)
	}
	theirs, ours := newCodec(t, set), newCodec(t, schemas.Catalog())
	if _, err := theirs.DecodeRecord(record(t, theirs)); err != nil {
		t.Error("frame with the registry's id:", err)
	}
	var poison *avro.Error
	if _, err := theirs.DecodeRecord(record(t, ours)); !errors.As(err, &poison) || poison.Class != avro.SchemaIDMismatch {
		t.Error("frame with the lock's id:", err)
	}
}

// With the ids of ids.lock, work goes on while the registry is down; with the
// registry's own, nothing starts, because a guessed id is for ever.
func TestRegistryDown(t *testing.T) {
	fake := srfake.New()
	url := fake.URL()
	fake.Close()
	set, confirmed, err := client(t, url, avro.LockNumbering).Resolve(t.Context(), schemas.Catalog())
	if err != nil || confirmed {
		t.Fatal(confirmed, err)
	}
	codec := newCodec(t, set)
	if _, err := codec.DecodeRecord(record(t, codec)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	cancel(stop)
	if _, _, err := client(t, url, avro.RegistryNumbering).Resolve(ctx, schemas.Catalog()); err == nil {
		t.Error("went on with guessed ids")
	}
}

// A registry that is not well for a moment is asked again.
func TestRegistryRecovers(t *testing.T) {
	fake := fakeRegistry(t)
	registry := client(t, fake.URL(), avro.RegistryNumbering)
	if _, err := registry.Register(t.Context(), schemas.Catalog()); err != nil {
		t.Fatal(err)
	}
	var failures atomic.Int32
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if failures.Add(1) > 6 {
			return false
		}
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return true
	})
	if _, confirmed, err := registry.Resolve(t.Context(), schemas.Catalog()); err != nil || !confirmed {
		t.Error(confirmed, err)
	}
}

// A registry that says no is not asked again, and its no is not taken for
// silence.
func TestRegistryRefuses(t *testing.T) {
	fake := fakeRegistry(t)
	asked := 0
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		asked++
		http.Error(w, `{"error_code":40101,"message":"unauthorized"}`, http.StatusUnauthorized)
		return true
	})
	if _, _, err := client(t, fake.URL(), avro.LockNumbering).Resolve(t.Context(), schemas.Catalog()); err == nil || asked != 1 {
		t.Errorf("asked %d times, got %v", asked, err)
	}
}

func TestNewRegistryRefuses(t *testing.T) {
	if _, err := avro.NewRegistry("", avro.RegistryNumbering); err == nil {
		t.Error("the registry's numbers without a registry")
	}
	if _, err := avro.NewRegistry("http://127.0.0.1:1", "guess"); err == nil {
		t.Error("unknown numbering")
	}
	offline := client(t, "", avro.LockNumbering)
	if _, confirmed, err := offline.Resolve(t.Context(), schemas.Catalog()); err != nil || confirmed {
		t.Error("offline:", confirmed, err)
	}
	if _, err := offline.Register(t.Context(), schemas.Catalog()); err == nil {
		t.Error("registered nowhere")
	}
}
