package projection_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

const (
	released    = readmodelv1.RetryOutcome_RETRY_OUTCOME_RELEASED
	advanced    = readmodelv1.RetryOutcome_RETRY_OUTCOME_ADVANCED
	stillParked = readmodelv1.RetryOutcome_RETRY_OUTCOME_STILL_PARKED
	notTried    = readmodelv1.RetryOutcome_RETRY_OUTCOME_NOT_TRIED
)

// ward is a subject with its operators' service, whose code can be mended.
type ward struct {
	*subject
	readmodelv1.QuarantineServiceClient
	from   *sender
	mended *atomic.Bool
}

// newWard opens a view that a note "burst" breaks, until its code is mended.
func newWard(t *testing.T, tweaks ...tweak) *ward {
	t.Helper()
	l, journal := newTopics(), journalOf()
	w := &ward{from: senderOf(l, journal, "order"), mended: &atomic.Bool{}}
	w.subject = fresh(t, append([]tweak{withJournal(journal), w.mend}, tweaks...)...)
	w.QuarantineServiceClient = readmodelv1.NewQuarantineServiceClient(w.served())
	return w
}

func (w *ward) mend(_ *projection.Config, v *fold.View[tally]) {
	fold := v.Fold
	v.Fold = func(s *tally, f event.Fact) {
		if n, ok := f.Body.(*note); ok && n.Text == "burst" && w.mended.Load() {
			f.Body = &note{Add: n.Add, Text: "mended"}
		}
		fold(s, f)
	}
}

func named(typ, id string) *readmodelv1.GetParkedRequest {
	return &readmodelv1.GetParkedRequest{AggregateType: typ, AggregateId: id}
}

