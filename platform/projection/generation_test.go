package projection_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

func TestRebuildSwapAndRollback(t *testing.T) {
	at := newSite(t)
	at.send(orders(40)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	first := p.Generation()
	p.operates()

	id, second := p.rebuild()
	if second == first {
		t.Fatalf("the rebuilt generation has the name of the first: %s", second)
	}
	built := p.Beside(second)
	if got := p.operation(id).GetState(); got != readmodelv1.OperationState_OPERATION_STATE_RUNNING {
		t.Fatalf("a rebuild that has read nothing is %s", got)
	}
	if _, err := p.swap(second); fault.ReasonOf(err) != projection.ReasonGateRefused {
		t.Fatalf("a swap to what is still built: %v", err)
	}
	at.read(built)
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED || o.GetDone() != o.GetTotal() || o.GetDone() != 41 {
		t.Fatalf("the rebuild ended as %v", o)
	}
	if diff := cmp.Diff(map[string]string{first: "SERVING", second: "READY"}, p.states()); diff != "" {
		t.Fatalf("states (-want +got):\n%s", diff)
	}
	report, err := p.swap("")
	if err != nil {
		t.Fatal(err)
	}
	if report.GetOrdersCompared() != 40 || report.GetRowsCompared() != 80 || len(report.GetSumsChecked()) != 1 {
		t.Errorf("compared %v", report)
	}
	if _, generation := p.amount("o1"); generation != second {
		t.Fatalf("%s answers after the swap to %s", generation, second)
	}
	if diff := cmp.Diff(map[string]string{first: "RETIRED", second: "SERVING"}, p.states()); diff != "" {
		t.Fatalf("states (-want +got):\n%s", diff)
	}

	// What comes now comes to both, and going back loses none of it.
	more := at.order.send(fact("o1", "order/o1", 2, &note{Add: 5}), fact("new", "order/new", 1, &note{Add: 7}))
	more = append(more, at.order.control())
	at.read(built, more...)
	if err := p.rollback(); fault.ReasonOf(err) != projection.ReasonGateRefused || !strings.Contains(err.Error(), "POSITIONS") {
		t.Fatalf("a rollback to what has not read everything: %v", err)
	}
	at.read(p.Projection, more...)
	if err := p.rollback(); err != nil {
		t.Fatal(err)
	}
	for order, want := range map[string]int64{"o1": 6, "new": 7, "o2": 1} {
		if got, generation := p.amount(order); got != want || generation != first {
			t.Errorf("after the rollback %s answers %d of order %s, want %d of %s", generation, got, order, want, first)
		}
	}
	if err := p.rollback(); err != nil { // and forward again
		t.Fatal(err)
	}
	if got, generation := p.amount("new"); got != 7 || generation != second {
		t.Errorf("after going forward again %s answers %d", generation, got)
	}
}

// buggy is version 2 of the view, with a bug for one order.
func buggy(_ *projection.Config, v *fold.View[tally]) {
	fold := v.Fold
	v.Version = 2
	v.Fold = func(s *tally, f event.Fact) {
		fold(s, f)
		if p, ok := s.Parts[f.Aggregate.String()]; ok && f.Key == "o7" {
			p.Amount++
			s.Parts[f.Aggregate.String()] = p
		}
	}
}

func TestABugInTheNewVersionIsRefused(t *testing.T) {
	at := newSite(t)
	at.send(orders(20)...)
	old := at.process()
	at.read(old.Projection)
	old.look()
	next := at.process(buggy)
	at.read(next.Projection)
	next.look()
	next.operates()
	next.look() // it would switch here
	if got := next.states()[next.Generation()]; got != "READY" {
		t.Fatalf("beside a live generation, the new version is %s", got)
	}
	report, err := next.swap("")
	if fault.ReasonOf(err) != projection.ReasonGateRefused || !fault.Is(err, fault.KindFailedPrecondition) {
		t.Fatalf("the swap to a buggy version: %v", err)
	}
	want := []string{"o7 parts order/o7 amount: 1, 2", `o7 parts order/o7 doc.n: 1, 2`}
	var got []string
	for _, d := range report.GetDifferences() {
		got = append(got, fmt.Sprintf("%s %s %s %s: %s, %s", d.GetOrderId(), d.GetTable(), d.GetKey(), d.GetField(), d.GetBaseValue(), d.GetValue()))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"ROWS": true}, violations(report)); diff != "" {
		t.Errorf("violations (-want +got):\n%s\n%v", diff, report)
	}
	if _, generation := old.amount("o7"); generation != old.Generation() {
		t.Errorf("%s answers after a refused swap", generation)
	}
	// Told that it is meant so, the gate is open, and both processes follow.
	if report, err = next.swap("", "parts.amount", "parts.doc"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"parts.amount": 1, "parts.doc": 1}, report.GetExpected()); diff != "" {
		t.Errorf("expected (-want +got):\n%s", diff)
	}
	if got, generation := next.amount("o7"); got != 2 || generation != next.Generation() {
		t.Errorf("%s answers %d after the swap", generation, got)
	}
	old.look()
	if _, generation := old.amount("o7"); generation != old.Generation() {
		t.Errorf("while it drains, the old process answers from %s", generation)
	}
	// Back again: the new process asks, the old one carries it out.
	old.operates()
	if err := next.rollback(); err != nil {
		t.Fatal(err)
	}
	if got := old.states()[old.Generation()]; got != "SERVING" {
		t.Errorf("after the rollback the old generation is %s", got)
	}
}

