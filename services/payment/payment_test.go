package payment

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

func cents(amount int64) Money { return Money{Amount: amount, Currency: "EUR"} }

func meta() Meta {
	return Meta{Actor: "fulfilment", OccurredAt: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}
}

func external(outcome string) Authorize {
	return Authorize{Meta: meta(), OrderID: "o", CustomerID: "c", Fulfilment: External, Method: "CARD", Amount: cents(1000), Outcome: outcome}
}

func apply(t testing.TB, p *Payment) func([]Event, error) {
	return func(events []Event, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		change(p, events)
	}
}

// in returns an EXTERNAL payment of 10.00 brought into a state by its own commands.
func in(t testing.TB, state State) *Payment {
	t.Helper()
	p := &Payment{ID: "p"}
	do := apply(t, p)
	capture := func(amount int64) { do(p.Capture(Capture{Meta: meta(), Amount: cents(amount)}, Attempt{})) }
	switch state {
	case None:
	case Requested:
		do(p.Authorize(external("PENDING"), Attempt{}))
	case Declined:
		do(p.Authorize(external("DECLINED"), Attempt{}))
	default:
		do(p.Authorize(external("AUTHORIZED"), Attempt{}))
	}
	switch state {
	case Voided:
		do(p.Void(Void{Meta: meta()}, Attempt{}))
	case PartiallyCaptured:
		capture(400)
	case Captured:
		capture(1000)
	case Refunded:
		capture(1000)
		do(p.Refund(Refund{Meta: meta(), Amount: cents(1000)}, Attempt{}))
	}
	if p.State() != state {
		t.Fatalf("built %s for %s", p.State(), state)
	}
	return p
}

