package order

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/schemas"
)

func cents(amount int64) Money { return Money{Amount: amount, Currency: "EUR"} }

func meta() Meta {
	return Meta{Actor: "customer", OccurredAt: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}
}

func goodPlace() Place {
	return Place{
		Meta: meta(), CustomerID: "c-1", Fulfilment: Managed, Channel: "web",
		Lines:       []Line{{ID: "1", SKU: "mug", Quantity: 2, UnitPrice: cents(1250)}},
		ShippingFee: cents(500), Plan: []PlannedPayment{{Method: "CARD", Amount: cents(3000)}},
	}
}

// in returns an order brought into a state by its own commands.
func in(t testing.TB, state State, held bool) *Order {
	t.Helper()
	o := &Order{ID: "o-1"}
	do := func(events []Event, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			o.Apply(e)
		}
	}
	if state == None {
		return o
	}
	do(o.Place(goodPlace()))
	switch state {
	case Confirmed:
		do(o.Confirm(Confirm{Meta: meta()}))
	case Completed:
		do(o.Confirm(Confirm{Meta: meta()}))
		do(o.Complete(Complete{meta()}))
	case Cancelled:
		do(o.Cancel(Cancel{Meta: meta(), Reason: "CUSTOMER"}))
	}
	if held {
		do(o.Hold(Hold{Meta: meta(), Reason: "fraud check"}))
	}
	return o
}

// commands by name, each as it is when the state allows it.
func commands() map[string]func(*Order) ([]Event, error) {
	address := &Address{City: "Berlin"}
	return map[string]func(*Order) ([]Event, error){
		"place":   func(o *Order) ([]Event, error) { return o.Place(goodPlace()) },
		"amend":   func(o *Order) ([]Event, error) { return o.Amend(Amend{Meta: meta(), Address: address}) },
		"hold":    func(o *Order) ([]Event, error) { return o.Hold(Hold{Meta: meta(), Reason: "r"}) },
		"release": func(o *Order) ([]Event, error) { return o.Release(Release{Meta: meta()}) },
		"confirm": func(o *Order) ([]Event, error) { return o.Confirm(Confirm{Meta: meta()}) },
		"cancel":  func(o *Order) ([]Event, error) { return o.Cancel(Cancel{Meta: meta(), Reason: "OPERATOR"}) },
		"complete": func(o *Order) ([]Event, error) {
			return o.Complete(Complete{meta()})
		},
	}
}

func TestTransitions(t *testing.T) {
	for _, tt := range []struct {
		state   State
		held    bool
		allowed map[string]State // command -> state after it
	}{
		{None, false, map[string]State{"place": Placed}},
		{Placed, false, map[string]State{"amend": Placed, "hold": Placed, "confirm": Confirmed, "cancel": Cancelled}},
		{Placed, true, map[string]State{"amend": Placed, "release": Placed, "cancel": Cancelled}},
		{Confirmed, false, map[string]State{"amend": Confirmed, "hold": Confirmed, "complete": Completed, "cancel": Cancelled}},
		{Confirmed, true, map[string]State{"amend": Confirmed, "release": Confirmed, "cancel": Cancelled}},
		{Completed, false, nil},
		{Cancelled, false, nil},
	} {
		for name, command := range commands() {
			o := in(t, tt.state, tt.held)
			before := *o
			events, err := command(o)
			if diff := cmp.Diff(before, *o); diff != "" {
				t.Errorf("%s in %q decided and changed the order: %s", name, tt.state, diff)
			}
			want, ok := tt.allowed[name]
			if !ok {
				kind := fault.KindFailedPrecondition
				switch {
				case name == "place":
					kind = fault.KindAlreadyExists
				case tt.state == None:
					kind = fault.KindNotFound
				}
				if fault.KindOf(err) != kind || err == nil {
					t.Errorf("%s in %q (held %v): %v, want a %v", name, tt.state, tt.held, err, kind)
				}
				continue
			}
			if err != nil || len(events) != 1 {
				t.Errorf("%s in %q (held %v): %d events, %v", name, tt.state, tt.held, len(events), err)
				continue
			}
			o.Apply(events[0])
			if o.State != want || (o.State == Cancelled && o.OnHold) {
				t.Errorf("%s in %q led to %q, want %q", name, tt.state, o.State, want)
			}
		}
	}
}

func TestPlaceRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, field string
		spoil       func(*Place)
	}{
		{"no lines", "lines", func(p *Place) { p.Lines = nil }},
		{"line twice", "lines[1].line_id", func(p *Place) { p.Lines = append(p.Lines, p.Lines[0]) }},
		{"no pieces", "lines[0].quantity", func(p *Place) { p.Lines[0].Quantity = 0 }},
		{"negative pieces", "lines[0].quantity", func(p *Place) { p.Lines[0].Quantity = -1 }},
		{"too many pieces", "lines[0].quantity", func(p *Place) { p.Lines[0].Quantity = 10_001 }},
		{"negative price", "lines[0].unit_price.amount", func(p *Place) { p.Lines[0].UnitPrice.Amount = -1 }},
		{"two currencies", "lines[0].unit_price.currency", func(p *Place) { p.Lines[0].UnitPrice.Currency = "BRL" }},
		{"negative fee", "shipping_fee.amount", func(p *Place) { p.ShippingFee.Amount = -1 }},
		{"overflow", "lines[0].unit_price.amount", func(p *Place) { p.Lines[0].UnitPrice.Amount = 1 << 62 }},
		{"absurd total", "lines", func(p *Place) { p.Lines[0].UnitPrice.Amount = 999_999_999_999 }},
		{"plan too small", "payment_plan", func(p *Place) { p.Plan[0].Amount.Amount = 2999 }},
		{"no plan", "payment_plan", func(p *Place) { p.Plan = nil }},
		{"plan of nothing", "payment_plan[0].amount.amount", func(p *Place) { p.Plan[0].Amount.Amount = 0 }},
		{"plan in another currency", "payment_plan[0].amount.currency", func(p *Place) { p.Plan[0].Amount.Currency = "BRL" }},
	} {
		p := goodPlace()
		tt.spoil(&p)
		_, err := (&Order{ID: "o"}).Place(p)
		if f := fault.As(err); f == nil || f.Kind != fault.KindInvalid || f.Violations[0].Field != tt.field {
			t.Errorf("%s: %v, want field %s", tt.name, err, tt.field)
		}
	}
}

func TestAnExternalOrderMayBeEmpty(t *testing.T) {
	o := &Order{ID: "o"}
	events, err := o.Place(Place{Meta: meta(), CustomerID: "c", Fulfilment: External, ShippingFee: cents(0), Plan: []PlannedPayment{{Method: "VOUCHER", Amount: cents(0)}}})
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
}

func TestAmend(t *testing.T) {
	fee, other := cents(700), Money{Amount: 1, Currency: "BRL"}
	plan := []PlannedPayment{{Method: "CARD", Amount: cents(3200)}}
	for _, tt := range []struct {
		name   string
		state  State
		amend  Amend
		reason fault.Reason // "" if it is allowed
		total  int64
	}{
		{"nothing", Placed, Amend{}, fault.ReasonInvalidField, 0},
		{"fee without a plan", Placed, Amend{ShippingFee: &fee}, fault.ReasonInvalidField, 0},
		{"fee with its plan", Placed, Amend{ShippingFee: &fee, Plan: plan}, "", 3200},
		{"another currency", Placed, Amend{ShippingFee: &other}, fault.ReasonInvalidField, 0},
		{"fee of a confirmed order", Confirmed, Amend{ShippingFee: &fee, Plan: plan}, fault.ReasonRuleViolated, 0},
		{"address of a confirmed order", Confirmed, Amend{Address: &Address{City: "Bonn"}}, "", 3000},
		{"address after dispatch", Confirmed, Amend{Address: &Address{City: "Bonn"}, Note: "dispatched"}, fault.ReasonRuleViolated, 0},
		{"promise after dispatch", Confirmed, Amend{PromisedAt: &time.Time{}, Note: "dispatched"}, "", 3000},
	} {
		o := in(t, tt.state, false)
		o.DispatchKnown = tt.amend.Note == "dispatched"
		events, err := o.Amend(tt.amend)
		if tt.reason != "" {
			if fault.ReasonOf(err) != tt.reason || err == nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		o.Apply(events[0])
		if o.Total.Amount != tt.total {
			t.Errorf("%s: total %d", tt.name, o.Total.Amount)
		}
	}
}

// Whatever commands come in whatever order: what was decided can be applied,
// every event is a fact that others can decode, final states are final, the
// hold is honoured, and the total is the sum of lines and fee.
func TestAnyHistory(t *testing.T) {
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"place", "amend", "hold", "release", "confirm", "cancel", "complete"}
	rapid.Check(t, func(t *rapid.T) {
		o := &Order{ID: "o-1"}
		for range rapid.IntRange(1, 25).Draw(t, "length") {
			before := *o
			events, err := commands()[rapid.SampledFrom(names).Draw(t, "command")](o)
			if err != nil {
				if fault.As(err) == nil {
					t.Fatalf("unclassified: %v", err)
				}
				continue
			}
			for _, stated := range change(o, events) {
				name, version, bare, err := codec.Encode(stated.Body)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := codec.Decode(name, version, bare); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case before.State == Completed || before.State == Cancelled:
				t.Fatalf("%s changed", before.State)
			case before.OnHold && (o.State == Confirmed && before.State == Placed || o.State == Completed):
				t.Fatalf("a held order went from %s to %s", before.State, o.State)
			}
			if sum, err := sum(o.Lines, o.ShippingFee); err != nil || sum != o.Total {
				t.Fatalf("total %v, lines and fee %v, %v", o.Total, sum, err)
			}
		}
	})
}
