package projection_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// The view of these tests: an order has parts, one per aggregate, each with a
// running amount. "burst" panics, "swell" outgrows the state.

type note struct {
	Add  int64  `json:"add"`
	Text string `json:"text,omitempty"`
}

func (*note) FactName() string { return "Note" }

// skip is a fact that the view ignores.
type skip struct{}

func (*skip) FactName() string { return "Skip" }

type tally struct {
	Parts map[string]part
}

type part struct {
	Amount int64
	Text   string
	Last   time.Time
	Pad    string `json:",omitempty"`
}

type partRow struct {
	OrderID string     `db:"order_id,key"`
	Part    string     `db:"part,key"`
	Amount  int64      `db:"amount"`
	Text    *string    `db:"text"`
	Last    *time.Time `db:"last"`
	Doc     string     `db:"doc,json"`
}

type textSum struct {
	Text   string `db:"text,key"`
	Parts  int64  `db:"parts,sum"`
	Amount int64  `db:"amount,sum"`
}

type noteLog struct {
	Text string    `db:"text"`
	At   time.Time `db:"at"`
}

const tallySchema = `
CREATE TABLE parts (order_id text, part text, amount bigint NOT NULL, text text, last timestamptz, doc jsonb NOT NULL,
	PRIMARY KEY (order_id, part));
CREATE TABLE texts (partition int, text text, parts bigint NOT NULL, amount bigint NOT NULL, PRIMARY KEY (partition, text));
CREATE TABLE notes (order_id text NOT NULL, aggregate_type text, aggregate_id text, epoch text, version bigint, event_id text,
	ordinal int, text text NOT NULL, at timestamptz NOT NULL,
	PRIMARY KEY (aggregate_type, aggregate_id, epoch, version, event_id, ordinal));
`

func tallyView() fold.View[tally] {
	return fold.View[tally]{
		Name: "tally", Version: 1, Schema: tallySchema, Sources: []string{"order", "payment"},
		Fold: func(s *tally, f event.Fact) {
			n, ok := f.Body.(*note)
			if !ok {
				return
			}
			if s.Parts == nil {
				s.Parts = map[string]part{}
			}
			p := s.Parts[f.Aggregate.String()]
			p.Amount += n.Add
			if n.Text != "" {
				p.Text = n.Text
			}
			p.Last = f.OccurredAt
			if n.Text == "swell" {
				p.Pad = strings.Repeat("x", fold.MaxState)
			}
			s.Parts[f.Aggregate.String()] = p
			if n.Text == "burst" {
				panic("burst")
			}
		},
		Tables: []fold.Table[tally]{
			fold.Rows("parts", func(order string, s *tally, put func(partRow)) {
				for id, p := range s.Parts {
					r := partRow{OrderID: order, Part: id, Amount: p.Amount, Doc: `{"n":` + fmt.Sprint(p.Amount) + `}`}
					if p.Text != "" {
						r.Text = &p.Text
					}
					if p.Text == "bad json" {
						r.Doc = "{"
					}
					if !p.Last.IsZero() {
						r.Last = &p.Last
					}
					if p.Text != "gone" {
						put(r)
					}
				}
			}),
			fold.Sums("texts", func(_ string, s *tally, add func(textSum)) {
				for _, p := range s.Parts {
					add(textSum{p.Text, 1, p.Amount})
				}
			}),
		},
		Logs: []fold.LogTable{
			fold.Log("notes", func(f event.Fact, put func(noteLog)) {
				if n, ok := f.Body.(*note); ok && n.Text != "" {
					put(noteLog{n.Text, f.OccurredAt})
				}
			}),
		},
	}
}

var dawn = time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)

const epoch1 = "20261101T000000.000Z-0000000000000001"

