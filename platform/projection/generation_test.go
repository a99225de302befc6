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
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/kafka"
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

func TestTwoOperatorsCannotRebuildAtOnce(t *testing.T) {
	at := newSite(t)
	at.send(orders(3)...)
	p, q := at.process(), at.process()
	at.read(p.Projection)
	p.look()
	request := asked()
	first, err := p.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: request})
	if err != nil {
		t.Fatal(err)
	}
	again, err := q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: request})
	if err != nil || again.GetOperation().GetId() != first.GetOperation().GetId() {
		t.Fatalf("the same request again: %v, %v", again, err)
	}
	_, err = q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if f := fault.As(err); f == nil || f.Reason != projection.ReasonOperationRunning || f.Metadata["operation"] != first.GetOperation().GetId() {
		t.Fatalf("a second rebuild: %v", err)
	}
	if _, err := p.Operators().CancelOperation(t.Context(), &readmodelv1.CancelOperationRequest{Id: first.GetOperation().GetId()}); err != nil {
		t.Fatal(err)
	}
	q.operates()
	if o := q.ends(first.GetOperation().GetId()); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_CANCELLED {
		t.Fatalf("a cancelled rebuild is %v", o)
	}
	if _, err := q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()}); err != nil {
		t.Fatalf("a rebuild after the first was cancelled: %v", err)
	}
}

func TestOperationsSurviveTheirProcessAtEveryPhase(t *testing.T) {
	at := newSite(t)
	at.send(orders(10)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	// die takes the operation up in a process of its own that is killed.
	die := func(phase string) {
		t.Helper()
		victim := at.process()
		if took, err := victim.Die(t.Context(), phase); err != nil || !took {
			t.Fatalf("killed at %q: %v, %v", phase, took, err)
		}
		p.exec("UPDATE tidemark.operation SET lease_until = now()")
	}
	begun, err := p.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if err != nil {
		t.Fatal(err)
	}
	id := begun.GetOperation().GetId()
	for _, phase := range []string{"begins", "makes the generation", "builds", "builds"} {
		die(phase)
	}
	if n := len(p.states()); n != 2 {
		t.Fatalf("%d generations after a rebuild was interrupted, want 2: %v", n, p.states())
	}
	p.look()
	second := p.operation(id).GetGeneration()
	built := p.Beside(second)
	half := len(at.records) / 2
	at.read(built, at.records[:half]...)
	die("builds")
	at.read(built, at.records...)
	p.look()
	stop := p.operates()
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the rebuild ended as %v", o)
	}
	stop()
	swap := func() *readmodelv1.Operation {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // nobody carries it out yet
		defer cancel()
		r, err := p.Operators().SwapGeneration(ctx, &readmodelv1.SwapGenerationRequest{Request: asked()})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetOperation()
	}
	o := swap()
	for _, phase := range []string{"begins", "compares", "switches"} {
		die(phase)
		if got := p.states()[second]; got != "READY" {
			t.Fatalf("killed at %q, the generation is %s", phase, got)
		}
	}
	die("switched")
	if got := p.states()[second]; got != "SERVING" {
		t.Fatalf("killed behind the switch, the generation is %s", got)
	}
	p.operates()
	if o := p.ends(o.GetId()); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the swap ended as %v", o)
	}
	if _, generation := p.amount("o1"); generation != second {
		t.Errorf("%s answers", generation)
	}
}

