package shipment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

func meta() Meta {
	return Meta{Actor: "carrier", OccurredAt: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}
}

func goodPlan() Plan {
	return Plan{Meta: meta(), OrderID: "o", CustomerID: "c", Fulfilment: Managed, Warehouse: "berlin", Lines: []Line{{ID: "1", SKU: "mug", Quantity: 1}}}
}

func commands() map[string]func(*Shipment) ([]Event, error) {
	return map[string]func(*Shipment) ([]Event, error){
		"plan":     func(s *Shipment) ([]Event, error) { return s.Plan(goodPlan()) },
		"dispatch": func(s *Shipment) ([]Event, error) { return s.Dispatch(Dispatch{Meta: meta(), Carrier: "dhl"}) },
		"scan":     func(s *Shipment) ([]Event, error) { return s.Scan(Scan{Meta: meta(), Location: "depot"}) },
		"delay": func(s *Shipment) ([]Event, error) {
			at := meta().OccurredAt
			return s.Delay(Delay{Meta: meta(), ExpectedAt: &at})
		},
		"stall":   func(s *Shipment) ([]Event, error) { return s.Delay(Delay{Meta: meta()}) },
		"deliver": func(s *Shipment) ([]Event, error) { return s.Deliver(Deliver{Meta: meta()}) },
		"lose":    func(s *Shipment) ([]Event, error) { return s.Lose(Lose{Meta: meta(), Reason: "r"}) },
		"return":  func(s *Shipment) ([]Event, error) { return s.Return(Return{Meta: meta(), Reason: "r"}) },
		"cancel":  func(s *Shipment) ([]Event, error) { return s.Cancel(Cancel{Meta: meta()}) },
	}
}

