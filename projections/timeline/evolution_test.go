package timeline_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// A timeline that was built before OrderHeld got a version 2, and before an
// order could be frozen, reads both. While the registry is down it waits with
// them and answers what it knows; then it goes on by itself, and nothing parked.
func TestFactsReleasedLaterWaitForTheRegistry(t *testing.T) {
	held, _ := schemas.Catalog().Lookup(schemas.Key{Name: "OrderHeld", Version: 1})
	v2 := strings.Replace(held.Text, "\n  ]", `,{"name":"until","type":["null","long"],"default":null}]`, 1)
	frozen := strings.ReplaceAll(held.Text, "OrderHeld", "OrderFrozen")
	var released []embedded.Schema
	for _, s := range schemas.Catalog().All() {
		for _, subject := range s.Subjects() {
			released = append(released, embedded.Schema{ID: s.ID, Subject: subject, Version: s.Version, Schema: s.Text})
		}
	}
	registry := testkit.Registry(t, released...)
	idV2, err := registry.Register(held.Subjects()[0], v2)
	if err != nil {
		t.Fatal(err)
	}
	idFrozen, err := registry.Register(strings.ReplaceAll(held.Subjects()[0], "OrderHeld", "OrderFrozen"), frozen)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	refused := make(chan string, 100)
	proxy := httputil.NewSingleHostReverseProxy(target)
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			select {
			case refused <- r.URL.Path:
			default:
			}
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(door.Close)

	broker := testkit.Broker(t)
	cfg := config(t, broker.Addr())
	cfg.Kafka.RegistryURL = door.URL
	client, _ := run(t, cfg)
	f := feed.New(t, kafka.Config{Brokers: broker.Addr()})
	order := history.Aggregate{Order: "o-1", Type: "order", ID: "o-1"}
	placed := order.Add(history.Dawn, &facts.OrderPlaced{OrderID: "o-1", CustomerID: "ana", Actor: "customer", Fulfilment: facts.FulfilmentManaged,
		Total: facts.Money{Currency: "BRL"}, ShippingFee: facts.Money{Currency: "BRL"}})
	hold := order.Add(history.Dawn, &facts.OrderHeld{OrderID: "o-1", CustomerID: "ana", Actor: "operator:kim", Reason: "address"})
	freeze := order.Add(history.Dawn, &facts.OrderHeld{OrderID: "o-1", CustomerID: "ana", Actor: "operator:kim"})
	confirmed := order.Add(history.Dawn, &facts.OrderConfirmed{OrderID: "o-1", CustomerID: "ana", Actor: "fulfilment"})
	ask := func(o *freshnessv1.ReadOptions) (*timelinev1.GetOrderStatusResponse, error) {
		return client.GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: "o-1", Read: o})
	}
	f.Publish(placed)
	if _, err := ask(atLeast(placed)); err != nil {
		t.Fatal(err)
	}

	down.Store(true)
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	later := func(fact event.Fact, name string, version, id int, more ...byte) {
		_, _, bare, err := codec.Encode(fact.Body)
		if err != nil {
			t.Fatal(err)
		}
		fact.Type, fact.SchemaVersion = name, version
		f.PublishBytes(fact.Envelope, id, append(bare, more...))
	}
	later(hold, "OrderHeld", 2, idV2, 0)
	later(freeze, "OrderFrozen", 1, idFrozen)
	f.Publish(confirmed)
	for range 3 { // it asks again and again
		select {
		case path := <-refused:
			if !strings.Contains(path, "OrderHeld/versions/2") {
				t.Errorf("asked for %s", path)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it gave up asking")
		}
	}
	impatient := atLeast(confirmed)
	impatient.WaitBudget = durationpb.New(50 * time.Millisecond)
	if answer, err := ask(impatient); err == nil {
		t.Errorf("went past what it cannot read yet: %v", answer)
	}
	if answer, err := ask(nil); err != nil || answer.GetOrder().GetStatus() != timelinev1.OrderStatus_ORDER_STATUS_PLACED || answer.GetOrder().GetOnHold() {
		t.Errorf("while the registry is down: %v, %v", answer, err)
	}

	down.Store(false)
	answer, err := ask(atLeast(hold, freeze, confirmed))
	if err != nil || answer.GetOrder().GetStatus() != timelinev1.OrderStatus_ORDER_STATUS_CONFIRMED || !answer.GetOrder().GetOnHold() {
		t.Fatalf("after it: %v, %v", answer, err)
	}
	entries, err := client.ListOrderTimeline(t.Context(), &timelinev1.ListOrderTimelineRequest{OrderId: "o-1"})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range entries.GetEntries() {
		told = append(told, e.GetSummary())
	}
	if all := strings.Join(told, "; "); !strings.Contains(all, "Order put on hold: address") || len(told) != 3 {
		t.Error(all)
	}
}