func TestDrop(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	at.read(p.Beside(second))
	p.ends(id)
	if _, err := p.swap(""); err != nil {
		t.Fatal(err)
	}
	drop := func(name string, within bool) error {
		_, err := p.Operators().DropGeneration(t.Context(), &readmodelv1.DropGenerationRequest{Request: asked(), Generation: name, WithinWindow: within})
		return err
	}
	if err := drop(second, true); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("drop of the generation that answers: %v", err)
	}
	if err := drop(p.Generation(), false); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("drop within the rollback window: %v", err)
	}
	if err := drop(p.Generation(), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{second: "SERVING"}, p.states()); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got, generation := p.amount("o1"); got != 1 || generation != second {
		t.Errorf("%s answers %d", generation, got)
	}
	if err := p.rollback(); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("rollback to what was dropped: %v", err)
	}
	// A process that starts now finds the rebuilt one, and a further rebuild has a
	// name of its own.
	next := at.process()
	if next.Generation() != second {
		t.Errorf("a new process keeps %s", next.Generation())
	}
	if _, third := p.rebuild(); !strings.HasSuffix(third, ".3") {
		t.Errorf("the third build is named %s", third)
	}
}

func TestABuildYieldsToWhatAnswers(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	built := p.Beside(second)
	if why := built.Braked(); why != "" {
		t.Fatalf("it stands still beside a generation that has read everything: %s", why)
	}
	// The one that answers falls behind: its marks are old, its log has more.
	at.send(fact("late", "order/late", 1, &note{Add: 1}))
	p.EndsAre(0, at.log.offsets)
	p.until("the build stands still", func() bool { return built.Braked() != "" })
	p.until("the operation says so", func() bool { return p.operation(id).GetPhase() == "stands still" })
	if _, err := built.Claim(t.Context(), 0, topicIDs); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- built.Handle(t.Context(), 0, at.records) }()
	select {
	case err := <-read:
		t.Fatalf("it read on: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	at.read(p.Projection)
	p.until("it goes on", func() bool { return built.Braked() == "" })
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the rebuild ended as %v", o)
	}
}

func TestPauseAndResume(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	if _, err := p.Operators().PauseOperation(t.Context(), &readmodelv1.PauseOperationRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	p.until("it stands still", func() bool { return p.Beside(second).Braked() != "" })
	// It still does in a process that starts now.
	other := at.process()
	other.look()
	if other.Beside(second).Braked() == "" {
		t.Error("a paused build goes on in a new process")
	}
	if _, err := p.Operators().ResumeOperation(t.Context(), &readmodelv1.ResumeOperationRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	p.until("it goes on", func() bool { return p.Beside(second).Braked() == "" })
	at.read(p.Beside(second))
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the rebuild ended as %v", o)
	}
	if _, err := p.Operators().PauseOperation(t.Context(), &readmodelv1.PauseOperationRequest{Id: id}); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("pausing what ended: %v", err)
	}
}

func TestRefoldOperations(t *testing.T) {
	at := newSite(t)
	facts := orders(8)
	for i := range facts {
		facts[i].RecordedAt = dawn.Add(time.Duration(i) * time.Hour)
	}
	at.send(facts...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	good := p.viewRows()
	partition := int32(0)
	_ = kafka.DefaultPartitions
	tests := []struct {
		name   string
		what   *readmodelv1.StartRefoldRequest
		mended int64
	}{
		{"one order", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_OrderId{OrderId: "o3"}}, 1},
		{"a range of time", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_Committed{Committed: &readmodelv1.TimeRange{
			From: stampOf(dawn.Add(2 * time.Hour)), To: stampOf(dawn.Add(5 * time.Hour)),
		}}}, 3},
		{"a partition", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_Partition{Partition: partition}}, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p.exec("UPDATE state SET state = replace(state::text, '\"Amount\":1', '\"Amount\":50')::json")
			tt.what.Request = asked()
			r, err := p.Operators().StartRefold(t.Context(), tt.what)
			if err != nil {
				t.Fatal(err)
			}
			o := p.ends(r.GetOperation().GetId())
			if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED || o.GetDone() != tt.mended {
				t.Fatalf("the refold ended as %v", o)
			}
			if n := len(p.query(`SELECT 1 FROM @state WHERE state::text LIKE '%"Amount":1,%'`)); int64(n) != tt.mended {
				t.Errorf("%d states were mended, want %d", n, tt.mended)
			}
		})
	}
	_ = good
}

func stampOf(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
