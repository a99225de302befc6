package conformance_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/conformance"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

func TestMain(m *testing.M) {
	// Views are broken on purpose here; rapid need not keep what breaks them.
	flag.Parse()
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// The view of these tests: what is owed for an order, and to whom it goes.

type state struct {
	Parts map[string]*part `json:"p,omitempty"`
	// What broken views need.
	Last  string `json:"l,omitempty"`
	Flag  bool   `json:"f,omitempty"`
	Facts int    `json:"n,omitempty"`
	Drift drift  `json:"d,omitempty"`
	lost  int
}

// drift is another one whenever it is read.
type drift string

func (d *drift) UnmarshalText(text []byte) error {
	*d = drift(text) + "!"
	return nil
}

type part struct {
	Customer string             `json:"c"`
	Amount   int64              `json:"a"`
	Currency string             `json:"m"`
	At       time.Time          `json:"t"`
	Held     bool               `json:"h,omitempty"`
	To       *facts.Address     `json:"to,omitempty"`
	Promised *time.Time         `json:"pr,omitempty"`
	Seen     []string           `json:"s,omitempty"`
	Placed   *facts.OrderPlaced `json:"-"`
}

type partRow struct {
	OrderID  string     `db:"order_id,key"`
	Part     string     `db:"part,key"`
	Amount   int64      `db:"amount"`
	Text     string     `db:"text"`
	City     *string    `db:"city"`
	Promised *time.Time `db:"promised"`
	At       time.Time  `db:"at"`
}

type owed struct {
	Currency string `db:"currency,key"`
	Parts    int64  `db:"parts,sum"`
	Amount   int64  `db:"amount,sum"`
}

type heard struct {
	Fact string    `db:"fact"`
	At   time.Time `db:"at"`
}

const schema = `
CREATE TABLE parts (order_id text, part text, amount bigint NOT NULL, text text NOT NULL, city text, promised timestamptz, at timestamptz NOT NULL,
	PRIMARY KEY (order_id, part));
CREATE TABLE owed (partition int, currency text, parts bigint NOT NULL, amount bigint NOT NULL, PRIMARY KEY (currency, partition));
CREATE TABLE heard (order_id text NOT NULL, aggregate_type text, aggregate_id text, epoch text, version bigint, event_id text,
	ordinal int, fact text NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (aggregate_type, aggregate_id, epoch, version, event_id, ordinal));`

func apply(s *state, f event.Fact) {
	if s.Parts == nil {
		s.Parts = map[string]*part{}
	}
	p := s.Parts[f.Aggregate.String()]
	if p == nil {
		p = &part{}
		s.Parts[f.Aggregate.String()] = p
	}
	p.At = f.OccurredAt
	switch b := f.Body.(type) {
	case *facts.OrderPlaced:
		p.Customer, p.Amount, p.Currency, p.To, p.Promised = b.CustomerID, b.Total.Amount, b.Total.Currency, b.Address, b.PromisedAt
	case *facts.OrderHeld:
		p.Held = true
	case *facts.OrderReleased:
		p.Held = false
	case *facts.PaymentCaptured:
		p.Customer, p.Amount, p.Currency = b.CustomerID, -b.TotalCaptured.Amount, b.TotalCaptured.Currency
	}
}

func rows(order string, s *state, put func(partRow)) {
	for id, p := range s.Parts {
		r := partRow{OrderID: order, Part: id, Amount: p.Amount, Text: s.Last, Promised: p.Promised, At: p.At}
		if p.To != nil {
			r.City = p.To.City
		}
		if !p.Held {
			put(r)
		}
	}
}

func view() fold.View[state] {
	return fold.View[state]{
		Name: "owed", Version: 1, Schema: schema, Sources: []string{"order", "payment"}, Fold: apply,
		Tables: []fold.Table[state]{
			fold.Rows("parts", rows),
			fold.Sums("owed", func(_ string, s *state, add func(owed)) {
				for _, p := range s.Parts {
					add(owed{p.Currency, 1, p.Amount})
				}
			}),
		},
		Logs: []fold.LogTable{fold.Log("heard", func(f event.Fact, put func(heard)) { put(heard{f.Type, f.OccurredAt}) })},
	}
}

func histories(t *rapid.T) [][]event.Fact {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var all [][]event.Fact
	add := func(typ, id, order string, bodies ...facts.Fact) {
		var facts []event.Fact
		for i, b := range bodies {
			facts = append(facts, event.Fact{Body: b, Envelope: event.Envelope{
				ID: fmt.Sprintf("%s-%s-%d", typ, id, i), Source: typ, Type: b.FactName(), SchemaVersion: b.AvroSchemaVersion(),
				Aggregate: event.Aggregate{Type: typ, ID: id}, Version: int64(i + 1), Epoch: "20260301T000000.000Z-0000000000000001", Key: order,
				OccurredAt: at.Add(time.Duration(rapid.IntRange(0, 99).Draw(t, "hour")) * time.Hour), RecordedAt: at,
			}})
		}
		all = append(all, facts)
	}
	for o := range rapid.IntRange(1, 3).Draw(t, "orders") {
		order := fmt.Sprintf("o%d", o)
		eur := func() facts.Money {
			return facts.Money{Amount: rapid.Int64Range(1, 100).Draw(t, "amount"), Currency: "EUR"}
		}
		placed := &facts.OrderPlaced{OrderID: order, CustomerID: "c", Actor: "customer", Fulfilment: facts.FulfilmentManaged, Channel: "web",
			ShippingFee: eur(), Total: eur(), Address: &facts.Address{Country: "DE"}, Lines: []facts.OrderLine{
				{LineID: "1", SKU: "a", Quantity: 1, UnitPrice: eur()}, {LineID: "2", SKU: "b", Quantity: 1, UnitPrice: eur()}}}
		bodies := []facts.Fact{placed}
		for range rapid.IntRange(0, 3).Draw(t, "held") {
			bodies = append(bodies, &facts.OrderHeld{OrderID: order, CustomerID: "c", Actor: "operator:kim"},
				&facts.OrderReleased{OrderID: order, CustomerID: "c", Actor: "operator:kim"})
		}
		add("order", order, order, bodies...)
		for p := range rapid.IntRange(0, 3).Draw(t, "payments") {
			id := fmt.Sprintf("%s-p%d", order, p)
			add("payment", id, order,
				&facts.PaymentRequested{OrderID: order, CustomerID: "c", Actor: "customer", PaymentID: id, Fulfilment: facts.FulfilmentManaged,
					Method: facts.PaymentMethodCard, Amount: eur(), Installments: 1, Provider: "simulator"},
				&facts.PaymentDeclined{OrderID: order, CustomerID: "c", Actor: "provider", PaymentID: id, Method: facts.PaymentMethodCard, Amount: eur(), ReasonCode: "NO"},
				&facts.PaymentCaptured{OrderID: order, CustomerID: "c", Actor: "fulfilment", PaymentID: id, Method: facts.PaymentMethodCard, Amount: eur(), TotalCaptured: eur()})
		}
	}
	return all
}

// suite writes a contract that names the given fields as personal.
func suite(t *testing.T, v fold.View[state], personal ...string) conformance.Suite[state] {
	t.Helper()
	dir, text := t.TempDir(), "personal_data:\n"
	for _, field := range personal {
		text += fmt.Sprintf("  - field: %s\n    purpose: to send it there\n", field)
	}
	if err := os.WriteFile(filepath.Join(dir, "readmodel.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return conformance.Suite[state]{View: v, History: histories, Dir: dir}
}

func TestAGoodViewPasses(t *testing.T) {
	for name, err := range conformance.Try(t, suite(t, view(), "parts.city")) {
		t.Errorf("%s: %v", name, err)
	}
}

// TestBrokenViewsAreFound gives the kit views that are each broken in one way.
func TestBrokenViewsAreFound(t *testing.T) {
	folding := func(more func(*state, *part, event.Fact)) func(*fold.View[state]) {
		return func(v *fold.View[state]) {
			v.Fold = func(s *state, f event.Fact) {
				apply(s, f)
				more(s, s.Parts[f.Aggregate.String()], f)
			}
		}
	}
	deriving := func(derive func(string, *state, func(partRow))) func(*fold.View[state]) {
		return func(v *fold.View[state]) { v.Tables[0] = fold.Rows("parts", derive) }
	}
	calls := 0
	tests := []struct {
		name   string
		spoil  func(*fold.View[state])
		found  string // the check that must find it
		says   string
		fields []string
	}{
		{name: "a clock in Fold", found: "determinism", says: "clock",
			spoil: folding(func(_ *state, p *part, _ event.Fact) { p.At = time.Now().Truncate(24 * time.Hour) })},
		{name: "a clock in Rows", found: "determinism", says: "clock",
			spoil: deriving(func(id string, s *state, put func(partRow)) {
				rows(id, s, func(r partRow) { r.Text = fmt.Sprint(time.Now().Year()); put(r) })
			})},
		{name: "the order of a map", found: "determinism", says: "other rows",
			spoil: deriving(func(id string, s *state, put func(partRow)) {
				var first []string
				for name := range s.Parts {
					first = append(first, name)
				}
				rows(id, s, func(r partRow) { r.Text = strings.Join(first, " "); put(r) })
			})},
		{name: "memory outside the state", found: "determinism", says: "other rows",
			spoil: folding(func(_ *state, p *part, _ event.Fact) { calls++; p.Amount += int64(calls) })},
		{name: "a state that does not survive its encoding", found: "law", says: "depend on",
			spoil: folding(func(s *state, p *part, _ event.Fact) { s.lost++; p.Amount = int64(s.lost) })},
		{name: "rows that depend on how facts are cut into batches", found: "law", says: "depend on",
			spoil: folding(func(_ *state, p *part, f event.Fact) {
				if b, ok := f.Body.(*facts.OrderPlaced); ok {
					p.Placed = b // not stored: gone in the next batch
				} else if p.Placed != nil {
					p.Amount += p.Placed.Total.Amount
				}
			})},
		{name: "one entry for all aggregates", found: "law", says: "depend on",
			spoil: folding(func(s *state, _ *part, f event.Fact) { s.Last = f.Aggregate.ID })},
		{name: "an entry that counts facts of others", found: "law", says: "depend on",
			spoil: folding(func(s *state, p *part, _ event.Fact) { s.Facts++; p.Amount = int64(s.Facts) })},
		{name: "sums that cannot be taken back", found: "law", says: "changes the state",
			spoil: func(v *fold.View[state]) {
				v.Tables[1] = fold.Sums("owed", func(_ string, s *state, add func(owed)) {
					if !s.Flag {
						add(owed{"EUR", 1, 1})
					}
					s.Flag = true
				})
			}},
		{name: "a Fold that changes its fact", found: "law", says: "changes the OrderPlaced",
			spoil: folding(func(_ *state, _ *part, f event.Fact) {
				if b, ok := f.Body.(*facts.OrderPlaced); ok {
					b.Lines = b.Lines[:0]
				}
			})},
		{name: "what may be absent is demanded by Fold", found: "absent", says: "panicked",
			spoil: folding(func(s *state, p *part, f event.Fact) {
				if b, ok := f.Body.(*facts.OrderPlaced); ok {
					p.Customer = b.Address.Country
				}
			})},
		{name: "what may be absent is demanded by the schema", found: "absent", says: "parked",
			spoil: func(v *fold.View[state]) {
				v.Schema = strings.Replace(v.Schema, "promised timestamptz", "promised timestamptz NOT NULL", 1)
			}},
		{name: "a fact that nobody knows yet", found: "absent", says: "does not know yet",
			spoil: folding(func(_ *state, _ *part, f event.Fact) { _ = f.Body.(facts.Fact) })},
		{name: "a list in the state", found: "size", says: "belong in a Log",
			spoil: folding(func(_ *state, p *part, f event.Fact) { p.Seen = append(p.Seen, f.ID) })},
		{name: "personal data that the contract does not name", found: "personal data", says: "parts.text holds personal data",
			spoil: folding(func(s *state, _ *part, f event.Fact) {
				if b, ok := f.Body.(*facts.OrderPlaced); ok && b.Contact != nil && b.Contact.Email != nil {
					s.Last = *b.Contact.Email
				}
			})},
		{name: "personal data in sums", found: "personal data", says: "no order_id", fields: []string{"parts.city", "owed.currency"},
			spoil: func(v *fold.View[state]) {
				v.Tables[1] = fold.Sums("owed", func(_ string, s *state, add func(owed)) {
					for _, p := range s.Parts {
						if p.To != nil && p.To.City != nil {
							add(owed{*p.To.City, 1, 1})
						}
					}
				})
			}},
		{name: "a contract that names what is not there", found: "personal data", says: "nothing personal", fields: []string{"parts.city", "heard.fact"},
			spoil: func(*fold.View[state]) {}},
		{name: "a column that is too small", found: "stored", says: "parked",
			spoil: func(v *fold.View[state]) {
				v.Schema = strings.Replace(v.Schema, "at timestamptz NOT NULL,\n", "at timestamptz NOT NULL CHECK (amount < 50),\n", 1)
			}},
		{name: "a column that does not keep what it is given", found: "stored", says: "stored rows",
			spoil: func(v *fold.View[state]) {
				v.Schema = strings.Replace(v.Schema, "at timestamptz NOT NULL,\n", "at timestamptz(0) NOT NULL,\n", 1)
				v.Tables[0] = fold.Rows("parts", func(id string, s *state, put func(partRow)) {
					rows(id, s, func(r partRow) { r.At = r.At.Add(time.Millisecond); put(r) })
				})
			}},
		{name: "a state that is another one when it is read", found: "rederived", says: "written again is another one",
			spoil: folding(func(s *state, _ *part, _ event.Fact) { s.Drift = "d" })},
		{name: "a column that the database fills", found: "rebalance", says: "after rebalances",
			spoil: func(v *fold.View[state]) {
				v.Schema += `; CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text := 'x'; RETURN NEW; END $$;
					CREATE TRIGGER fill BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION fill()`
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := view()
			tt.spoil(&v)
			if tt.fields == nil {
				tt.fields = []string{"parts.city"}
			}
			err := conformance.Try(t, suite(t, v, tt.fields...), tt.found)[tt.found]
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s says %v, want %q", tt.found, err, tt.says)
			}
		})
	}
}
