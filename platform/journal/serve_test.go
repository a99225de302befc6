package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

func list(t testing.TB, j *journal.Journal, r *journalpb.ListEventsRequest) []*journalpb.JournalEvent {
	t.Helper()
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := journal.NewServer(j, pager).ListEvents(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetEvents()
}

func TestTheJournalIsServedInPages(t *testing.T) {
	j := open(t)
	var partition int32
	heads := map[string]int64{}
	for i := range 40 {
		id := fmt.Sprintf("o-%d", i)
		mustHold(t, j, id, 1+i%3)
		if event.PartitionOf(id, 8) == partition {
			heads[id] = int64(1 + i%3)
		}
	}
	mustHold(t, j, "many", 7)
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := journal.NewServer(j, pager)

	var versions []int64
	for from := int64(2); from != 0; {
		r, err := s.GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: "many", FromVersion: from, ToVersion: 6, PageSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetEvents() {
			versions = append(versions, e.GetVersion())
		}
		from = r.GetNextVersion()
	}
	if diff := cmp.Diff([]int64{2, 3, 4, 5, 6}, versions); diff != "" {
		t.Error("GetEvents:", diff)
	}

	got, token := map[string]int64{}, ""
	for page := 0; page == 0 || token != ""; page++ {
		r, err := s.ListHeads(t.Context(), &journalpb.ListHeadsRequest{Partition: partition, PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range r.GetHeads() {
			got[h.GetAggregateId()] = h.GetVersion()
		}
		token = r.GetNextPageToken()
	}
	delete(got, "many")
	if diff := cmp.Diff(heads, got); diff != "" {
		t.Error("ListHeads:", diff)
	}
	if _, err := s.ListHeads(t.Context(), &journalpb.ListHeadsRequest{Partition: 1, PageToken: "forged"}); fault.KindOf(err) != fault.KindInvalid {
		t.Errorf("forged token: %v", err)
	}

	count := 0
	for from := int64(0); ; {
		r, err := s.ListEvents(t.Context(), &journalpb.ListEventsRequest{Partition: partition, FromSequence: from, PageSize: 3})
		if err != nil {
			t.Fatal(err)
		}
		count += len(r.GetEvents())
		if from = r.GetNextSequence(); from == 0 {
			break
		}
	}
	if want := query[int](t, j.Pool(), `SELECT count(*) FROM journal WHERE partition = $1`, partition); count != want {
		t.Errorf("ListEvents gave %d of %d", count, want)
	}
}

func TestAPageIsBoundedInBytes(t *testing.T) {
	j := open(t)
	exec(t, j.Pool(), `INSERT INTO journal SELECT n, 0, 'order', 'big', n, 'e', gen_random_uuid(), 'OrderHeld', 1, 'big', now(), now(), '', '', '', '',
		convert_to(repeat('x', 200000), 'UTF8') FROM generate_series(1, 60) n`)
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := journal.NewServer(j, pager)
	total := 0
	for from := int64(1); from != 0; {
		r, err := s.GetEvents(t.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: "big", FromVersion: from})
		if err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, e := range r.GetEvents() {
			bytes += len(e.GetPayload())
		}
		if bytes == 0 || bytes > rpc.MaxMessageBytes-500_000 {
			t.Fatalf("a page of %d bytes", bytes)
		}
		total += len(r.GetEvents())
		from = r.GetNextVersion()
	}
	if total != 60 {
		t.Errorf("%d of 60 events", total)
	}
}

func TestADatabaseThatIsAwayIsUnavailable(t *testing.T) {
	j := open(t)
	j.Pool().Close()
	_, _, err := hold(t.Context(), j, uuid.NewString(), "o-1", "why", 1)
	if fault.KindOf(err) != fault.KindUnavailable {
		t.Errorf("err = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := hold(ctx, j, uuid.NewString(), "o-1", "why", 1); !errors.Is(err, context.Canceled) && fault.KindOf(err) != fault.KindUnavailable {
		t.Errorf("err = %v", err)
	}
}