func TestAnOldProgramStopsAnsweringAfterItsDrain(t *testing.T) {
	at := newSite(t)
	at.send(orders(3)...)
	old := at.process(func(c *projection.Config, _ *fold.View[tally]) { c.Generations.Drain = time.Nanosecond })
	at.read(old.Projection)
	old.look()
	next := at.process(func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 })
	at.read(next.Projection)
	next.look()
	next.operates()
	if _, err := next.swap(""); err != nil {
		t.Fatal(err)
	}
	before := old.everything()
	at.records = append(at.records, at.order.send(fact("o1", "order/o1", 2, &note{Add: 1}))...)
	at.read(next.Projection)
	if diff := cmp.Diff(before, old.everything()); diff != "" {
		t.Errorf("one version wrote into another one's generation:\n%s", diff)
	}
	old.look()
	if _, err := old.Read(t.Context(), nil, "o1", func(*pgx.Batch) {}); fault.ReasonOf(err) != projection.ReasonRebuilding {
		t.Errorf("after its drain, the old program answers %v", err)
	}
	if _, generation := next.amount("o1"); generation != next.Generation() {
		t.Errorf("%s answers", generation)
	}
}

func TestTheGateNamesWhatStandsInTheWay(t *testing.T) {
	parked := func(_ *projection.Config, v *fold.View[tally]) {
		v.Version = 2
		v.Fold = func(*tally, event.Fact) { panic("cannot read anything") }
	}
	tests := []struct {
		name  string
		tweak tweak
		given func(at *site, next *subject) // after it read everything
		check string
		names string
	}{
		{name: "everything is parked", tweak: parked, check: "PARKED", names: "order/o1 of order o1"},
		{name: "a row that this code does not derive", check: "STORED_ROWS", names: "order o1", given: func(_ *site, next *subject) {
			next.exec("UPDATE parts SET amount = 99 WHERE order_id = 'o1'")
		}},
		{name: "a row too many", check: "STORED_ROWS", names: "order nobody", given: func(_ *site, next *subject) {
			next.exec("INSERT INTO parts (order_id, part, amount, doc) VALUES ('nobody', 'x', 1, '{}')")
		}},
		{name: "a row too many of an order", check: "STORED_ROWS", names: "order o1", given: func(_ *site, next *subject) {
			next.exec("INSERT INTO parts (order_id, part, amount, doc) VALUES ('o1', 'x', 1, '{}')")
		}},
		{name: "a wrong sum", check: "SUMS", names: "held", given: func(_ *site, next *subject) {
			next.exec("UPDATE texts SET amount = amount + 3 WHERE text = 'held'")
		}},
		{name: "a log entry is missing", check: "ROWS", names: "table notes", given: func(_ *site, next *subject) {
			next.exec("DELETE FROM notes WHERE order_id = 'o1'")
		}},
		{name: "a lost fact", check: "COMPLETENESS", names: "source order, partition 0", given: func(_ *site, next *subject) {
			next.exec(`UPDATE position SET books = jsonb_set(books, '{s,order,c}', '"VIOLATED"')`)
		}},
		{name: "totals that were not compared", check: "COMPLETENESS", names: "source order, partition 0", given: func(_ *site, next *subject) {
			next.exec(`UPDATE position SET books = jsonb_set(books, '{s,order,c}', '"UNPROVEN"')`)
		}},
		{name: "an order that never arrives", check: "VERSIONS", names: "order o1", given: func(_ *site, next *subject) {
			next.exec(`DELETE FROM state WHERE order_id = 'o1'; DELETE FROM parts WHERE order_id = 'o1'; DELETE FROM notes WHERE order_id = 'o1'`)
		}},
		{name: "another log", check: "POSITIONS", names: "partition 0 of tidemark.order.events", given: func(_ *site, next *subject) {
			next.exec(`UPDATE position SET topic_ids = jsonb_set(topic_ids, '{tidemark.order.events}', '"other"')`)
		}},
		{name: "no control record was taken", check: "STALENESS", names: "all sources", given: func(_ *site, next *subject) {
			next.exec(`DELETE FROM source_mark`)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // most of it waits
			at := newSite(t)
			at.send(orders(5)...)
			old := at.process()
			at.read(old.Projection)
			old.look()
			if tt.tweak == nil {
				tt.tweak = func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 }
			}
			next := at.process(tt.tweak)
			at.read(next.Projection)
			next.look()
			if tt.given != nil {
				tt.given(at, next)
			}
			next.operates()
			report, err := next.swap("")
			if fault.ReasonOf(err) != projection.ReasonGateRefused {
				t.Fatalf("the swap: %v", err)
			}
			found := false
			for _, v := range report.GetViolations() {
				found = found || v.GetCheck() == tt.check && strings.Contains(v.GetSubject(), tt.names)
			}
			if !found {
				t.Errorf("no violation %s of %q in %v", tt.check, tt.names, report)
			}
			if got := next.states()[next.Generation()]; got != "READY" {
				t.Errorf("the refused generation is %s", got)
			}
		})
	}
}

