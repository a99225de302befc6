package projection_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
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

// desk is a process that reconciles.
type desk struct {
	*subject
	*site
	readmodelv1.ReconcileServiceClient
	owner *answering // of the source order
}

// newDesk opens a view, has it read some facts, and lets it carry out operations.
// The view says how it is compared with the owner of orders.
func newDesk(t *testing.T, facts ...event.Fact) *desk {
	t.Helper()
	return newDeskOf(t, nil, facts...)
}

func newDeskOf(t *testing.T, tweaks []tweak, facts ...event.Fact) *desk {
	t.Helper()
	at := newSite(t)
	at.send(facts...)
	owner := &answering{journal: at.journal, says: map[string]func(*projection.Answer){}}
	at.truths = owner.truths()
	s := at.process(append([]tweak{owner.connected}, tweaks...)...)
	s.look()
	at.read(s.Projection)
	s.endsAre(0, at.log.offsets)
	s.until("the view answers", func() bool {
		_, err := s.read(nil, "")
		return err == nil
	})
	s.operates()
	return &desk{s, at, readmodelv1.NewReconcileServiceClient(s.served()), owner}
}

// reconcile compares everything, or one order, and returns what differs.
func (d *desk) reconcile(order string) (*readmodelv1.Operation, []string) {
	t := d.subject.t
	t.Helper()
	r, err := d.StartReconcile(t.Context(), &readmodelv1.StartReconcileRequest{Request: asked(), OrderId: order})
	if err != nil {
		t.Fatal(err)
	}
	o := d.ends(r.GetOperation().GetId())
	if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("reconciled: %v", o)
	}
	var found []string
	for _, f := range o.GetReport().GetDifferences() {
		found = append(found, strings.TrimSpace(fmt.Sprintf("%s %s %s %s: %s, not %s", f.GetOrderId(), f.GetTable(), f.GetKey(), f.GetField(), f.GetValue(), f.GetBaseValue())))
	}
	for _, v := range o.GetReport().GetViolations() {
		found = append(found, v.GetCheck()+" "+v.GetSubject()+" "+v.GetDescription())
	}
	slices.Sort(found)
	if int64(len(found)) != o.GetReport().GetDiffering() {
		t.Errorf("%d differences, %d named", o.GetReport().GetDiffering(), len(found))
	}
	return o, found
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func manyOrders(n int) (facts []event.Fact) {
	for i := range n {
		facts = append(facts, about(fmt.Sprintf("o%03d", i), 1, 3)...)
	}
	return facts
}

// TestAFullPassNamesExactlyWhatWasCorrupted corrupts rows while facts go on
// coming, and has a clean pass before.
func TestAFullPassNamesExactlyWhatWasCorrupted(t *testing.T) {
	d := newDesk(t, manyOrders(250)...)
	stop, done := make(chan struct{}), make(chan struct{})
	var moved atomic.Int64
	due := make(chan struct{}, 1)
	d.journal.hook = func() { poke(due) }
	go func() { // live traffic on every tenth order, and new ones, as fast as orders are compared
		defer close(done)
		for v := int64(4); ; v++ {
			for i := 0; i < 250; i += 10 {
				select {
				case <-stop:
					return
				case <-due:
				}
				id := fmt.Sprintf("o%03d", i)
				f := fact(id, "order/"+id, v, &note{Add: v, Text: fmt.Sprint("t", v%3)})
				n := fact(fmt.Sprintf("n%d-%d", v, i), fmt.Sprintf("order/n%d-%d", v, i), 1, &note{Add: 1, Text: "held"})
				if err := d.Handle(context.Background(), 0, d.order.send(f, n)); err != nil {
					t.Error(err)
					return
				}
				moved.Add(1)
			}
		}
	}()
	o, found := d.reconcile("")
	if len(found) != 0 || o.GetReport().GetOrdersCompared() < 250 || len(o.GetReport().GetSumsChecked()) != 1 {
		t.Errorf("a clean view: %v, %v", found, o.GetReport())
	}
	d.exec("UPDATE parts SET amount = amount + 1 WHERE order_id = 'o101'")
	d.exec("DELETE FROM parts WHERE order_id = 'o007'")
	d.exec(`UPDATE state SET state = replace(state::text, '"held"', '"lost"')::json WHERE order_id = 'o203'`)
	before := moved.Load()
	o, found = d.reconcile("")
	want := []string{
		"o007 parts order/o007 : , not (row)",
		"o101 parts order/o101 amount: 15, not 14",
		"o203 state  Parts.order/o203.Text: (otherwise), not (as folded)",
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("differences (-want +got):\n%s\n%v", diff, o)
	}
	close(stop)
	<-done
	if before == 0 || moved.Load() == before {
		t.Error("nothing moved while it was compared: the test is no test")
	}
	last, err := d.GetReconciliation(t.Context(), &readmodelv1.GetReconciliationRequest{})
	if err != nil || last.GetLast().GetId() != o.GetId() {
		t.Errorf("last %v, %v", last, err)
	}
	described, err := readmodelv1.NewReadModelServiceClient(d.served()).DescribeReadModel(t.Context(), &readmodelv1.DescribeReadModelRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r := described.GetStanding().GetLastReconciliation(); r.GetResult() != "DIFFERENCES" || r.GetDifferences() != 3 || r.GetFinishedAt() == nil {
		t.Errorf("described %v", r)
	}
	if _, found := d.reconcile("o102"); len(found) != 0 {
		t.Errorf("one order that is right: %v", found)
	}
	if _, found := d.reconcile("o101"); len(found) != 1 {
		t.Errorf("one order: %v", found)
	}
}

func TestReconcileNamesEveryKindOfCorruption(t *testing.T) {
	d := newDesk(t, manyOrders(5)...)
	d.journal.add(fact("never", "order/never", 1, &note{Add: 1}))
	tests := []struct{ name, sql, want string }{
		{"a log entry", "UPDATE notes SET text = 'forged' WHERE order_id = 'o001' AND version = 2", "o001 notes order/o001/"},
		{"a log entry that is gone", "DELETE FROM notes WHERE order_id = 'o002' AND version = 1", "o002 notes order/o002/"},
		{"a row too many", "INSERT INTO parts SELECT order_id, 'forged', amount, text, last, doc FROM parts WHERE order_id = 'o003'", "o003 parts forged : (row), not"},
		{"a document", `UPDATE parts SET doc = '{"n": 99}' WHERE order_id = 'o004'`, "o004 parts order/o004 doc.n: 99, not 14"},
		{"a row of nobody", "INSERT INTO parts SELECT 'zz', part, amount, text, last, doc FROM parts WHERE order_id = 'o000'", "zz state"},
		{"a sum", "UPDATE texts SET amount = amount + 7", `SUMS table texts, key 0 "held"`},
		{"an order that never came", "", "never applied order/never : 0, not 1"},
	}
	var want []string
	for _, tt := range tests {
		if tt.sql != "" {
			d.exec(tt.sql)
		}
		want = append(want, tt.want)
	}
	_, found := d.reconcile("")
	for i, tt := range tests {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, want[i]) }) {
			t.Errorf("%s is not named", tt.name)
		}
	}
	if len(found) != len(tests) {
		t.Errorf("%d differences, want %d:\n%s", len(found), len(tests), strings.Join(found, "\n"))
	}
}

