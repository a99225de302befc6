package projection_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

func (s *subject) read(o *freshnessv1.ReadOptions, order string) (*freshnessv1.Freshness, error) {
	s.t.Helper()
	return s.Read(s.t.Context(), o, order, func(*pgx.Batch) {})
}

// asOf returns the as_of of a source for an answer about one order or, without
// one, about many, as minutes after dawn; -1 if unknown.
func (s *subject) asOf(source, order string) int {
	s.t.Helper()
	f, err := s.read(nil, order)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sf := range f.GetSources() {
		if sf.GetSource() != source {
			continue
		}
		if sf.GetAsOf() == nil {
			return -1
		}
		return int(sf.GetAsOf().AsTime().Sub(dawn).Minutes())
	}
	s.t.Fatalf("no source %s", source)
	return 0
}

func minutes(n int) time.Time { return dawn.Add(time.Duration(n) * time.Minute) }

// inBand is a control record in the order topic.
func inBand(number, term int64, epoch string, asOf int) control.ControlRecord {
	return control.ControlRecord{Source: "order", Epoch: epoch, Number: number, Term: term, AsOf: minutes(asOf), DataEndOffset: -1}
}

func TestAsOf(t *testing.T) {

	idle := func(number int64, asOf int, end int64) control.ControlRecord {
		c := inBand(number, 1, epoch1, asOf)
		c.DataTopicID, c.DataEndOffset = "id-order", end
		return c
	}
	other := idle(2, 9, 0)
	other.DataTopicID = "another"
	tests := []struct {
		name  string
		given []any // control records and facts
		want  int
	}{
		{name: "nothing read", want: -1},
		{name: "in band", given: []any{inBand(1, 1, epoch1, 5)}, want: 5},
		{name: "rises", given: []any{inBand(1, 1, epoch1, 5), inBand(2, 1, epoch1, 7)}, want: 7},
		{name: "never goes back within an epoch", given: []any{inBand(1, 1, epoch1, 5), inBand(2, 1, epoch1, 3)}, want: 5},
		{name: "a lower term says nothing", given: []any{inBand(1, 2, epoch1, 5), inBand(9, 1, epoch1, 8)}, want: 5},
		{name: "a lower epoch says nothing", given: []any{inBand(1, 1, epoch2, 5), inBand(9, 9, epoch1, 8)}, want: 5},
		{name: "a newer epoch starts anew", given: []any{inBand(9, 9, epoch1, 8), inBand(1, 1, epoch2, 2)}, want: 2},
		{name: "idle, at its end", given: []any{fact("o", "order/o", 1, nil), idle(1, 5, 1)}, want: 5},
		{name: "idle, before its end", given: []any{fact("o", "order/o", 1, nil), idle(1, 5, 2)}, want: -1},
		{name: "idle, its end reached later", given: []any{idle(1, 5, 2), fact("o", "order/o", 1, nil), fact("o", "order/o", 2, nil)}, want: 5},
		{name: "idle, of a topic that was made again", given: []any{inBand(1, 1, epoch1, 5), other}, want: 5},
	}
	for _, tt := range tests {
		for _, cut := range []string{"one batch", "single records"} {
			t.Run(tt.name+"/"+cut, func(t *testing.T) {
				s := fresh(t)
				l := newTopics()
				var all []any
				for _, g := range tt.given {
					switch g := g.(type) {
					case control.ControlRecord:
						all = append(all, l.totals(g))
					case event.Fact:
						all = append(all, l.facts(g)[0])
					}
				}
				feed(s, cut == "one batch", all)
				if got := s.asOf("order", "o"); got != tt.want {
					t.Errorf("as_of is %d minutes after dawn, want %d", got, tt.want)
				}
				// It is stored with the position: a new process says the same.
				again := open(t, s.url)
				if got := again.asOf("order", "o"); got != tt.want {
					t.Errorf("after a restart as_of is %d minutes after dawn, want %d", got, tt.want)
				}
			})
		}
	}
}