// TestReadsAcrossASwap: what a caller holds, a token of its write and a page
// token, means after a swap what it meant before.
func TestReadsAcrossASwap(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	p.Alone()
	at.read(p.Projection)
	p.look()
	p.operates()
	first := p.Generation()
	id, second := p.rebuild()
	built := p.Beside(second)
	at.read(built)
	p.ends(id)
	write := fact("o1", "order/o1", 2, &note{Add: 5})
	type result struct {
		amount     int64
		generation string
		err        error
	}
	read := make(chan result, 1)
	go func() {
		var r result
		f, err := p.Read(t.Context(), &freshnessv1.ReadOptions{
			Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: []*freshnessv1.Token{{
				AggregateType: "order", AggregateId: "o1", Version: 2, Epoch: epoch1, EventId: write.ID,
			}}}},
			WaitBudget: durationpb.New(deadline),
		}, "o1", func(b *pgx.Batch) {
			b.Queue("SELECT sum(amount)::bigint FROM parts WHERE order_id = 'o1'").QueryRow(func(row pgx.Row) error { return row.Scan(&r.amount) })
		})
		r.generation, r.err = f.GetGeneration(), err
		read <- r
	}()
	if _, err := p.swap(""); err != nil {
		t.Fatal(err)
	}
	at.read(built, append(at.order.send(write), at.order.control())...)
	if r := <-read; r.err != nil || r.amount != 6 || r.generation != second {
		t.Errorf("a read that waited across the swap: %+v", r)
	}
	// The page began in the first generation, and goes on there.
	bound, err := p.PageOf(func(g string) error {
		if g != first {
			return errDown
		}
		return nil
	})
	if err != nil || bound != first {
		t.Fatalf("a page token of %s belongs to %q: %v", first, bound, err)
	}
	f, err := p.Read(t.Context(), nil, "o1", func(*pgx.Batch) {}, projection.InGeneration(bound))
	if err != nil || f.GetGeneration() != first || f.GetEntityVersions()[0].GetVersion() != 1 {
		t.Errorf("the next page is of %v, %v", f, err)
	}
	if _, err := p.PageOf(func(string) error { return errDown }); err != errDown {
		t.Errorf("a token of nobody: %v", err)
	}
	if _, err := p.Read(t.Context(), nil, "o1", func(*pgx.Batch) {}, projection.InGeneration("tally/9-none")); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a page of a generation that is gone: %v", err)
	}
}

// TestReadsFindASwitchWarm: what is asked of the generation that answers is
// prepared on connections to the next one before that answers.
func TestReadsFindASwitchWarm(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	const asks = "SELECT sum(amount)::bigint FROM parts WHERE order_id = 'o1'"
	read := func(sql string, args ...any) (n int64) {
		t.Helper()
		if _, err := p.Read(t.Context(), nil, "o1", func(b *pgx.Batch) {
			b.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	read(asks)
	id, second := p.rebuild()
	at.read(p.Beside(second))
	p.ends(id)
	if _, err := p.swap(""); err != nil {
		t.Fatal(err)
	}
	if got := p.Answering(); got != second {
		t.Fatalf("%s answers after the swap to %s", got, second)
	}
	if n := read("SELECT count(*) FROM pg_prepared_statements WHERE statement = $1", asks); n != 1 {
		t.Errorf("the first read of %s finds its statement prepared %d times, want once", second, n)
	}
}
