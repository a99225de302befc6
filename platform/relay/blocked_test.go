package relay

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// block commits two events of an order of which the first cannot be sent. No
// relay may run yet.
func (f *fixture) block(id string) {
	f.Helper()
	f.state(id, 1)
	f.exec(`UPDATE journal SET name = 'NoSuchFact' WHERE aggregate_id = $1 AND sequence IN (SELECT sequence FROM outbox)`, id)
	f.state(id, 1)
}

func (f *fixture) isBlocked(id string, n int) {
	f.Helper()
	f.eventually(fmt.Sprintf("%d events of %s are blocked", n, id), func() bool {
		return query[int](f, `SELECT count(*) FROM blocked WHERE aggregate_id = $1`, id) == n
	})
}

func (f *fixture) blocked(id string) *journalpb.GetBlockedResponse {
	f.Helper()
	b, err := f.admin().GetBlocked(f.Context(), &journalpb.GetBlockedRequest{AggregateType: "order", AggregateId: id})
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// The cause is gone: the fact itself is sent, and what waited behind it, in order.
func TestAMendedRowIsSentItself(t *testing.T) {
	f := setup(t)
	f.block("bad")
	f.start(f.relay())
	f.isBlocked("bad", 2)
	b := f.blocked("bad")
	if a := b.GetAggregate(); a.GetReason() == "" || a.GetVersion() != 1 || a.GetEvents() != 2 || a.GetType() != "NoSuchFact" || len(b.GetEvents()) != 2 {
		t.Errorf("%v", b)
	}
	f.exec(`UPDATE journal SET name = 'OrderHeld' WHERE aggregate_id = 'bad'`)
	b = f.blocked("bad")
	request := &journalpb.MendBlockedRequest{AggregateType: "order", AggregateId: "bad", Reason: "schema deployed", Actor: "operator:test", DryRun: true}
	tried, err := f.admin().MendBlocked(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.GetAggregate(), tried.GetAggregate(), protocmp.Transform()); diff != "" || f.unsent() != 0 {
		t.Errorf("dry run: %s, %d unsent", diff, f.unsent())
	}
	request.DryRun = false
	if _, err := f.admin().MendBlocked(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	f.drained()
	f.state("bad", 1)
	f.drained()
	if diff := cmp.Diff([]string{"bad/1", "bad/2", "bad/3"}, f.sent()); diff != "" {
		t.Error(diff)
	}
	f.checkTotals()
	if _, err := f.admin().MendBlocked(t.Context(), request); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("mended twice: %v", err)
	}
	if n := query[int](f, `SELECT count(*) FROM operator_log WHERE action = 'mend' AND actor = 'operator:test'`); n != 1 {
		t.Errorf("%d entries of what was done", n)
	}
}

// A fact that is given up: a void fact with its identity arrives and is served,
// its followers arrive after it, the original is kept, and totals count it.
func TestAReleasedRowBecomesAVoidFact(t *testing.T) {
	f := setup(t)
	f.state("bad", 1)
	stop := f.start(f.relay())
	f.drained()
	stop()
	f.block("bad")
	f.start(f.relay())
	f.isBlocked("bad", 2)
	original := f.blocked("bad").GetAggregate()
	request := &journalpb.ReleaseBlockedRequest{
		AggregateType: "order", AggregateId: "bad", EventId: "00000000-0000-4000-8000-000000000000", Reason: "cannot be told", Actor: "operator:test",
	}
	if _, err := f.admin().ReleaseBlocked(t.Context(), request); fault.ReasonOf(err) != "OTHER_EVENT_BLOCKED" {
		t.Errorf("another event was released: %v", err)
	}
	request.EventId = original.GetEventId()
	if _, err := f.admin().ReleaseBlocked(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	f.drained()
	f.checkTotals()
	var got []string
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact == nil {
			continue
		}
		got = append(got, fmt.Sprintf("%d %s", r.fact.Version, r.fact.Type))
		if void, ok := r.fact.Body.(*control.FactVoided); ok && (r.fact.ID != original.GetEventId() || r.fact.Key != "bad" || r.fact.Aggregate != (event.Aggregate{Type: "order", ID: "bad"}) ||
			void.OriginalName != "NoSuchFact" || void.Reason != "cannot be told" || void.Actor != "operator:test" || void.VoidedAt.IsZero()) {
			t.Errorf("void fact %+v of %+v", void, r.fact.Envelope)
		}
	}
	if diff := cmp.Diff([]string{"1 OrderHeld", "2 FactVoided", "3 OrderHeld"}, got); diff != "" {
		t.Error(diff)
	}
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	served, err := journal.NewServer(f.journal, pager).GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: "bad"})
	if err != nil {
		t.Fatal(err)
	}
	if e := served.GetEvents()[1]; e.GetType() != "FactVoided" || e.GetId() != original.GetEventId() {
		t.Errorf("served: %v", e)
	}
	if name := query[string](f, `SELECT name FROM voided`); name != "NoSuchFact" {
		t.Errorf("kept %s", name)
	}
}

