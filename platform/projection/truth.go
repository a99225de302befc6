package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Truth says what a view remembers of the aggregates of one source in words that
// their owner's answers can be put into as well. Reconciling compares the two
// where both stand at the same event: it is what finds a Fold that misreads a
// fact, and an owner whose state is not what its own journal says. A read model
// has one for each source that it wants compared so; a source without one is
// compared with its journal only. The kernel knows no owner and no field. Truths
// are no part of what follows from facts: a change to them needs no new version.
type Truth[S any] struct {
	// Source is the context that owns the aggregates.
	Source string
	// Ask asks the owner for an aggregate, now. An error with the gRPC code
	// NOT_FOUND means that the owner has none of the id.
	Ask func(ctx context.Context, owner grpc.ClientConnInterface, id string) (Answer, error)
	// Shown is what the view makes of the aggregate, pure. It names the same
	// fields as Ask, also those that are empty.
	Shown func(order string, s *S, id string) Said
}

// Answer is what an owner says of an aggregate.
type Answer struct {
	// At is the newest event that it is about. Without an event id nothing is
	// compared: the owner is of a release that does not tell.
	At   event.Token
	Said Said
}

// Said is what can be compared of an aggregate, and added up.
type Said struct {
	// State is where it stands in business terms. Aggregates are counted by it.
	State string
	// Money is added up by name and currency.
	Money []Money
	// Fields are only compared.
	Fields []Field
}

// Money is an amount in minor units.
type Money struct {
	Name     string
	Currency string
	Amount   int64
}

// Field is anything else. What holds personal data is compared and never shown.
type Field struct {
	Name     string
	Value    string
	Personal bool
}

// AnswerOf makes an answer of what an owner's Get returns: the token of its newest
// event, nil if the owner does not tell, and what it says.
func AnswerOf(at *freshnessv1.Token, said Said) Answer {
	return Answer{Said: said, At: event.Token{
		Aggregate: event.Aggregate{Type: at.GetAggregateType(), ID: at.GetAggregateId()},
		Version:   at.GetVersion(), Epoch: at.GetEpoch(), EventID: at.GetEventId(),
	}}
}

// When is a time as a field, to the microsecond; nil is an empty one.
func When(name string, at *time.Time) Field {
	if at == nil {
		return Field{Name: name}
	}
	return Field{Name: name, Value: at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)}
}

// fieldState is the name that differences give to Said.State.
const fieldState = "state"

// values are the fields by name.
func (s Said) values() map[string]Field {
	all := map[string]Field{fieldState: {Name: fieldState, Value: s.State}}
	for _, m := range s.Money {
		all[m.Name] = Field{Name: m.Name, Value: fmt.Sprintf("%d %s", m.Amount, m.Currency)}
	}
	for _, f := range s.Fields {
		all[f.Name] = f
	}
	return all
}

// Names are the names of what is compared, sorted.
func (s Said) Names() []string {
	var names []string
	for name := range s.values() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// checkTruths refuses what no source of the view can be compared by.
func checkTruths[S any](sources []string, truths []Truth[S]) error {
	var errs []error
	seen := map[string]bool{}
	for _, t := range truths {
		switch {
		case !slices.Contains(sources, t.Source):
			errs = append(errs, fmt.Errorf("truth about %q, which is no source of the view", t.Source))
		case seen[t.Source]:
			errs = append(errs, fmt.Errorf("two truths about %q", t.Source))
		case t.Ask == nil || t.Shown == nil:
			errs = append(errs, fmt.Errorf("truth about %q without Ask or Shown", t.Source))
		}
		seen[t.Source] = true
	}
	return errors.Join(errs...)
}