func TestTransitions(t *testing.T) {
	paths := map[State][]string{
		None: nil, Planned: {"plan"}, Dispatched: {"plan", "dispatch"}, Delivered: {"plan", "dispatch", "deliver"},
		Lost: {"plan", "dispatch", "lose"}, Returned: {"plan", "dispatch", "return"}, Cancelled: {"plan", "cancel"},
	}
	for state, allowed := range map[State]map[string]State{
		None:       {"plan": Planned},
		Planned:    {"dispatch": Dispatched, "delay": Planned, "stall": Planned, "cancel": Cancelled},
		Dispatched: {"scan": Dispatched, "delay": Dispatched, "stall": Dispatched, "deliver": Delivered, "lose": Lost, "return": Returned},
		Delivered:  {"scan": Delivered, "return": Returned},
		Lost:       {"scan": Lost, "deliver": Delivered, "return": Returned},
		Returned:   {"scan": Returned},
		Cancelled:  {},
	} {
		for name, command := range commands() {
			s := &Shipment{ID: "s"}
			for _, step := range paths[state] {
				events, err := commands()[step](s)
				if err != nil {
					t.Fatal(err)
				}
				change(s, events)
			}
			before := *s
			events, err := command(s)
			if diff := cmp.Diff(before, *s); diff != "" {
				t.Errorf("%s in %q decided and changed the shipment: %s", name, state, diff)
			}
			want, ok := allowed[name]
			if !ok {
				kind := fault.KindFailedPrecondition
				switch {
				case name == "plan":
					kind = fault.KindAlreadyExists
				case state == None:
					kind = fault.KindNotFound
				}
				if err == nil || fault.KindOf(err) != kind {
					t.Errorf("%s in %q: %v, want a %v", name, state, err, kind)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s in %q: %v", name, state, err)
				continue
			}
			if change(s, events); s.State != want {
				t.Errorf("%s in %q led to %q, want %q", name, state, s.State, want)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for field, spoil := range map[string]func(*Plan){
		"warehouse":         func(p *Plan) { p.Warehouse = "" },
		"lines":             func(p *Plan) { p.Lines = nil },
		"lines[1].line_id":  func(p *Plan) { p.Lines = append(p.Lines, p.Lines[0]) },
		"lines[0].quantity": func(p *Plan) { p.Lines[0].Quantity = -3 },
	} {
		p := goodPlan()
		spoil(&p)
		_, err := (&Shipment{}).Plan(p)
		if f := fault.As(err); f == nil || f.Kind != fault.KindInvalid || f.Violations[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := (&Shipment{}).Plan(Plan{Meta: meta(), Fulfilment: External}); err != nil {
		t.Errorf("an EXTERNAL shipment may have no warehouse and no lines: %v", err)
	}
}

func TestADelayNamesTheDateBefore(t *testing.T) {
	s := &Shipment{ID: "s"}
	plan := goodPlan()
	promised, first, later := meta().OccurredAt.Add(time.Hour), meta().OccurredAt.Add(2*time.Hour), meta().OccurredAt.Add(3*time.Hour)
	plan.PromisedAt = &promised
	events, err := s.Plan(plan)
	if err != nil {
		t.Fatal(err)
	}
	change(s, events)
	for _, step := range []struct{ to, before *time.Time }{{&first, &promised}, {&later, &first}, {nil, &later}, {nil, nil}, {&first, nil}} {
		events, err := s.Delay(Delay{Meta: meta(), ExpectedAt: step.to, Reason: "snow"})
		if err != nil {
			t.Fatal(err)
		}
		want := Event(WasStalled{Meta: meta(), Previous: step.before, Reason: "snow"})
		if step.to != nil {
			want = WasDelayed{Meta: meta(), ExpectedAt: *step.to, Previous: step.before, Reason: "snow"}
		}
		if diff := cmp.Diff([]Event{want}, events); diff != "" {
			t.Error(diff)
		}
		change(s, events)
		if s.Stalled != (step.to == nil) || (s.ExpectedAt == nil) != s.Stalled {
			t.Errorf("expected %v, stalled %v after a delay to %v", s.ExpectedAt, s.Stalled, step.to)
		}
	}
}

// A scan states its place in one text and in parts, whichever it was given.
func TestAScanStatesItsPlaceBothWays(t *testing.T) {
	type place struct{ Location, Facility, Area, Country string }
	for _, c := range []struct {
		given Scan
		want  place
	}{
		{Scan{}, place{}},
		{Scan{Location: "Leipzig depot"}, place{"Leipzig depot", "Leipzig depot", "", ""}},
		{Scan{Location: "CD 4 , Campinas, SP"}, place{"CD 4 , Campinas, SP", "CD 4", "Campinas, SP", ""}},
		{Scan{Place: &Place{Facility: "CD 4"}}, place{"CD 4", "CD 4", "", ""}},
		{Scan{Place: &Place{Facility: "CD 4", Area: "Campinas", Country: "BR"}}, place{"CD 4, Campinas, BR", "CD 4", "Campinas", "BR"}},
	} {
		s := &Shipment{ID: "s", State: Dispatched}
		c.given.Meta = meta()
		events, err := s.Scan(c.given)
		if err != nil {
			t.Fatal(err)
		}
		f := change(s, events)[0].Body.(*facts.ShipmentScanned)
		if diff := cmp.Diff(c.want, place{f.Location, f.Facility, f.Area, f.Country}); diff != "" {
			t.Error(diff)
		}
	}
	_, err := (&Shipment{State: Dispatched}).Scan(Scan{Meta: meta(), Location: "x", Place: &Place{Facility: "y"}})
	if f := fault.As(err); f == nil || f.Violations[0].Field != "location" {
		t.Errorf("both: %v", err)
	}
}

// Whatever commands come in whatever order: every event is a fact that others
// can decode, and what is cancelled stays so.
func TestAnyHistory(t *testing.T) {
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"plan", "dispatch", "scan", "delay", "stall", "deliver", "lose", "return", "cancel"}
	rapid.Check(t, func(t *rapid.T) {
		s := &Shipment{ID: "s"}
		for range rapid.IntRange(1, 25).Draw(t, "length") {
			before := s.State
			events, err := commands()[rapid.SampledFrom(names).Draw(t, "command")](s)
			if err != nil {
				if fault.As(err) == nil {
					t.Fatalf("unclassified: %v", err)
				}
				continue
			}
			for _, stated := range change(s, events) {
				name, version, bare, err := codec.Encode(stated.Body)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := codec.Decode(name, version, bare); err != nil {
					t.Fatal(err)
				}
			}
			if before == Cancelled {
				t.Fatal("a cancelled shipment changed")
			}
		}
	})
}