// The relay has read a follower, to be set aside, when an operator mends what
// it follows. It is not set aside behind events that are on their way again.
func TestMendingRacesWithAFollower(t *testing.T) {
	f := setup(t)
	f.block("bad")
	read, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.start(f.relay(func(r *Relay) {
		r.hooks.read = func(*owner) error {
			if query[int](f, `SELECT count(*) FROM blocked`) == 2 && f.unsent() == 1 {
				once.Do(func() { close(read); <-proceed })
			}
			return nil
		}
	}))
	f.isBlocked("bad", 2)
	f.state("bad", 1)
	<-read
	f.exec(`UPDATE journal SET name = 'OrderHeld' WHERE aggregate_id = 'bad'`)
	if _, err := f.admin().MendBlocked(t.Context(), &journalpb.MendBlockedRequest{AggregateType: "order", AggregateId: "bad", Reason: "r", Actor: "a"}); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	f.drained()
	if n := query[int](f, `SELECT count(*) FROM blocked`); n != 0 {
		t.Errorf("%d events were set aside", n)
	}
	if diff := cmp.Diff([]string{"bad/1", "bad/2", "bad/3"}, f.sent()); diff != "" {
		t.Error(diff)
	}
}

// Control records name the first 32 blocked aggregates, count them all, say
// since when, follow when that changes, and as_of goes on meanwhile.
func TestControlRecordsTellWhatIsBlocked(t *testing.T) {
	f := setup(t)
	var inOne []string
	for i := 0; len(inOne) < 40; i++ {
		if id := fmt.Sprintf("bad-%03d", i); event.PartitionOf(id, partitions) == 5 {
			inOne = append(inOne, id)
			f.state(id, 1)
		}
	}
	f.exec(`UPDATE journal SET name = 'NoSuchFact'`)
	f.start(f.relay())
	newest := func() (c *control.ControlRecord) {
		for _, r := range append(f.read(kafka.TopicOrder), f.read(kafka.TopicControl)...) {
			if r.control != nil && r.control.Partition == 5 && (c == nil || r.control.Number >= c.Number) {
				c = r.control
			}
		}
		return c
	}
	f.eventually("all are counted", func() bool { c := newest(); return c != nil && c.BlockedCount == 40 })
	c := newest()
	if len(c.Blocked) != 32 || c.BlockedSince == nil || c.BlockedSince.After(time.Now()) || !slices.Contains(c.Blocked, "order/"+inOne[0]) {
		t.Errorf("%+v", c)
	}
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	page, err := f.admin().ListBlocked(t.Context(), &journalpb.ListBlockedRequest{PageSize: 30})
	if err != nil {
		t.Fatal(err)
	}
	rest, err := f.admin().ListBlocked(t.Context(), &journalpb.ListBlockedRequest{PageSize: 30, PageToken: page.GetNextPageToken()})
	if err != nil || len(page.GetAggregates()) != 30 || len(rest.GetAggregates()) != 10 || rest.GetNextPageToken() != "" {
		t.Errorf("pages of %d and %d, %v", len(page.GetAggregates()), len(rest.GetAggregates()), err)
	}
	f.exec(`UPDATE journal SET name = 'OrderHeld'`)
	if _, err := f.admin().MendBlocked(t.Context(), &journalpb.MendBlockedRequest{AggregateType: "order", AggregateId: inOne[0], Reason: "r", Actor: "a"}); err != nil {
		t.Fatal(err)
	}
	f.eventually("one less is counted", func() bool {
		c := newest()
		return c.BlockedCount == 39 && !slices.Contains(c.Blocked, "order/"+inOne[0])
	})
}