// fact makes version v of an aggregate "type/id" of an order; without a note it
// is one that the view ignores.
func fact(order, aggregate string, v int64, n *note) event.Fact {
	typ, id, _ := strings.Cut(aggregate, "/")
	f := event.Fact{Envelope: event.Envelope{
		ID: fmt.Sprintf("%s-%s-%d", order, aggregate, v), Source: typ, Type: "Note", SchemaVersion: 1,
		Aggregate: event.Aggregate{Type: typ, ID: id}, Version: v, Epoch: epoch1, Key: order,
		OccurredAt: dawn.Add(time.Duration(v) * time.Minute), RecordedAt: dawn.Add(time.Duration(v) * time.Minute),
	}}
	f.Body = &skip{}
	if n != nil {
		f.Body = n
	}
	return f
}

func histories(t *rapid.T) [][]event.Fact {
	var all [][]event.Fact
	for o := range rapid.IntRange(1, 3).Draw(t, "orders") {
		order := fmt.Sprintf("o%d", o)
		for _, aggregate := range []string{"order/" + order, "payment/a" + order, "payment/b" + order} {
			var facts []event.Fact
			for v := range rapid.IntRange(0, 5).Draw(t, "facts") {
				n := &note{
					Add:  rapid.Int64Range(-5, 5).Draw(t, "add"),
					Text: rapid.SampledFrom([]string{"", "held", "paid", "gone"}).Draw(t, "text"),
				}
				if rapid.Bool().Draw(t, "ignored") {
					n = nil
				}
				facts = append(facts, fact(order, aggregate, int64(v)+1, n))
			}
			if len(facts) > 0 {
				all = append(all, facts)
			}
		}
	}
	return all
}

func TestLaw(t *testing.T) {
	conformance.Law(t, tallyView(), histories)
}

func TestMemory(t *testing.T) {
	tests := []struct {
		name   string
		given  []event.Fact
		amount map[string]int64 // by part
		parked int
		reason string
	}{
		{name: "facts in order", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, &note{Add: 2}),
		}, amount: map[string]int64{"order/o": 3}},
		{name: "a version again", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 1, &note{Add: 1}),
		}, amount: map[string]int64{"order/o": 1}},
		{name: "a gap parks what follows, and only of that aggregate", given: []event.Fact{
			fact("o", "payment/a", 1, &note{Add: 1}), fact("o", "payment/a", 3, &note{Add: 4}),
			fact("o", "payment/a", 4, &note{Add: 8}), fact("o", "payment/b", 1, &note{Add: 16}),
		}, amount: map[string]int64{"payment/a": 1, "payment/b": 16}, parked: 2, reason: "gap: version 3 came after version 1"},
		{name: "a panic parks the fact and what follows it, not what came before", given: []event.Fact{
			fact("o", "payment/a", 1, &note{Add: 1}), fact("o", "payment/b", 1, &note{Add: 2}),
			fact("o", "payment/a", 2, &note{Add: 4, Text: "burst"}), fact("o", "payment/a", 3, &note{Add: 8}),
			fact("o", "payment/b", 2, &note{Add: 16}), fact("p", "order/p", 1, &note{Add: 32}),
		}, amount: map[string]int64{"payment/a": 1, "payment/b": 18, "order/p": 32}, parked: 2, reason: "poison: view tally panicked: burst"},
		{name: "a state too large parks the whole order and no other", given: []event.Fact{
			fact("o", "payment/a", 1, &note{Add: 1}), fact("o", "payment/a", 2, &note{Text: "swell"}),
			fact("o", "payment/b", 1, &note{Add: 16}), fact("p", "order/p", 1, &note{Add: 32}),
		}, amount: map[string]int64{"payment/a": 1, "order/p": 32}, parked: 2, reason: "too_large: state of"},
		{name: "an equivocation parks", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), other(fact("o", "order/o", 1, &note{Add: 2})), fact("o", "order/o", 2, &note{Add: 4}),
		}, amount: map[string]int64{"order/o": 1}, parked: 2, reason: "equivocation: version 1"},
		{name: "a newer epoch that follows goes on, the older is superseded", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), newer(fact("o", "order/o", 2, &note{Add: 2})), fact("o", "order/o", 3, &note{Add: 4}),
		}, amount: map[string]int64{"order/o": 3}},
		{name: "the last fact again under a newer epoch is adopted", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), newer(fact("o", "order/o", 1, &note{Add: 1})), newer(fact("o", "order/o", 2, &note{Add: 2})),
		}, amount: map[string]int64{"order/o": 3}},
		{name: "a newer epoch that does not follow waits", given: []event.Fact{
			fact("o", "order/o", 1, &note{Add: 1}), other(newer(fact("o", "order/o", 1, &note{Add: 2}))),
		}, amount: map[string]int64{"order/o": 1}, parked: 1, reason: "newer_epoch"},
	}
	for _, tt := range tests {
		for _, cut := range []string{"one batch", "single facts"} {
			t.Run(tt.name+"/"+cut, func(t *testing.T) {
				m := fold.NewMemory(tallyView())
				if cut == "one batch" {
					apply(t, m, tt.given...)
				} else {
					for _, f := range tt.given {
						apply(t, m, f)
					}
				}
				got := map[string]int64{}
				for _, r := range m.Rows("parts") {
					got[r["part"].(string)] = r["amount"].(int64)
				}
				if diff := cmp.Diff(tt.amount, got); diff != "" {
					t.Errorf("amounts (-want +got):\n%s", diff)
				}
				n, reason := m.Parked()
				if n != tt.parked || !strings.HasPrefix(reason, tt.reason) {
					t.Errorf("parked %d (%s), want %d (%s)", n, reason, tt.parked, tt.reason)
				}
			})
		}
	}
}

