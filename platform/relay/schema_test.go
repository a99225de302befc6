package relay

import (
	"fmt"
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
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas"
)

// A relay runs older code than the service beside it, which wrote an event in a
// version that the relay was built without. It asks the registry for the id;
// while nobody answers the event waits with its aggregate, and is not set aside.
// Other aggregates of its partition go on, and as_of stands before it.
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

	before := query[time.Time](f, `SELECT clock_timestamp()`)
	f.state("new", 1)
	f.state("new", 1)
	f.exec(`UPDATE journal SET schema_version = 2, payload = payload || '\x00'::bytea WHERE aggregate_id = 'new' AND version = 1`)
	down.Store(true)
	f.start(f.relay())
	f.eventually("it asks, again and again", func() bool { return refused.Load() > 2 })
	beside := neighbour("new")
	f.state(beside, 1)
	f.eventually("another aggregate goes on", func() bool { return f.unsent() == 2 })
	f.eventually("control records go on", func() bool {
		for _, r := range f.read(kafka.TopicOrder) {
			if r.control != nil && r.control.Partition == event.PartitionOf("new", partitions) && r.control.Count == 1 {
				return true
			}
		}
		return false
	})
	for _, r := range append(f.read(kafka.TopicOrder), f.read(kafka.TopicControl)...) {
		if r.control != nil && r.control.Partition == event.PartitionOf("new", partitions) && r.control.AsOf.After(before) {
			t.Errorf("as_of %s is after %s, when the first event that waits was not committed", r.control.AsOf, before)
		}
	}
	if blocked := query[int](f, `SELECT count(*) FROM blocked`); blocked != 0 {
		t.Errorf("%d blocked while the registry is down", blocked)
	}
	down.Store(false)
	f.drained()
	if got, known := f.codec.ID("OrderHeld", 2); !known || got != id {
		t.Errorf("id %d, %v, want %d", got, known, id)
	}
	if diff := cmp.Diff([]string{beside + "/1", "new/1", "new/2"}, f.sent()); diff != "" {
		t.Error(diff)
	}
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact != nil && (r.fact.SchemaVersion == 2) != (r.fact.Aggregate.ID == "new" && r.fact.Version == 1) {
			t.Errorf("%s sent as version %d", r.fact.Aggregate, r.fact.SchemaVersion)
		}
	}
	f.checkTotals()
}

// neighbour returns another order of the same partition.
func neighbour(id string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprint("other-", i); event.PartitionOf(other, partitions) == event.PartitionOf(id, partitions) {
			return other
		}
	}
}
