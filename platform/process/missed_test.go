package process_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// owner is a journal that can be away.
type owner struct {
	has   []event.Fact
	away  error
	asked []string
}

func (o *owner) Events(_ context.Context, a event.Aggregate, from, to int64) (found []event.Fact, err error) {
	o.asked = append(o.asked, fmt.Sprintf("%s %d-%d", a, from, to))
	for _, f := range o.has {
		// Not more than two at once, as an owner gives pages.
		if f.Aggregate == a && f.Version >= from && f.Version <= to && len(found) < 2 {
			found = append(found, f)
		}
	}
	return found, o.away
}

func (k kitchen) attention() (text string) {
	k.t.Helper()
	if err := k.pool.QueryRow(k.t.Context(), `SELECT coalesce(max(attention), 'no instance') FROM process_instance`).Scan(&text); err != nil {
		k.t.Fatal(err)
	}
	return text
}

func TestWhatWasNotReceivedComesFromItsOwner(t *testing.T) {
	unreadable := fact("o1", "a", 2, "")
	unreadable.Body = nil
	for _, c := range []struct {
		name      string
		has       []event.Fact
		given     []event.Fact
		asked     []string
		steps     []string
		attention string
	}{{
		name:  "in the middle",
		has:   []event.Fact{fact("o1", "a", 2, "Cooked")},
		given: []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "a", 3, "Idle")},
		asked: []string{"t/a 2-2"}, steps: []string{"o1 cook pending", "o1 eat pending"},
	}, {
		name:  "from the first on, in pages",
		has:   []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "a", 2, "Idle"), fact("o1", "a", 3, "Cooked")},
		given: []event.Fact{fact("o1", "a", 4, "Idle")},
		asked: []string{"t/a 1-3", "t/a 3-3"}, steps: []string{"o1 cook pending", "o1 eat pending"},
	}, {
		name:  "of two aggregates",
		has:   []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "b", 1, "Cooked")},
		given: []event.Fact{fact("o1", "a", 2, "Idle"), fact("o1", "b", 2, "Idle")},
		asked: []string{"t/a 1-1", "t/b 1-1"}, steps: []string{"o1 cook pending", "o1 eat pending"},
	}, {
		name:  "which has it no more",
		given: []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "a", 3, "Idle")},
		asked: []string{"t/a 2-2"}, steps: []string{"o1 cook pending"},
		attention: "versions 2 to 2 of t/a are in no journal: compare with its owner",
	}, {
		name:  "which has it in a form that cannot be read",
		has:   []event.Fact{unreadable},
		given: []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "a", 3, "Idle")},
		asked: []string{"t/a 2-2"}, steps: []string{"o1 cook pending"},
		attention: "version 2 of t/a cannot be read: compare with its owner",
	}, {
		name:  "but not under another order",
		has:   []event.Fact{fact("o2", "a", 2, "Cooked")},
		given: []event.Fact{fact("o1", "a", 1, "Hungry"), fact("o1", "a", 3, "Idle")},
		asked: []string{"t/a 2-2"}, steps: []string{"o1 cook pending"},
		attention: "versions 2 to 2 of t/a are in no journal: compare with its owner",
	}} {
		t.Run(c.name, func(t *testing.T) {
			o := &owner{has: c.has}
			k := openTo(t, testkit.Postgres(t), process.Participants{Events: o.Events}, definition())
			k.fold(c.given...)
			k.fold(c.given...) // nothing is missing any more
			if diff := cmp.Diff(c.asked, o.asked); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.steps, k.steps()); diff != "" {
				t.Error(diff)
			}
			if got := k.attention(); got != c.attention {
				t.Errorf("a person reads %q, want %q", got, c.attention)
			}
		})
	}
}

func TestNothingIsFoldedPastAGapWhileItsOwnerIsAway(t *testing.T) {
	o := &owner{has: []event.Fact{fact("o1", "a", 1, "Hungry")}, away: errors.New("away")}
	k := openTo(t, testkit.Postgres(t), process.Participants{Events: o.Events}, definition())
	late := fact("o1", "a", 2, "Cooked")
	if err := k.manager.Fold(t.Context(), []event.Fact{late}); !errors.Is(err, o.away) {
		t.Fatalf("Fold = %v, want %v", err, o.away)
	}
	if got := k.attention(); got != "no instance" {
		t.Errorf("an instance was written: %q", got)
	}
	o.away = nil
	k.fold(late)
	if diff := cmp.Diff([]string{"o1 cook pending", "o1 eat pending"}, k.steps()); diff != "" {
		t.Error(diff)
	}
}