func apply(t *testing.T, m *fold.Memory[tally], batch ...event.Fact) {
	t.Helper()
	if err := m.Apply(batch...); err != nil {
		t.Fatal(err)
	}
}

func other(f event.Fact) event.Fact {
	f.ID += "-other"
	return f
}

func newer(f event.Fact) event.Fact {
	f.Epoch = "20261102T000000.000Z-0000000000000002"
	return f
}

func TestDuplicateLongAfter(t *testing.T) {
	m := fold.NewMemory(tallyView())
	for v := range int64(100) {
		apply(t, m, fact("o", "order/o", v+1, &note{Add: 1}))
	}
	for v := range int64(100) {
		apply(t, m, fact("o", "order/o", v+1, &note{Add: 1}))
	}
	if got := m.Rows("parts")[0]["amount"]; got != int64(100) {
		t.Errorf("amount %v after full redelivery, want 100", got)
	}
	if n, reason := m.Parked(); n != 0 {
		t.Errorf("%d facts parked: %s", n, reason)
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*fold.View[tally])
		want  string
	}{
		{"name", func(v *fold.View[tally]) { v.Name = "Tally" }, "view name"},
		{"version", func(v *fold.View[tally]) { v.Version = 0 }, "not positive"},
		{"no order id", func(v *fold.View[tally]) {
			v.Tables = append(v.Tables, fold.Rows("bad", func(string, *tally, func(textSum)) {}))
		}, "wrong kind of column"},
		{"first column", func(v *fold.View[tally]) {
			v.Tables = append(v.Tables, fold.Rows("bad", func(string, *tally, func(noteLog)) {}))
		}, "order_id"},
		{"twice", func(v *fold.View[tally]) { v.Tables = append(v.Tables, v.Tables[0]) }, "declared twice"},
		{"float", func(v *fold.View[tally]) {
			v.Tables = append(v.Tables, fold.Rows("bad", func(string, *tally, func(struct {
				F float64 `db:"f"`
			})) {
			}))
		}, "cannot be a column"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := tallyView()
			tt.spoil(&v)
			err := v.Check()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check() = %v, want %q", err, tt.want)
			}
		})
	}
	if err := tallyView().Check(); err != nil {
		t.Errorf("Check() = %v on a good view", err)
	}
}