func TestTransitions(t *testing.T) {
	commands := map[string]func(*Payment) ([]Event, error){
		"authorize": func(p *Payment) ([]Event, error) { return p.Authorize(external("AUTHORIZED"), Attempt{}) },
		"capture": func(p *Payment) ([]Event, error) {
			return p.Capture(Capture{Meta: meta(), Amount: cents(100)}, Attempt{})
		},
		"void": func(p *Payment) ([]Event, error) { return p.Void(Void{Meta: meta()}, Attempt{}) },
		"refund": func(p *Payment) ([]Event, error) {
			return p.Refund(Refund{Meta: meta(), Amount: cents(100)}, Attempt{})
		},
		"correct": func(p *Payment) ([]Event, error) {
			return p.Correct(Correct{Meta: meta(), Captured: cents(2000), EffectiveAt: meta().OccurredAt})
		},
	}
	for state, allowed := range map[State]map[string]State{
		None:              {"authorize": Authorized},
		Requested:         {"void": Voided},
		Authorized:        {"capture": PartiallyCaptured, "void": Voided},
		Declined:          {},
		Voided:            {},
		PartiallyCaptured: {"capture": PartiallyCaptured, "void": Captured, "refund": PartiallyCaptured, "correct": PartiallyCaptured},
		Captured:          {"refund": Captured, "correct": Captured},
		Refunded:          {"correct": Captured},
	} {
		for name, command := range commands {
			p := in(t, state)
			before := *p
			events, err := command(p)
			if diff := cmp.Diff(before, *p); diff != "" {
				t.Errorf("%s in %q decided and changed the payment: %s", name, state, diff)
			}
			want, ok := allowed[name]
			if !ok {
				kind := fault.KindFailedPrecondition
				switch {
				case name == "authorize":
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
			if change(p, events); p.State() != want {
				t.Errorf("%s in %q led to %q, want %q", name, state, p.State(), want)
			}
		}
	}
}

func TestAmounts(t *testing.T) {
	partly := in(t, PartiallyCaptured)
	for name, err := range map[string]error{
		"more than is open":            second(partly.Capture(Capture{Meta: meta(), Amount: cents(601)}, Attempt{})),
		"more than was taken":          second(partly.Refund(Refund{Meta: meta(), Amount: cents(401)}, Attempt{})),
		"another currency":             second(partly.Capture(Capture{Meta: meta(), Amount: Money{1, "BRL"}}, Attempt{})),
		"a negative capture":           second(partly.Capture(Capture{Meta: meta(), Amount: cents(-1)}, Attempt{})),
		"a negative refund":            second(partly.Refund(Refund{Meta: meta(), Amount: cents(-1)}, Attempt{})),
		"a correction to the same":     second(partly.Correct(Correct{Meta: meta(), Captured: cents(400)})),
		"a correction below zero":      second(partly.Correct(Correct{Meta: meta(), Captured: cents(-1)})),
		"a correction below refunds":   second(in(t, Refunded).Correct(Correct{Meta: meta(), Captured: cents(999)})),
		"an absurd amount":             second((&Payment{}).Authorize(Authorize{Fulfilment: Managed, Amount: cents(maxAmount + 1)}, Attempt{})),
		"nothing from a MANAGED payer": second((&Payment{}).Authorize(Authorize{Fulfilment: Managed, Amount: cents(0)}, Attempt{})),
		"an outcome of a MANAGED one":  second((&Payment{}).Authorize(Authorize{Fulfilment: Managed, Amount: cents(1), Outcome: "AUTHORIZED"}, Attempt{})),
		"no outcome of an EXTERNAL":    second((&Payment{}).Authorize(external(""), Attempt{})),
	} {
		if k := fault.KindOf(err); err == nil || k != fault.KindInvalid && k != fault.KindFailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ []Event, err error) error { return err }

// provider is what the other side of the port remembers: one effect per key.
type provider struct{ held, taken, back int64 }

func (v *provider) does(t Attempt) {
	switch t.Kind {
	case KindAuthorize:
		v.held += t.Amount
	case KindCapture:
		v.held -= t.Amount
		v.taken += t.Amount
	case KindVoid, KindLateVoid:
		v.held -= t.Amount
	case KindRefund:
		v.back += t.Amount
	}
}

// Whatever commands and answers come in whatever order, doubled and late: the
// amounts add up, they are what the provider did once every attempt is
// answered, and every event is a fact that others can decode.
func TestAnyHistoryOfAManagedPayment(t *testing.T) {
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		p, other := &Payment{ID: "p"}, &provider{}
		answers := map[string]Answer{}
		var corrected int64
		keys := 0
		run := func(events []Event, err error) {
			if err != nil {
				if fault.As(err) == nil {
					t.Fatalf("unclassified: %v", err)
				}
				return
			}
			for _, e := range events {
				if c, ok := e.(WasCorrected); ok {
					corrected += c.Captured.Amount - c.Previous
				}
			}
			for _, stated := range change(p, events) {
				if _, _, _, err := codec.Encode(stated.Body); err != nil {
					t.Fatal(err)
				}
			}
			if p.Attempt == nil {
				return
			}
			// The provider acts as soon as the attempt is committed, whenever its
			// answer arrives.
			attempt := *p.Attempt
			if _, known := answers[attempt.Key]; known {
				return
			}
			a := Answer{Reference: "r", Code: "NO"}
			a.Approved = attempt.Kind == KindVoid || attempt.Kind == KindLateVoid || rapid.IntRange(0, 3).Draw(t, "approve") > 0
			answers[attempt.Key] = a
			if a.Approved {
				other.does(attempt)
			}
		}
		respond := func() {
			if p.Attempt == nil {
				return
			}
			key := p.Attempt.Key
			run(p.Answered(key, answers[key], meta()), nil)
			if rapid.Bool().Draw(t, "doubled") && p.Answered(key, answers[key], meta()) != nil {
				t.Fatal("a second answer meant something")
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "length") {
			keys++
			attempt := Attempt{Key: string(rune('a' + keys))}
			amount := cents(rapid.Int64Range(1, 600).Draw(t, "amount"))
			switch rapid.SampledFrom([]string{"authorize", "capture", "capture", "capture", "void", "refund", "refund", "correct", "answer", "answer", "answer", "answer"}).Draw(t, "step") {
			case "authorize":
				run(p.Authorize(Authorize{Meta: meta(), OrderID: "o", CustomerID: "c", Fulfilment: Managed, Method: "CARD", Amount: cents(1000)}, attempt))
			case "capture":
				run(p.Capture(Capture{Meta: meta(), Amount: amount}, attempt))
			case "void":
				run(p.Void(Void{Meta: meta()}, attempt))
			case "refund":
				run(p.Refund(Refund{Meta: meta(), Amount: amount}, attempt))
			case "correct":
				run(p.Correct(Correct{Meta: meta(), Captured: amount, EffectiveAt: meta().OccurredAt}))
			case "answer":
				respond()
			}
			if p.Open < 0 || p.Refunded > p.Captured || p.Captured < 0 || p.Voided < 0 || p.Voided > 1000 {
				t.Fatalf("amounts: %+v", p)
			}
		}
		for p.Attempt != nil {
			respond()
		}
		if p.Captured-corrected != other.taken || p.Refunded != other.back || p.Open != other.held {
			t.Fatalf("we say open %d, captured %d (corrected by %d), refunded %d; the provider %+v", p.Open, p.Captured, corrected, p.Refunded, other)
		}
	})
}

// Whether a declined method may be tried again is the provider's word, or the
// reporting system's; nobody else's, and about nothing else.
func TestARefusalSaysWhetherToTryAgain(t *testing.T) {
	for _, again := range []bool{false, true} {
		c := external("DECLINED")
		c.Retryable = again
		reported := &Payment{ID: "p"}
		events, err := reported.Authorize(c, Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		stated := change(reported, events)
		asked := &Payment{ID: "p", Phase: Requested, Amount: cents(1000), Method: "CARD", Attempt: &Attempt{Key: "k", Kind: KindAuthorize}}
		stated = append(stated, change(asked, asked.Answered("k", Answer{Code: "NO", Retryable: again}, meta()))...)
		declined := 0
		for _, s := range stated {
			if f, ok := s.Body.(*facts.PaymentDeclined); ok {
				declined++
				if f.Retryable != again {
					t.Errorf("%+v, want retryable %v", f, again)
				}
			}
		}
		if declined != 2 || reported.Retryable != again || asked.Retryable != again {
			t.Errorf("%d facts, payments %v and %v, want %v", declined, reported.Retryable, asked.Retryable, again)
		}
	}
	managed := external("")
	managed.Fulfilment = Managed
	for _, c := range []Authorize{external("AUTHORIZED"), external("PENDING"), managed} {
		c.Retryable = true
		_, err := (&Payment{}).Authorize(c, Attempt{})
		if f := fault.As(err); f == nil || f.Violations[0].Field != "external_retryable" {
			t.Errorf("%s %s: %v", c.Fulfilment, c.Outcome, err)
		}
	}
}