func TestIdleMarkIsReadAgainAfterACrash(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	c := inBand(1, 1, epoch1, 5)
	c.DataTopicID, c.DataEndOffset = "id-order", 1
	waiting := l.totals(c)
	s.handle(waiting)
	again := open(t, s.url)
	if next := again.claim()[kafka.TopicControl]; next != waiting.Offset {
		t.Fatalf("the control topic is read again from %d, want %d", next, waiting.Offset)
	}
	again.handle(waiting)
	again.handle(l.facts(fact("o", "order/o", 1, nil))...)
	if got := again.asOf("order", "o"); got != 5 {
		t.Errorf("as_of is %d minutes after dawn, want 5", got)
	}
}

// A failed batch must not leave an as_of that is ahead of its facts.
func TestAsOfIsNotAheadOfItsFacts(t *testing.T) {
	s := fresh(t)
	l := newTopics()
	records := append(l.facts(fact("p", "order/p", 1, nil), fact("o", "order/o", 1, &note{Text: "bad json"})), l.totals(inBand(1, 1, epoch1, 5)))
	s.exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT count(*) FROM ` + s.schema() + `.parked) = 0 AND (SELECT count(*) FROM ` + s.schema() + `.source_mark) > 0 THEN RAISE EXCEPTION 'as_of is ahead'; END IF;
			RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON position DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()`)
	s.handle(records...)
	if got := s.asOf("order", "o"); got != 5 {
		t.Errorf("as_of is %d minutes after dawn, want 5", got)
	}
}

func TestAsOfOfManyOrdersIsTheOldestPartitions(t *testing.T) {
	s := fresh(t, func(c *projection.Config, _ *fold.View[tally]) { c.Kafka.Partitions = 2 })
	if _, err := s.Claim(t.Context(), 1, topicIDs); err != nil {
		t.Fatal(err)
	}
	order := map[int32]string{}
	for _, id := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		order[event.PartitionOf(id, 2)] = id
	}
	l := newTopics()
	s.handle(l.totals(inBand(1, 1, epoch1, 5)))
	if got := s.asOf("order", ""); got != -1 {
		t.Errorf("one partition was never read, and as_of is %d", got)
	}
	c := inBand(1, 1, epoch1, 3)
	c.Partition = 1
	r := newTopics().totals(c)
	r.Partition = 1
	if err := s.Handle(t.Context(), 1, append(newTopics().facts()[:0], r)); err != nil {
		t.Fatal(err)
	}
	for of, want := range map[string]int{"": 3, order[0]: 5, order[1]: 3} {
		if got := s.asOf("order", of); got != want {
			t.Errorf("as_of for %q is %d, want %d", of, got, want)
		}
	}
	// Only order was heard of; payment is the stale part, and only it.
	if got := s.asOf("payment", order[0]); got != -1 {
		t.Errorf("payment has as_of %d", got)
	}
}

func demand(budget time.Duration, facts ...event.Fact) *freshnessv1.ReadOptions {
	at := &freshnessv1.AtLeast{}
	for _, f := range facts {
		at.Tokens = append(at.Tokens, &freshnessv1.Token{
			AggregateType: f.Aggregate.Type, AggregateId: f.Aggregate.ID, Version: f.Version, Epoch: f.Epoch, EventId: f.ID,
		})
	}
	return &freshnessv1.ReadOptions{Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: at}, WaitBudget: durationpb.New(budget)}
}

const ample = time.Minute // a budget that only a defect uses up

func TestReadYourWrites(t *testing.T) {
	first, second := fact("o", "payment/a", 1, &note{Add: 1}), fact("o", "payment/a", 2, nil) // the view ignores the second
	old := other(first)
	old.Epoch = "20261031T000000.000Z-0000000000000000"
	same := first
	same.Epoch = old.Epoch
	future := newer(first)
	foreign := fact("o", "shipment/s", 7, nil)
	tests := []struct {
		name   string
		given  []event.Fact
		demand *freshnessv1.ReadOptions
		want   error // or
		reason fault.Reason
	}{
		{name: "applied", given: []event.Fact{first}, demand: demand(ample, first)},
		{name: "a fact the view ignores", given: []event.Fact{first, second}, demand: demand(ample, second)},
		{name: "a source the view does not copy", demand: demand(ample, foreign)},
		{name: "not applied", given: []event.Fact{first}, demand: demand(0, second), reason: projection.ReasonNotYetProjected},
		{name: "unknown", demand: demand(0, first), reason: projection.ReasonNotYetProjected},
		{name: "behind a gap it waits its budget", given: []event.Fact{first, fact("o", "payment/a", 3, nil)}, demand: demand(0, second), reason: projection.ReasonNotYetProjected},
		{name: "behind poison it fails at once", given: []event.Fact{first, fact("o", "payment/a", 2, &note{Text: "burst"})}, demand: demand(ample, second), reason: projection.ReasonQuarantined},
		{name: "poison first", given: []event.Fact{fact("o", "payment/a", 1, &note{Text: "burst"})}, demand: demand(ample, first), reason: projection.ReasonQuarantined},
		{name: "of an older epoch, still there", given: []event.Fact{first}, demand: demand(ample, same)},
		{name: "of an older epoch, undone", given: []event.Fact{first}, demand: demand(ample, old), reason: projection.ReasonWriteLost},
		{name: "of a newer epoch", given: []event.Fact{first}, demand: demand(0, future), reason: projection.ReasonNotYetProjected},
		{name: "two, one of them missing", given: []event.Fact{first}, demand: demand(0, first, fact("o", "order/o", 1, nil)), reason: projection.ReasonNotYetProjected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := fresh(t)
			s.handle(newTopics().facts(tt.given...)...)
			f, err := s.read(tt.demand, "o")
			if tt.reason == "" {
				if err != nil || !f.GetDemandMet() {
					t.Fatalf("Read = %v, %v", f, err)
				}
				return
			}
			var got *fault.Error
			if !errors.As(err, &got) || got.Reason != tt.reason {
				t.Fatalf("Read = %v, want reason %s", err, tt.reason)
			}
			at := tt.demand.GetAtLeast().GetTokens()
			if last := at[len(at)-1]; got.Metadata["aggregates"] != last.GetAggregateType()+"/"+last.GetAggregateId() {
				t.Errorf("it names %v", got.Metadata)
			}
			if tt.reason == projection.ReasonNotYetProjected {
				tt.demand.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
				if f, err := s.read(tt.demand, "o"); err != nil || f.GetDemandMet() {
					t.Errorf("rather stale: %v, %v", f, err)
				}
			}
		})
	}
}

func TestAWaitingReadIsWokenByTheCommit(t *testing.T) {
	s := fresh(t)
	s.Alone()
	l := newTopics()
	f := fact("o", "payment/a", 1, &note{Add: 1})
	looked := make(chan struct{}, 10)
	type result struct {
		f   *freshnessv1.Freshness
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := s.Read(t.Context(), demand(ample, f), "o", func(*pgx.Batch) { looked <- struct{}{} })
		done <- result{got, err}
	}()
	<-looked // it subscribed, and looks for the first time
	if !s.Hurried() {
		t.Error("nobody hurries while a read waits")
	}
	began := time.Now()
	s.handle(l.facts(f)...)
	r := <-done
	if r.err != nil || !r.f.GetDemandMet() {
		t.Fatalf("Read = %v, %v", r.f, r.err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: its budget woke it, not the commit", waited)
	}
	if s.Hurried() {
		t.Error("it hurries though nobody waits any more")
	}
}

// A rebalance may take the partition that a read waits for to another replica,
// whose commits signal nobody here.
func TestAWaitingReadFollowsItsPartitionToAnotherReplica(t *testing.T) {
	s := fresh(t)
	var elsewhere atomic.Bool
	waits := make(chan struct{}, 1000)
	s.ForeignIs(func() bool {
		is := elsewhere.Load()
		waits <- struct{}{}
		return is
	})
	f := fact("o", "payment/a", 1, &note{Add: 1})
	_, done := s.looking(demand(ample, f), "o")
	<-waits // it looked, and is to wait for this process alone
	elsewhere.Store(true)
	s.Reassigned()
	began := time.Now()
	other := open(t, s.url)
	other.claim()
	other.handle(newTopics().facts(f)...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: its budget woke it", waited)
	}
}

func TestEntityOfAnAnswer(t *testing.T) {
	s := fresh(t)
	s.handle(newTopics().facts(
		fact("o", "order/o", 1, nil), fact("o", "payment/a", 1, nil), fact("o", "payment/a", 3, nil), fact("o", "payment/b", 1, &note{Text: "burst"}),
	)...)
	f, err := s.read(nil, "o")
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		id      string
		version int64
		status  freshnessv1.EntityStatus
	}{
		{"o", 1, freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT},
		{"a", 1, freshnessv1.EntityStatus_ENTITY_STATUS_WAITING_FOR_GAP},
		{"b", 0, freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED},
	}
	if len(f.GetEntityVersions()) != len(want) || f.GetEntityStatus() != freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED {
		t.Fatalf("freshness: %v", f)
	}
	for i, v := range f.GetEntityVersions() {
		if v.GetAggregateId() != want[i].id || v.GetVersion() != want[i].version || v.GetStatus() != want[i].status {
			t.Errorf("entity version %v, want %v", v, want[i])
		}
	}
}

func TestStalenessGrowsWhileNothingArrives(t *testing.T) {
	s := fresh(t, func(c *projection.Config, _ *fold.View[tally]) { c.ClockSkew = time.Hour })
	l := newTopics()
	ahead := inBand(1, 1, epoch1, 0)
	ahead.AsOf = time.Now().Add(time.Hour) // the source's clock is ahead
	s.handle(l.totals(ahead))
	staleness := func() time.Duration {
		f, err := s.read(nil, "o")
		if err != nil {
			t.Fatal(err)
		}
		return f.GetSources()[0].GetStaleness().AsDuration()
	}
	first := staleness()
	if first < time.Hour || first > 2*time.Hour {
		t.Errorf("staleness %v does not have the clock skew, or is about the future", first)
	}
	if second := staleness(); second <= first {
		t.Errorf("staleness stood still: %v, then %v", first, second)
	}
}

func TestGenerations(t *testing.T) {
	url := testkit.UsedURL(t)
	first := open(t, url)
	if _, err := first.read(nil, "o"); rpc.Status(err).Code() != codes.Unavailable {
		t.Fatalf("an unbuilt view answers %v", err)
	}
	first.claim()
	if err := first.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := newTopics()
	first.handle(l.facts(fact("o", "order/o", 1, &note{Add: 1}))...)
	bump := func(_ *projection.Config, v *fold.View[tally]) { v.Version = 2 }
	reshape := func(_ *projection.Config, v *fold.View[tally]) { v.Version, v.Schema = 3, v.Schema+"-- other\n" }

	second := open(t, url, bump)
	f, err := second.read(nil, "o")
	if err != nil || f.GetGeneration() != first.Generation() || len(f.GetEntityVersions()) != 1 {
		t.Errorf("while it is built, %s answers from %v, %v", second.Generation(), f, err)
	}
	third := open(t, url, reshape)
	if _, err := third.read(nil, "o"); rpc.Status(err).Code() != codes.Unavailable {
		t.Errorf("a generation with other tables answers %v from the old one", err)
	}
	if offsets := second.claim(); len(offsets) != 0 {
		t.Errorf("a new generation starts at %v", offsets)
	}
	if err := second.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err := second.read(nil, "o"); err != nil || f.GetGeneration() != second.Generation() || len(f.GetEntityVersions()) != 0 {
		t.Errorf("after the switch: %v, %v", f, err)
	}
	again := open(t, url) // a restart of the old version still has its generation
	if f, err := again.read(nil, "o"); err != nil || f.GetGeneration() != first.Generation() || len(f.GetEntityVersions()) != 1 {
		t.Errorf("the old version answers: %v, %v", f, err)
	}
}
