package process

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// A fact that skips a version shows that others were lost on their way. They are
// fetched from their owner's journal and folded before it. Until the owner
// answers nothing is folded; what no journal has either is for a person.

// version is the place of a fact in its aggregate's history.
type version struct {
	aggregate event.Aggregate
	number    int64
}

// missed are facts that were fetched, by the fact that showed that they were
// missing.
type missed map[version][]event.Fact

// fill returns the facts with those that were missing in their places.
func (m missed) fill(facts []event.Fact) []event.Fact {
	if len(m) == 0 {
		return facts
	}
	var all []event.Fact
	for _, f := range facts {
		all = append(append(all, m[version{f.Aggregate, f.Version}]...), f)
	}
	return all
}

// errGap says that versions from one before a fact's are missing.
type errGap struct {
	fact event.Fact
	from int64
}

func (e *errGap) Error() string {
	return fmt.Sprintf("%s: versions %d to %d were not received", e.fact.Aggregate, e.from, e.fact.Version-1)
}

// gapBefore returns the first version that is missing before a fact, 0 if none.
func (in *instance[S]) gapBefore(f event.Fact) int64 {
	if next := in.book.Seen[f.Aggregate.String()].Version + 1; f.Version > next {
		return next
	}
	return 0
}

// complete runs try until it finds no gap that was not looked into.
func (m *Manager[S]) complete(ctx context.Context, try func(missed) error) error {
	found := missed{}
	for {
		err := try(found)
		var gap *errGap
		if !errors.As(err, &gap) {
			return err
		}
		facts, err := m.fetch(ctx, gap)
		if err != nil {
			return fmt.Errorf("%w; its owner cannot be asked now: %w", gap, err)
		}
		m.log.WarnContext(ctx, "process facts were not received and come from their owner", "process", m.newest.Name,
			"instance", gap.fact.Key, "aggregate", gap.fact.Aggregate.String(), "from", gap.from, "to", gap.fact.Version-1, "found", len(facts))
		found[version{gap.fact.Aggregate, gap.fact.Version}] = facts
	}
}

// fetch asks for the versions of a gap until the owner has no more of them.
func (m *Manager[S]) fetch(ctx context.Context, gap *errGap) (all []event.Fact, err error) {
	for next := gap.from; m.to.Events != nil && next < gap.fact.Version; next = all[len(all)-1].Version + 1 {
		facts, err := m.to.Events(ctx, gap.fact.Aggregate, next, gap.fact.Version-1)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for _, f := range facts {
			if f.Key == gap.fact.Key && f.Version >= next && f.Version < gap.fact.Version {
				all = append(all, f)
			}
		}
		if len(all) == before {
			break
		}
	}
	return all, nil
}