// TestAMoverIsNoFalseAlarm has an order move each time between what is read of it
// here and at its owner.
func TestAMoverIsNoFalseAlarm(t *testing.T) {
	d := newDesk(t, about("o", 1, 3)...)
	version := int64(3)
	var one sync.Mutex
	d.journal.hook = func() {
		one.Lock()
		defer one.Unlock()
		version++
		if err := d.Handle(context.Background(), 0, d.order.send(fact("o", "order/o", version, &note{Add: 100, Text: fmt.Sprint(version)}))); err != nil {
			t.Error(err)
		}
	}
	_, found := d.reconcile("")
	one.Lock()
	defer one.Unlock()
	if len(found) != 0 || version == 3 {
		t.Errorf("at version %d: %v", version, found)
	}
}

func TestASkippedFactIsNoDifference(t *testing.T) {
	facts := about("o", 1, 3)
	d := newDesk(t, facts[0])
	records := d.order.send(facts[1:]...)
	records[0].Value = []byte("spoiled") // the journal still has it
	if err := d.Handle(t.Context(), 0, records); err != nil {
		t.Fatal(err)
	}
	quarantine := readmodelv1.NewQuarantineServiceClient(d.served())
	if _, err := quarantine.SkipParked(t.Context(), &readmodelv1.SkipParkedRequest{Aggregate: named("order", "o"), EventId: facts[1].ID, Reason: "r", Actor: "a"}); err != nil {
		t.Fatal(err)
	}
	d.heal()
	void := slices.Clone(facts)
	void[1].Body = &skip{}
	same(t, memory(t, void...), d.viewRows())
	if _, found := d.reconcile(""); len(found) != 0 {
		t.Errorf("a skipped fact is a difference: %v", found)
	}
}

func TestOrdersAreComparedAllTheTime(t *testing.T) {
	d := newDesk(t, manyOrders(10)...)
	look := func() *readmodelv1.GetReconciliationResponse {
		t.Helper()
		r, err := d.GetReconciliation(t.Context(), &readmodelv1.GetReconciliationRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	round := func() {
		t.Helper()
		for range 3 { // 4, 4 and the last 2
			if err := d.ReconcileSome(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
		}
	}
	if look().GetContinuous() != nil {
		t.Error("compared before it was")
	}
	round()
	if c := look().GetContinuous(); c.GetOrders() != 10 || c.GetResult() != "CLEAN" || c.GetFinishedAt() == nil ||
		owners(c.GetOwners()) != "order: 10 compared, 0 moved, 0 given up ; held 10/10; amountEUR 140/140\n"+unasked {
		t.Errorf("a clean round: %v", c)
	}
	d.exec("UPDATE parts SET amount = 0 WHERE order_id = 'o005'")
	round()
	r := look()
	if c := r.GetContinuous(); c.GetResult() != "DIFFERENCES" || c.GetDifferences() != 1 || r.GetDifferences()[0].GetDifference().GetOrderId() != "o005" {
		t.Errorf("a corrupted row: %v", r)
	}
	d.exec("UPDATE parts SET amount = 14 WHERE order_id = 'o005'")
	round()
	if r := look(); r.GetContinuous().GetResult() != "CLEAN" || len(r.GetDifferences()) != 0 {
		t.Errorf("mended: %v", r)
	}
}

func TestReconcileNeedsTheJournals(t *testing.T) {
	s := fresh(t, func(c *projection.Config, _ *fold.View[tally]) { c.Journal = nil })
	_, err := readmodelv1.NewReconcileServiceClient(s.served()).StartReconcile(t.Context(), &readmodelv1.StartReconcileRequest{Request: asked()})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v", err)
	}
}
