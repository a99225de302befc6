package projection_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// absence reads an order that has no row, and returns what the answer says of it.
func (s *subject) absence(o *freshnessv1.ReadOptions, order string) (freshnessv1.Absence_Kind, *status.Status) {
	s.t.Helper()
	_, err := s.Read(s.t.Context(), o, order, func(*pgx.Batch) {},
		projection.OrNotFound("order "+order, func(*freshnessv1.Freshness) bool { return false }))
	st := rpc.Status(err)
	for _, d := range st.Details() {
		if a, ok := d.(*freshnessv1.Absence); ok {
			if a.GetFreshness().GetGeneration() != s.Generation() {
				s.t.Errorf("an absence without freshness: %v", a)
			}
			return a.GetKind(), st
		}
	}
	return 0, st
}

func TestAbsence(t *testing.T) {
	const (
		never      = freshnessv1.Absence_KIND_NEVER_EXISTED
		notYet     = freshnessv1.Absence_KIND_NOT_YET_PROJECTED
		quarantine = freshnessv1.Absence_KIND_QUARANTINED
	)
	first := fact("o", "order/o", 1, &note{Add: 1})
	stale := demand(0, first)
	stale.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	staleness := fresherThan(time.Second, 0)
	staleness.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	lacking, many, held := beat("payment", 1, 0), beat("payment", 1, 0), beat("order", 1, 0)
	lacking.Count = 3
	many.BlockedCount = 33
	held.BlockedCount, held.Blocked = 1, []string{"order/o"}
	began := time.Now()
	current := []control.ControlRecord{beat("order", 1, 0), beat("payment", 1, 0)}
	tests := []struct {
		name  string
		marks []control.ControlRecord
		facts []event.Fact
		owner []event.Fact // nil: there is nobody to ask
		read  *freshnessv1.ReadOptions
		list  bool // it is not about one order
		want  freshnessv1.Absence_Kind
		names string // what the message names
	}{
		{name: "nothing was read", want: notYet, names: "order was not read"},
		{name: "all is proven and fresh", marks: current, want: never},
		{name: "all is proven and fresh, of many", marks: current, list: true, want: never},
		{name: "one source was not read", marks: current[:1], want: notYet, names: "payment was not read"},
		{name: "one source lags", marks: []control.ControlRecord{current[0], beat("payment", 1, time.Hour)}, want: notYet, names: "payment is"},
		{name: "one source lags, of many", marks: []control.ControlRecord{current[0], beat("payment", 1, time.Hour)}, list: true, want: notYet, names: "payment is"},
		{name: "one source lacks facts", marks: []control.ControlRecord{current[0], lacking}, want: notYet, names: "payment lacks"},
		{name: "one source is not proven", marks: []control.ControlRecord{current[0], many}, want: notYet, names: "payment is not proven"},
		{name: "the owner does not have it", marks: current, owner: []event.Fact{}, want: never},
		{name: "the owner has it", marks: current, owner: []event.Fact{first}, want: notYet, names: "owner"},
		{name: "orders lag, and their owner does not have it", marks: []control.ControlRecord{beat("order", 1, time.Hour), current[1]}, owner: []event.Fact{}, want: never},
		{name: "payments lag, and the owner of orders does not have it", marks: []control.ControlRecord{current[0], beat("payment", 1, time.Hour)}, owner: []event.Fact{}, want: notYet, names: "payment is"},
		{name: "a token names it", marks: current, read: stale, want: notYet},
		{name: "too stale for the caller", marks: []control.ControlRecord{beat("order", 1, 5*time.Second), current[1]}, read: staleness, want: notYet},
		{name: "another aggregate mentions it", marks: current, facts: []event.Fact{fact("o", "payment/a", 1, nil)}, want: notYet},
		{name: "behind a gap", marks: current, facts: []event.Fact{fact("o", "order/o", 2, nil)}, want: quarantine},
		{name: "poison", marks: current, facts: []event.Fact{fact("o", "order/o", 1, &note{Text: "burst"})}, want: quarantine},
		{name: "its source holds it back", marks: []control.ControlRecord{held, current[1]}, want: quarantine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := fresh(t, func(c *projection.Config, _ *fold.View[tally]) {
				if tt.owner != nil {
					c.Journal = journalOf(tt.owner...)
				}
			})
			s.Knowing(10 * time.Minute)
			l := newTopics()
			for _, c := range tt.marks {
				c.AsOf = c.AsOf.Add(time.Since(began)) // the cases before may have taken long
				s.handle(l.totals(c))
			}
			s.handle(l.facts(tt.facts...)...)
			order := "o"
			if tt.list {
				order = ""
			}
			kind, st := s.absence(tt.read, order)
			if kind != tt.want || st.Code() != codes.NotFound || !strings.Contains(st.Message(), tt.names) {
				t.Errorf("%v: %v %q, want %v with %q", st.Code(), kind, st.Message(), tt.want, tt.names)
			}
		})
	}
}

func TestAnUnbuiltViewCannotTell(t *testing.T) {
	s := open(t, fresh(t).url, func(_ *projection.Config, v *fold.View[tally]) { v.Version, v.Schema = 2, v.Schema+"-- other\n" })
	if kind, st := s.absence(nil, "o"); kind != freshnessv1.Absence_KIND_REBUILDING || st.Code() != codes.Unavailable {
		t.Errorf("%v %v", kind, st)
	}
}

// A flood of queries for what does not exist is not passed on to the owner, and
// one that is away costs nobody anything.
func TestOwnersAreAskedSeldom(t *testing.T) {
	j := journalOf()
	s := fresh(t, withJournal(j))
	s.Knowing(10 * time.Minute)
	l := newTopics()
	s.handle(l.totals(beat("order", 1, 0)), l.totals(beat("payment", 1, 0)))
	now := time.Now()
	s.At(now) // no time passes
	for range 100 {
		if kind, st := s.absence(nil, "o"); kind != freshnessv1.Absence_KIND_NEVER_EXISTED {
			t.Fatalf("%v %v", kind, st)
		}
	}
	if j.calls != 20 {
		t.Errorf("the owner was asked %d times at once", j.calls)
	}
	s.At(now.Add(time.Second / 4))
	j.calls, j.err = 0, errors.New("away")
	for range 10 {
		s.absence(nil, "o")
	}
	s.At(now.Add(time.Second))
	for range 10 {
		s.absence(nil, "o")
	}
	if j.calls != 1 {
		t.Errorf("an owner that is away was asked %d times within a second", j.calls)
	}
}