func (w *ward) retry(r *readmodelv1.RetryParkedRequest) *readmodelv1.RetryParkedResponse {
	w.t.Helper()
	got, err := w.RetryParked(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func retryOf(a *readmodelv1.GetParkedRequest, dry bool) *readmodelv1.RetryParkedRequest {
	return &readmodelv1.RetryParkedRequest{What: &readmodelv1.RetryParkedRequest_Aggregate{Aggregate: a}, DryRun: dry}
}

// broken are four versions of an order; the second one breaks the view.
func broken(order string) []event.Fact {
	facts := about(order, 1, 4)
	facts[1].Body = &note{Add: 4, Text: "burst"}
	return facts
}

func mendedRows(t *testing.T, facts []event.Fact) map[string][]map[string]any {
	t.Helper()
	facts = append([]event.Fact(nil), facts...)
	for i := range facts {
		if n, ok := facts[i].Body.(*note); ok && n.Text == "burst" {
			facts[i].Body = &note{Add: n.Add, Text: "mended"}
		}
	}
	return memory(t, facts...)
}

// withLogs takes the log of the stored rows: it has the fact's own words.
func withLogs(want, got map[string][]map[string]any) map[string][]map[string]any {
	want["notes"] = got["notes"]
	return want
}

func TestARetryReadsTheFactAgainWithTodaysCode(t *testing.T) {
	w := newWard(t)
	facts := append(broken("o"), about("other", 1, 2)...)
	w.handle(w.from.send(facts...)...)
	w.handle(w.from.control())
	before := w.everything()

	shown, err := w.GetParked(t.Context(), named("order", "o"))
	if err != nil {
		t.Fatal(err)
	}
	a := shown.GetAggregate()
	if a.GetVerdict() != "poison" || !strings.Contains(a.GetReason(), "panicked: burst") || a.GetWaiting() != 3 || a.GetVersion() != 2 ||
		a.GetEventId() != facts[1].ID || a.GetCodeVersion() != 1 || shown.GetAppliedVersion() != 1 {
		t.Errorf("shown %v", shown)
	}
	if f := shown.GetFact(); f.GetType() != "Note" || !strings.Contains(f.GetBody(), `"Text":"burst"`) || shown.GetFactError() != "" {
		t.Errorf("fact %v, %s", f, shown.GetFactError())
	}
	var order []int64
	for _, f := range shown.GetWaiting() {
		order = append(order, f.GetVersion())
		if f.GetTopic() == "" || f.GetVersion() > 2 && f.GetVerdict() != "behind" {
			t.Errorf("waiting %v", f)
		}
	}
	if diff := cmp.Diff([]int64{2, 3, 4}, order); diff != "" {
		t.Errorf("waiting (-want +got):\n%s", diff)
	}
	if got := shown.GetRetry(); got.GetOutcome() != stillParked || got.GetVersionAfter() != 1 || !strings.Contains(got.GetReason(), "burst") {
		t.Errorf("a retry would: %v", got)
	}

	// The same code fails again and leaves everything as it was.
	got := w.retry(retryOf(named("order", "o"), false)).GetResults()[0]
	if got.GetOutcome() != stillParked || got.GetVerdict() != "poison" || !strings.Contains(got.GetReason(), "burst") {
		t.Errorf("retried by the same code: %v", got)
	}
	if after := w.everything(); after != before {
		t.Errorf("a failed retry changed something (-before +after):\n%s", cmp.Diff(before, after))
	}
	if q := w.query("SELECT attempts FROM @quarantine"); q[0]["attempts"] != int32(1) {
		t.Errorf("attempts %v", q)
	}

	w.mended.Store(true)
	if got := w.retry(retryOf(named("order", "o"), true)).GetResults()[0]; got.GetOutcome() != released || got.GetVersionBefore() != 1 || got.GetVersionAfter() != 4 {
		t.Errorf("dry run with mended code: %v", got)
	}
	if after := w.everything(); after != before {
		t.Errorf("a dry run changed something (-before +after):\n%s", cmp.Diff(before, after))
	}
	if got := w.retry(retryOf(named("order", "o"), false)).GetResults()[0]; got.GetOutcome() != released || got.GetVersionAfter() != 4 || got.GetVerdict() != "" {
		t.Errorf("retried with mended code: %v", got)
	}
	rows := w.viewRows()
	same(t, withLogs(mendedRows(t, facts), rows), rows)
	if holds, parked := w.waiting(); holds+parked != 0 {
		t.Errorf("%d aggregates and %d facts still wait", holds, parked)
	}
	offsets := w.query("SELECT offsets::text FROM @position")[0]["offsets"]
	// The owner of the partition goes on from where it was, and nothing was counted twice.
	w.handle(append(w.from.send(about("o", 5, 5)...), w.from.control())...)
	w.is(isProven)
	if !strings.Contains(before, fmt.Sprint(offsets)) {
		t.Errorf("the position moved to %v", offsets)
	}
	if _, err := w.GetParked(t.Context(), named("order", "o")); status.Code(err) != codes.NotFound {
		t.Errorf("show what is not parked: %v", err)
	}
}

func TestARetryStopsAtTheNextFactThatCannotBeApplied(t *testing.T) {
	w := newWard(t)
	facts := about("o", 1, 6)
	records := w.from.send(facts...)
	records[1].Value = []byte("spoiled") // in the topic only
	w.from.journal.spoil(facts[4])
	w.handle(records...)
	got := w.retry(retryOf(named("order", "o"), false)).GetResults()[0]
	if got.GetOutcome() != advanced || got.GetVersionBefore() != 1 || got.GetVersionAfter() != 4 || got.GetVerdict() != "poison" {
		t.Errorf("got %v", got)
	}
	same(t, memory(t, facts[:4]...), w.viewRows())
	list, err := w.ListParked(t.Context(), &readmodelv1.ListParkedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if a := list.GetAggregates()[0]; a.GetVersion() != 5 || a.GetWaiting() != 2 || !strings.Contains(a.GetReason(), "cannot decode") {
		t.Errorf("parked %v", a)
	}
	if waits := w.query("SELECT verdict, reason FROM @parked ORDER BY version"); waits[0]["verdict"] != "poison" || waits[0]["reason"] == "" {
		t.Errorf("the reference does not say why it waits: %v", waits)
	}
	shown, err := w.GetParked(t.Context(), named("order", "o"))
	if err != nil || !strings.Contains(shown.GetFactError(), "cannot decode") || shown.GetFact().GetType() != "Note" {
		t.Errorf("show what cannot be decoded: %v, %v", shown, err)
	}
}

func TestARetryWithoutTheOwnerIsNotTried(t *testing.T) {
	w := newWard(t)
	w.handle(w.from.send(broken("o")...)...)
	before := w.everything()
	w.from.journal.err = errDown
	if got := w.retry(retryOf(named("order", "o"), false)).GetResults()[0]; got.GetOutcome() != notTried || !strings.Contains(got.GetReason(), "down") {
		t.Errorf("got %v", got)
	}
	if after := w.everything(); after != before {
		t.Errorf("something changed (-before +after):\n%s", cmp.Diff(before, after))
	}
}

func TestManyParkedAreListedAndRetriedPageByPage(t *testing.T) {
	const n = 60
	w := newWard(t)
	var facts []event.Fact
	for i := range n {
		facts = append(facts, fact(fmt.Sprintf("o%02d", i), fmt.Sprintf("order/o%02d", i), 1, &note{Add: 1, Text: "burst"}))
	}
	w.handle(w.from.send(facts...)...)
	w.handle(w.from.l.facts(fact("g", "order/g", 2, &note{Add: 1}))...)

	var ids []string
	request := &readmodelv1.ListParkedRequest{PageSize: 25, Filter: &readmodelv1.ParkedFilter{Verdict: "poison", Reason: "burst", CodeVersion: 1}}
	for pages := 1; ; pages++ {
		r, err := w.ListParked(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.GetAggregates() {
			ids = append(ids, a.GetAggregateId())
		}
		if pages == 1 && (len(r.GetClasses()) != 1 || r.GetClasses()[0].GetAggregates() != n) || pages > 1 && len(r.GetClasses()) > 0 {
			t.Errorf("page %d counts %v", pages, r.GetClasses())
		}
		if request.PageToken = r.GetNextPageToken(); request.PageToken == "" {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
	}
	if len(ids) != n || ids[0] != "o00" || ids[n-1] != "o59" {
		t.Errorf("listed %d: %v", len(ids), ids)
	}
	for name, filter := range map[string]*readmodelv1.ParkedFilter{
		"class": {Verdict: "equivocation"}, "source": {AggregateType: "payment"}, "order": {OrderId: "none"}, "code": {CodeVersion: 7}, "reason": {Reason: "x%"},
	} {
		r, err := w.ListParked(t.Context(), &readmodelv1.ListParkedRequest{Filter: filter})
		if err != nil || len(r.GetAggregates()) > 0 || len(r.GetClasses()) > 0 {
			t.Errorf("filter by %s: %v, %v", name, r, err)
		}
	}
	request.PageToken = "x"
	if _, err := w.ListParked(t.Context(), request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a page token that was not given out: %v", err)
	}

	w.mended.Store(true)
	calls := w.from.journal.calls
	all := &readmodelv1.RetryParkedRequest{PageSize: 25, What: &readmodelv1.RetryParkedRequest_Filter{Filter: &readmodelv1.ParkedFilter{Verdict: "poison"}}}
	first := w.retry(all)
	if len(first.GetResults()) != 25 || first.GetNextPageToken() == "" || w.from.journal.calls-calls != 25 {
		t.Errorf("one call tried %d with %d questions to the owner", len(first.GetResults()), w.from.journal.calls-calls)
	}
	if holds, _ := w.waiting(); holds != n+1-25 {
		t.Errorf("%d stand still after one call", holds)
	}
	total := len(first.GetResults())
	for all.PageToken = first.GetNextPageToken(); all.PageToken != ""; {
		r := w.retry(all)
		for _, got := range r.GetResults() {
			if got.GetOutcome() != released {
				t.Errorf("retry %v", got)
			}
		}
		total, all.PageToken = total+len(r.GetResults()), r.GetNextPageToken()
	}
	if holds, parked := w.waiting(); total != n || holds != 1 || parked != 1 {
		t.Errorf("%d tried; %d aggregates and %d facts wait, want only the gap", total, holds, parked)
	}
	rows := w.viewRows()
	same(t, withLogs(mendedRows(t, facts), rows), rows)
}

func TestOneRetryAtATime(t *testing.T) {
	w := newWard(t)
	w.handle(w.from.send(broken("o")...)...)
	asked, goOn := make(chan struct{}), make(chan struct{})
	w.from.journal.hook = func() { asked <- struct{}{}; <-goOn }
	done := make(chan error, 1)
	go func() {
		_, err := w.RetryParked(t.Context(), retryOf(named("order", "o"), false))
		done <- err
	}()
	<-asked
	if _, err := w.RetryParked(t.Context(), retryOf(named("order", "o"), false)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a second retry: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAHundredThousandParkedMakeNoStorm looks at a quarantine that full, and
// retries a page of it: the owner is asked once for each of the page, and what
// waits is listed without reading all of it.
func TestAHundredThousandParkedMakeNoStorm(t *testing.T) {
	const n = 100_000
	w := newWard(t)
	w.handle(w.from.send(broken("o")...)...)
	w.exec(fmt.Sprintf(`INSERT INTO quarantine SELECT 'order', 'p' || i, 'p' || i, 0, 'poison', 'made up', now() - interval '1 hour', 0, now() FROM generate_series(1, %d) i;
		INSERT INTO parked SELECT 'r' || i, 0, 't', 't', i, 'p' || i, 'order', 'p' || i, 'e', 1, 'id' || i, 'poison', 'made up', 1 FROM generate_series(1, %d) i;
		ANALYZE quarantine; ANALYZE parked`, n, n))
	r, err := w.ListParked(t.Context(), &readmodelv1.ListParkedRequest{PageSize: 10})
	if err != nil || len(r.GetAggregates()) != 10 || r.GetClasses()[0].GetAggregates() != n+1 {
		t.Fatalf("list %v, %v", r, err)
	}
	calls := w.from.journal.calls
	got := w.retry(&readmodelv1.RetryParkedRequest{
		PageSize: 40, What: &readmodelv1.RetryParkedRequest_Filter{Filter: &readmodelv1.ParkedFilter{Verdict: "poison", Reason: "made up"}},
	})
	if len(got.GetResults()) != 40 || got.GetNextPageToken() == "" || w.from.journal.calls-calls > 40 {
		t.Errorf("%d tried with %d questions", len(got.GetResults()), w.from.journal.calls-calls)
	}
	for range 3 { // and nobody retries poison by itself
		w.heal()
		if err := w.HonourSkips(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if w.from.journal.calls-calls > 40 {
		t.Errorf("poison was tried again without being asked: %d questions", w.from.journal.calls-calls)
	}
}
