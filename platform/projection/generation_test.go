package projection_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// deadline bounds what a test waits for; a loaded machine is slow.
const deadline = 90 * time.Second

// site is a source, its topics, and the processes that read them.
type site struct {
	t       *testing.T
	url     string
	log     *topics
	journal *ownerJournal
	order   *sender
	records []consumer.Record
}

func newSite(t *testing.T) *site {
	l, j := newTopics(), journalOf()
	return &site{t: t, url: testkit.PostgresURL(t), log: l, journal: j, order: senderOf(l, j, "order")}
}

// send puts facts and a control record into the topic.
func (s *site) send(facts ...event.Fact) {
	s.records = append(s.records, s.order.send(facts...)...)
	s.records = append(s.records, s.order.control())
}

// process opens a process that carries out operations; nobody but the test reads
// the topics for it.
func (s *site) process(tweaks ...tweak) *subject {
	s.t.Helper()
	p := open(s.t, s.url, append([]tweak{withJournal(s.journal)}, tweaks...)...)
	p.Hasten()
	p.EndsAre(0, s.log.offsets)
	return p
}

// operates lets a process carry out operations until the test, or stop, ends it.
func (s *subject) operates() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Operate(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// read has a generation read everything that there is.
func (s *site) read(g *projection.Projection[tally], all ...consumer.Record) {
	s.t.Helper()
	if all == nil {
		all = s.records
	}
	if _, err := g.Claim(s.t.Context(), 0, topicIDs); err != nil {
		s.t.Fatal(err)
	}
	if err := g.Handle(s.t.Context(), 0, all); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) look() {
	s.t.Helper()
	if err := s.Look(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// until looks at the catalog until something is so.
func (s *subject) until(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(deadline); !is(); s.look() {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func asked() *readmodelv1.Request {
	return &readmodelv1.Request{RequestId: uuid.NewString(), Actor: "operator:test", Reason: "test"}
}

func (s *subject) operation(id string) *readmodelv1.Operation {
	s.t.Helper()
	r, err := s.Operators().GetOperation(s.t.Context(), &readmodelv1.GetOperationRequest{Id: id})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.GetOperation()
}

func (s *subject) ends(id string) *readmodelv1.Operation {
	s.t.Helper()
	var o *readmodelv1.Operation
	s.until("operation "+id+" ended", func() bool { o = s.operation(id); return o.GetFinishedAt() != nil })
	return o
}

// rebuild starts a rebuild and returns it with the name of the generation, once
// this process keeps that.
func (s *subject) rebuild() (id, name string) {
	s.t.Helper()
	r, err := s.Operators().StartRebuild(s.t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if err != nil {
		s.t.Fatal(err)
	}
	id = r.GetOperation().GetId()
	s.until("the generation is made", func() bool {
		name = s.operation(id).GetGeneration()
		return name != "" && s.Beside(name) != nil
	})
	return id, name
}

func (s *subject) swap(generation string, expect ...string) (*readmodelv1.GateReport, error) {
	r, err := s.Operators().SwapGeneration(s.t.Context(), &readmodelv1.SwapGenerationRequest{Request: asked(), Generation: generation, Expect: expect})
	if err != nil {
		for _, d := range rpc.Status(err).Details() {
			if report, ok := d.(*readmodelv1.GateReport); ok {
				return report, err
			}
		}
	}
	return r.GetOperation().GetReport(), err
}

func (s *subject) rollback() error {
	_, err := s.Operators().RollbackGeneration(s.t.Context(), &readmodelv1.RollbackGenerationRequest{Request: asked()})
	return err
}

func (s *subject) states() map[string]string {
	s.t.Helper()
	r, err := s.Operators().ListGenerations(s.t.Context(), &readmodelv1.ListGenerationsRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	states := map[string]string{}
	for _, g := range r.GetGenerations() {
		states[g.GetName()] = strings.TrimPrefix(g.GetState().String(), "GENERATION_STATE_")
	}
	return states
}

// violations are the checks that a report names, each once.
func violations(r *readmodelv1.GateReport) map[string]bool {
	checks := map[string]bool{}
	for _, v := range r.GetViolations() {
		checks[v.GetCheck()] = true
	}
	return checks
}

// amount is what a read shows of one order.
func (s *subject) amount(order string) (amount int64, generation string) {
	s.t.Helper()
	f, err := s.Read(s.t.Context(), nil, order, func(b *pgx.Batch) {
		b.Queue("SELECT coalesce(sum(amount), 0)::bigint FROM parts WHERE order_id = $1", order).QueryRow(func(r pgx.Row) error { return r.Scan(&amount) })
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return amount, f.GetGeneration()
}

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
func buggy(_ *projection.Config, v *projection.View[tally]) {
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
	old := at.process(func(c *projection.Config, _ *projection.View[tally]) { c.Generations.Drain = time.Nanosecond })
	at.read(old.Projection)
	old.look()
	next := at.process(func(_ *projection.Config, v *projection.View[tally]) { v.Version = 2 })
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
	parked := func(_ *projection.Config, v *projection.View[tally]) {
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
			at := newSite(t)
			at.send(orders(5)...)
			old := at.process()
			at.read(old.Projection)
			old.look()
			if tt.tweak == nil {
				tt.tweak = func(_ *projection.Config, v *projection.View[tally]) { v.Version = 2 }
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
