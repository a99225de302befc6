package projection_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// answering is the owner of orders. It answers what its journal adds up to by code
// of its own, unless it is made to say something else.
type answering struct {
	journal *ownerJournal

	mu    sync.Mutex
	says  map[string]func(*projection.Answer) // by id
	gone  []string                            // ids of which it has nothing
	asked int
	hook  func(id string) // before it answers; may be nil
}

// connected has the view know this owner.
func (o *answering) connected(c *projection.Config, _ *fold.View[tally]) {
	c.Owners = map[string]grpc.ClientConnInterface{"order": struct{ grpc.ClientConnInterface }{}}
}

// truths say how the view is compared with this owner.
func (o *answering) truths() []projection.Truth[tally] {
	return []projection.Truth[tally]{{
		Source: "order",
		Ask: func(_ context.Context, _ grpc.ClientConnInterface, id string) (projection.Answer, error) {
			return o.answer(id)
		},
		Shown: func(_ string, s *tally, id string) projection.Said {
			p := s.Parts["order/"+id]
			return saying(p.Amount, p.Text)
		},
	}}
}

func saying(amount int64, text string) projection.Said {
	return projection.Said{
		State: text, Money: []projection.Money{{Name: "amount", Currency: "EUR", Amount: amount}},
		Fields: []projection.Field{{Name: "spelt", Value: strings.ToUpper(text)}, {Name: "whose", Value: "of " + text, Personal: true}},
	}
}

func (o *answering) answer(id string) (projection.Answer, error) {
	o.mu.Lock()
	o.asked++
	hook, change, gone := o.hook, o.says[id], slices.Contains(o.gone, id)
	o.mu.Unlock()
	if hook != nil {
		hook(id)
	}
	if gone {
		return projection.Answer{}, status.Error(codes.NotFound, "none")
	}
	o.journal.mu.Lock()
	defer o.journal.mu.Unlock()
	var a projection.Answer
	var amount int64
	var text string
	for _, f := range o.journal.facts {
		if f.Aggregate != (event.Aggregate{Type: "order", ID: id}) {
			continue
		}
		if n, ok := f.Body.(*note); ok {
			if amount += n.Add; n.Text != "" {
				text = n.Text
			}
		}
		a.At = f.Token()
	}
	a.Said = saying(amount, text)
	if change != nil {
		change(&a)
	}
	return a, nil
}

// owners is the tally of a report as text.
func owners(all []*readmodelv1.OwnerTally) string {
	var b strings.Builder
	for _, t := range all {
		fmt.Fprintf(&b, "%s: %d compared, %d moved, %d given up %s", t.GetSource(), t.GetCompared(), t.GetMoved(), t.GetGivenUp(), t.GetNotCompared())
		for _, l := range append(t.GetStates(), t.GetMoney()...) {
			fmt.Fprintf(&b, "; %s%s %d/%d", l.GetName(), l.GetCurrency(), l.GetOwner(), l.GetView())
		}
		b.WriteString("\n")
	}
	return b.String()
}

const unasked = "payment: 0 compared, 0 moved, 0 given up not compared with the owner's answers: the view does not say how\n"

