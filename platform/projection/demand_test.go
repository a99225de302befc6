package projection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// beat is a control record of a source with an as_of of some time ago. It says
// that nothing was ever sent.
func beat(source string, number int64, ago time.Duration) control.ControlRecord {
	c := inBand(number, 1, epoch1, 0)
	c.Source, c.AsOf = source, time.Now().Add(-ago)
	return c
}

func fresherThan(limit, budget time.Duration) *freshnessv1.ReadOptions {
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_MaxStaleness{MaxStaleness: durationpb.New(limit)}, WaitBudget: durationpb.New(budget),
	}
}

func TestMaxStaleness(t *testing.T) {
	lacking := beat("payment", 1, 0)
	lacking.Count = 3
	tests := []struct {
		name  string
		given []control.ControlRecord
		stale string // names the sources
	}{
		{name: "all are fresh", given: []control.ControlRecord{beat("order", 1, 0), beat("payment", 1, time.Minute)}},
		{name: "only payment stopped", given: []control.ControlRecord{beat("order", 1, 0), beat("payment", 1, 2*time.Hour)}, stale: "payment"},
		{name: "only payment was never read", given: []control.ControlRecord{beat("order", 1, 0)}, stale: "payment"},
		{name: "both stopped", given: []control.ControlRecord{beat("order", 1, 3*time.Hour), beat("payment", 1, 2*time.Hour)}, stale: "order,payment"},
		{name: "nothing was read", stale: "order,payment"},
		{name: "as_of is in the future", given: []control.ControlRecord{beat("order", 1, -time.Minute), beat("payment", 1, 0)}, stale: "order"},
		{name: "facts are known to be missing", given: []control.ControlRecord{beat("order", 1, 0), lacking}, stale: "payment"},
	}
	for _, tt := range tests {
		for _, order := range []string{"o", ""} {
			t.Run(tt.name+"/order "+order, func(t *testing.T) {
				s := fresh(t)
				l := newTopics()
				for _, c := range tt.given {
					s.handle(l.totals(c))
				}
				want := fresherThan(time.Hour, 0)
				f, err := s.read(want, order)
				if tt.stale == "" {
					if err != nil || !f.GetDemandMet() {
						t.Fatalf("Read = %v, %v", f, err)
					}
					return
				}
				var got *fault.Error
				if !errors.As(err, &got) || got.Reason != projection.ReasonTooStale || got.Metadata["stale_sources"] != tt.stale {
					t.Fatalf("Read = %v, want %s named as too stale", err, tt.stale)
				}
				if code := rpc.Status(err).Code(); code != codes.DeadlineExceeded {
					t.Errorf("code %v", code)
				}
				want.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
				if f, err := s.read(want, order); err != nil || f.GetDemandMet() || len(f.GetSources()) != 2 {
					t.Errorf("rather stale: %v, %v", f, err)
				}
			})
		}
	}
}

// looking reads in the background. looked gets one token for every look.
func (s *subject) looking(o *freshnessv1.ReadOptions, order string) (looked chan struct{}, done chan error) {
	looked, done = make(chan struct{}, 100), make(chan error, 1)
	go func() {
		f, err := s.Read(s.t.Context(), o, order, func(*pgx.Batch) { looked <- struct{}{} })
		if err == nil && !f.GetDemandMet() {
			err = errors.New("answered without meeting the demand")
		}
		done <- err
	}()
	return looked, done
}

// A source that is idle moves its as_of by control records alone. They wake who
// waits for it, each commit once.
func TestAControlRecordWakesWhoWaitsForFreshness(t *testing.T) {
	for _, order := range []string{"o", ""} {
		s := fresh(t)
		s.Alone()
		l := newTopics()
		s.handle(l.totals(beat("order", 1, 2*time.Hour)), l.totals(beat("payment", 1, 2*time.Hour)))
		looked, done := s.looking(fresherThan(time.Hour, ample), order)
		<-looked // it subscribed, and looks for the first time
		began := time.Now()
		idle := func(source string) consumer.Record {
			c := beat(source, 1, 0)
			c.DataTopicID, c.DataEndOffset = "id-"+source, 1
			return l.totals(c)
		}
		s.handle(append(l.facts(), idle("order"), idle("payment"))...)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > ample/2 {
			t.Errorf("order %q: it waited %v: its budget woke it, not the commit", order, waited)
		}
		if again := len(looked); again > 1 {
			t.Errorf("order %q: one commit had it look %d times", order, again)
		}
	}
}

// A demand that nothing meets costs its budget, and no look but the first and
// the last: nothing polls.
func TestAStoppedSourceCostsTheBudgetAndNoMore(t *testing.T) {
	s := fresh(t)
	s.Alone()
	l := newTopics()
	s.handle(l.totals(beat("order", 1, 0)))
	const budget = 300 * time.Millisecond
	began := time.Now()
	looked, done := s.looking(fresherThan(time.Hour, budget), "o")
	var got *fault.Error
	if err := <-done; !errors.As(err, &got) || got.Metadata["stale_sources"] != "payment" {
		t.Fatalf("Read = %v", err)
	}
	if waited := time.Since(began); waited < budget {
		t.Errorf("it gave up after %v", waited)
	}
	if looks := len(looked); looks != 2 {
		t.Errorf("it looked %d times", looks)
	}
}

// What a source holds back does not come by waiting.
func TestATokenOfAnAggregateThatItsSourceHoldsBackFailsAtOnce(t *testing.T) {
	s := fresh(t)
	s.Alone()
	l := newTopics()
	sent, held := fact("o", "order/o", 1, &note{Add: 1}), fact("o", "order/o", 2, nil)
	s.handle(l.facts(sent)...)
	c := beat("order", 1, 0)
	c.BlockedCount, c.Blocked = 1, []string{"order/o"}
	s.handle(l.totals(c))
	if _, err := s.read(demand(ample, sent), "o"); err != nil {
		t.Errorf("what was sent before: %v", err)
	}
	began := time.Now()
	var got *fault.Error
	if _, err := s.read(demand(ample, held), "o"); !errors.As(err, &got) || got.Reason != projection.ReasonQuarantined {
		t.Errorf("Read = %v", err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v for what does not come", waited)
	}
	// Somebody who waited when the record came is told as well.
	c.Number, c.BlockedCount, c.Blocked = 2, 0, nil
	s.handle(l.totals(c))
	looked, done := s.looking(demand(ample, held), "o")
	<-looked
	c.Number, c.BlockedCount, c.Blocked = 3, 1, []string{"order/o"}
	s.handle(l.totals(c))
	if err := <-done; !errors.As(err, &got) || got.Reason != projection.ReasonQuarantined {
		t.Errorf("who waited got %v", err)
	}
	if waited := time.Since(began); waited > ample {
		t.Errorf("who waited was not woken: %v", waited)
	}
}
