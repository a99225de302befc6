package relay

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas"
)

// A relay runs older code than the service beside it, which wrote an event in a
// version that the relay was built without. It asks the registry for the id;
// while nobody answers the event waits, and is not set aside.
func TestAnOlderRelaySendsWhatANewerServiceWrote(t *testing.T) {
	f := setup(t)
	held, _ := schemas.Catalog().Lookup(schemas.Key{Name: "OrderHeld", Version: 1})
	registry := testkit.Registry(t, embedded.Schema{ID: held.ID, Subject: held.Subjects()[0], Version: 1, Schema: held.Text})
	id, err := registry.Register(held.Subjects()[0], strings.Replace(held.Text, "\n  ]", `,{"name":"until","type":["null","long"],"default":null}]`, 1))
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	var refused atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			refused.Add(1)
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

	f.state("new", 1)
	f.exec(`UPDATE journal SET schema_version = 2, payload = payload || '\x00'::bytea WHERE aggregate_id = 'new'`)
	down.Store(true)
	f.start(f.relay())
	f.eventually("it asks", func() bool { return refused.Load() > 0 })
	if blocked := query[int](f, `SELECT count(*) FROM blocked`); blocked != 0 || f.unsent() != 1 {
		t.Errorf("%d blocked, %d unsent while the registry is down", blocked, f.unsent())
	}
	down.Store(false)
	f.drained()
	if got, known := f.codec.ID("OrderHeld", 2); !known || got != id {
		t.Errorf("id %d, %v, want %d", got, known, id)
	}
	if diff := cmp.Diff([]string{"new/1"}, f.sent()); diff != "" {
		t.Error(diff)
	}
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact != nil && r.fact.SchemaVersion != 2 {
			t.Errorf("sent as version %d", r.fact.SchemaVersion)
		}
	}
	f.checkTotals()
}