func (d *desk) expects(order, tallies string, differences ...string) {
	d.subject.t.Helper()
	o, found := d.reconcile(order)
	if diff := cmp.Diff(differences, found); diff != "" {
		d.subject.t.Errorf("differences (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(tallies+unasked, owners(o.GetReport().GetOwners())); diff != "" {
		d.subject.t.Errorf("tallies (-want +got):\n%s", diff)
	}
}

func TestOwnersAndTheViewAreAddedUpSideBySide(t *testing.T) {
	d := newDesk(t, append(about("a", 1, 3), fact("b", "order/b", 1, &note{Add: 5, Text: "paid"}))...)
	sums := map[string]int64{}
	for _, f := range about("a", 1, 3) {
		sums["amount"] += f.Body.(*note).Add
	}
	want := fmt.Sprintf("order: 2 compared, 0 moved, 0 given up ; held 1/1; paid 1/1; amountEUR %[1]d/%[1]d\n", sums["amount"]+5)
	d.expects("", want)
	described, err := readmodelv1.NewReadModelServiceClient(d.served()).DescribeReadModel(t.Context(), &readmodelv1.DescribeReadModelRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := owners(described.GetStanding().GetLastReconciliation().GetOwners()); got != want+unasked {
		t.Errorf("described:\n%s", got)
	}
	if err := d.ReconcileSome(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	r, err := d.GetReconciliation(t.Context(), &readmodelv1.GetReconciliationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.GetLast().GetReport().GetOwners(), r.GetContinuous().GetOwners(), protocmp.Transform()); diff != "" {
		t.Errorf("all the time (-last +continuous):\n%s", diff)
	}
}

// TestAFoldThatMisreadsIsFoundByTheOwnersAlone plants a Fold that reads one fact
// wrongly. Journal, state, rows, entries and sums all agree with each other.
func TestAFoldThatMisreadsIsFoundByTheOwnersAlone(t *testing.T) {
	misread := func(_ *projection.Config, v *fold.View[tally]) {
		fold := v.Fold
		v.Fold = func(s *tally, f event.Fact) {
			if n, ok := f.Body.(*note); ok && n.Text == "refund" {
				f.Body = &note{Add: -n.Add, Text: n.Text}
			}
			fold(s, f)
		}
	}
	refund := fact("b", "order/b", 2, &note{Add: -3, Text: "refund"})
	facts := append(about("a", 1, 3), fact("b", "order/b", 1, &note{Add: 5, Text: "paid"}), refund)
	d := newDeskOf(t, []tweak{misread}, facts...)
	d.expects("b", "order: 1 compared, 0 moved, 0 given up ; refund 1/1; amountEUR 2/8\n", "b owner order/b amount: 8 EUR, not 2 EUR")
	if _, found := d.reconcile(""); len(found) != 1 || !strings.HasPrefix(found[0], "b owner order/b amount") {
		t.Errorf("a full pass: %v", found)
	}
	if err := d.ReconcileSome(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	if r, err := d.GetReconciliation(t.Context(), &readmodelv1.GetReconciliationRequest{}); err != nil || r.GetContinuous().GetResult() != "DIFFERENCES" {
		t.Errorf("all the time: %v, %v", r, err)
	}
	blind := newDeskOf(t, []tweak{misread, func(c *projection.Config, _ *fold.View[tally]) { c.Owners = nil }}, facts...)
	o, found := blind.reconcile("")
	if len(found) != 0 || !strings.HasPrefix(o.GetReport().GetOwners()[0].GetNotCompared(), "not compared with the owner's answers") {
		t.Errorf("without the owners: %v, %v", found, o.GetReport())
	}
}

func TestAnOwnerThatContradictsItsJournalIsNamed(t *testing.T) {
	d := newDesk(t, manyOrders(6)...)
	change := func(id string, change func(*projection.Answer)) { d.owner.says[id] = change }
	change("o000", func(a *projection.Answer) { a.Said = saying(99, "held") })
	change("o001", func(a *projection.Answer) { a.Said = saying(14, "lost") })
	change("o002", func(a *projection.Answer) { a.At.Version = 2 })
	change("o003", func(a *projection.Answer) { a.At.EventID = "another" })
	d.owner.gone = []string{"o004"}
	_, found := d.reconcile("")
	if diff := cmp.Diff([]string{
		"o000 owner order/o000 amount: 14 EUR, not 99 EUR",
		"o001 owner order/o001 spelt: HELD, not LOST",
		"o001 owner order/o001 state: held, not lost",
		"o001 owner order/o001 whose: (personal data), not (personal data)",
		"o002 owner order/o002 version: 3, not 2",
		"o003 owner order/o003 event: o003-order/o003-3, not another",
		"o004 owner order/o004 : (row), not",
	}, found); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWhatIsWrittenOverIsNamedOnce: a state that is wrong is no fault of its owner.
func TestWhatIsWrittenOverIsNamedOnce(t *testing.T) {
	d := newDesk(t, manyOrders(2)...)
	d.exec(`UPDATE state SET state = replace(state::text, '"held"', '"lost"')::json WHERE order_id = 'o001'`)
	d.expects("", "order: 2 compared, 0 moved, 0 given up ; held 2/1; lost 0/1; amountEUR 28/28\n",
		"o001 state  Parts.order/o001.Text: (otherwise), not (as folded)")
}

// TestAnOwnerThatMovesIsNoFalseAlarm has the owner move each time between what is
// read of an order here and its answer.
func TestAnOwnerThatMovesIsNoFalseAlarm(t *testing.T) {
	d := newDesk(t, append(about("o", 1, 3), about("p", 1, 3)...)...)
	version := int64(3)
	d.owner.hook = func(id string) {
		if id == "o" {
			version++
			d.journal.add(fact("o", "order/o", version, &note{Add: 100, Text: "moved"}))
		}
	}
	if err := d.ReconcileSome(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	r, err := d.GetReconciliation(t.Context(), &readmodelv1.GetReconciliationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := owners(r.GetContinuous().GetOwners()); got != "order: 1 compared, 1 moved, 0 given up ; held 1/1; amountEUR 14/14\n"+unasked ||
		r.GetContinuous().GetResult() != "CLEAN" || version != 7 {
		t.Errorf("at version %d: %v", version, got)
	}
}

// TestWhatDifferedOnceAndMovedIsNotCompared: what nobody could look at again is
// neither a difference nor right.
func TestWhatDifferedOnceAndMovedIsNotCompared(t *testing.T) {
	d := newDesk(t, about("o", 1, 3)...)
	version := int64(2)
	d.owner.hook = func(string) {
		if version++; version > 3 {
			d.journal.add(fact("o", "order/o", version, &note{Add: 100}))
		}
	}
	d.owner.says["o"] = func(a *projection.Answer) { a.Said = saying(99, "held") }
	d.expects("o", "order: 0 compared, 1 moved, 0 given up \n")
}

// TestACopyThatCatchesUpIsCompared: two aggregates of an order move in turn, so
// that each is at its owner's event at another look.
func TestACopyThatCatchesUpIsCompared(t *testing.T) {
	d := newDesk(t, append(about("o", 1, 3), fact("o", "order/o2", 1, &note{Add: 1, Text: "held"}))...)
	next := map[string][]event.Fact{ // what is committed before the answer, and applied after it
		"o":  {fact("o", "order/o", 4, &note{Add: 1})},
		"o2": {event.Fact{}, fact("o", "order/o2", 2, &note{Add: 1})},
	}
	var due []event.Fact
	d.owner.hook = func(id string) {
		if len(due) > 0 { // the copy catches up with what the other one's answer said
			if err := d.Handle(context.Background(), 0, d.order.l.facts(due...)); err != nil {
				t.Error(err)
			}
			due = nil
		}
		if len(next[id]) == 0 {
			return
		}
		f := next[id][0]
		next[id] = next[id][1:]
		if f.ID != "" {
			d.order.lose(f)
			due = append(due, f)
		}
	}
	d.expects("o", "order: 2 compared, 0 moved, 0 given up ; held 2/2; amountEUR 16/16\n")
	if len(next["o"])+len(next["o2"]) != 0 {
		t.Error("they did not move: the test is no test")
	}
}

func TestWhoStandsStillOrDoesNotTellIsNotWaitedFor(t *testing.T) {
	d := newDesk(t, append(about("o", 1, 3), about("p", 1, 3)...)...)
	records := d.order.send(fact("o", "order/o", 4, &note{Add: 1}))
	records[0].Value = []byte("spoiled")
	if err := d.Handle(t.Context(), 0, records); err != nil {
		t.Fatal(err)
	}
	d.owner.says["p"] = func(a *projection.Answer) { a.At.EventID = "" }
	d.expects("o", "order: 0 compared, 1 moved, 0 given up \n")
	d.expects("p", "order: 0 compared, 1 moved, 0 given up \n")
	if d.owner.asked != 2 {
		t.Errorf("asked %d times", d.owner.asked)
	}
}

func TestWhatWasGivenUpIsNotCompared(t *testing.T) {
	facts := about("o", 1, 3)
	d := newDesk(t, facts[0])
	void := facts[1]
	void.Body = &control.FactVoided{OriginalName: "Note", OriginalVersion: 1, Reason: "r", Actor: "a"}
	if err := d.Handle(t.Context(), 0, d.order.send(void, facts[2])); err != nil {
		t.Fatal(err)
	}
	d.owner.says["o"] = func(a *projection.Answer) { a.Said = saying(1000, "as it was decided") }
	d.expects("o", "order: 0 compared, 0 moved, 1 given up \n")
}

func TestAViewWhoseTruthsAreWrongDoesNotOpen(t *testing.T) {
	ask := func(context.Context, grpc.ClientConnInterface, string) (projection.Answer, error) {
		return projection.Answer{}, nil
	}
	shown := func(string, *tally, string) projection.Said { return projection.Said{} }
	for _, tt := range []struct {
		name, want string
		truths     []projection.Truth[tally]
	}{
		{"no source", `truth about "nobody"`, []projection.Truth[tally]{{Source: "nobody", Ask: ask, Shown: shown}}},
		{"twice", `two truths about "order"`, []projection.Truth[tally]{{Source: "order", Ask: ask, Shown: shown}, {Source: "order", Ask: ask, Shown: shown}}},
		{"half", "without Ask or Shown", []projection.Truth[tally]{{Source: "order", Ask: ask}}},
	} {
		if _, err := projection.Open(t.Context(), projection.Config{}, tallyView(), tt.truths...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
