package process_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas"
)

// A process reads a later version of a fact and a fact of a new name. While the
// registry does not answer, its position stays and nothing is set aside.
func TestAProcessWaitsForSchemasReleasedLater(t *testing.T) {
	f := newFeeding(t, testkit.Postgres(t))
	done, _ := schemas.Catalog().Lookup(schemas.Key{Name: "OrderCompleted", Version: 1})
	registry := testkit.Registry(t, embedded.Schema{ID: done.ID, Subject: done.Subjects()[0], Version: 1, Schema: done.Text})
	later := strings.Replace(done.Text, "\n  ]", `,{"name":"rating","type":"int","default":0}]`, 1)
	ids := map[string]int{}
	for name, text := range map[string]string{"OrderCompleted": later, "OrderArchived": strings.Replace(done.Text, "OrderCompleted", "OrderArchived", 1)} {
		id, err := registry.Register(strings.Replace(done.Subjects()[0], "OrderCompleted", name, 1), text)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	target, err := url.Parse(registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(door.Close)
	client, err := avro.NewRegistry(door.URL, avro.LockNumbering)
	if err != nil {
		t.Fatal(err)
	}
	f.codec.LearnFrom(client)
	f.claim()

	as := func(r consumer.Record, name, version string, more ...byte) consumer.Record {
		_, bare, err := avro.Unframe(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		r.Value = avro.Frame(ids[name], append(bare, more...))
		r.Headers = append([]event.Header(nil), r.Headers...)
		for i := range r.Headers {
			switch r.Headers[i].Key {
			case "ce_type":
				r.Headers[i].Value = []byte("tidemark." + name)
			case "ce_dataschema":
				r.Headers[i].Value = []byte(name + "/" + version)
			}
		}
		return r
	}
	batch := []consumer.Record{
		f.record("a", 1, 0), as(f.record("a", 2, 1), "OrderCompleted", "2", 10), as(f.record("a", 3, 2), "OrderArchived", "1"), f.record("a", 4, 3),
	}
	down.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := f.feed.Handle(ctx, 0, batch); err == nil {
		t.Error("went past what it cannot read yet")
	}
	if steps := f.strings(stepsOf); len(steps) != 0 || f.claim() != 0 {
		t.Errorf("did %v", steps)
	}
	down.Store(false)
	if err := f.feed.Handle(t.Context(), 0, batch); err != nil {
		t.Fatal(err)
	}
	unread := f.strings(`SELECT coalesce(array_agg(reason), '{}') FROM process_unread`)
	if diff := cmp.Diff([]string{"a fact 4"}, f.strings(stepsOf)); diff != "" || len(unread) != 0 || f.claim() != 4 {
		t.Errorf("%s, unread %v", diff, unread)
	}
}
