package process_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// dinner is a process small enough to see through: once hungry, cook; once
// cooked, eat; if cooking is refused, order in.
type dinner struct {
	Hungry, Cooked, Refused, Eaten, Alone bool
	Sated, Spared, Helped                 bool
	Rang                                  []string
	Facts                                 int
}

type note string

func (n note) FactName() string { return string(n) }

func definition() process.Definition[dinner] {
	step := func(name string) process.Command {
		return process.Command{Step: name, Request: wrapperspb.String(name)}
	}
	return process.Definition[dinner]{
		Name: "dinner", Version: 1,
		On: func(s *dinner, f event.Fact) {
			s.Facts++
			switch f.Body.FactName() {
			case "Hungry":
				s.Hungry = true
			case "Cooked":
				s.Cooked = true
			case "Eaten":
				s.Eaten = true
			case "Helped":
				s.Alone = false
			case "Sated":
				s.Sated = true
			}
		},
		Settled: func(s *dinner, end process.Settlement) {
			s.Refused = s.Refused || end.Step == "cook" && end.Outcome == process.Refused
			s.Alone = s.Alone || end.Step == "order-in"
			s.Spared = s.Spared || end.Outcome == process.Withdrawn
			s.Helped = s.Helped || end.Outcome == process.Forced
		},
		Fired: func(s *dinner, timer string) { s.Rang = append(s.Rang, timer) },
		Next: func(s *dinner) process.Plan {
			plan := process.Plan{Ended: s.Eaten}
			if s.Hungry {
				plan.Commands = append(plan.Commands, step("cook"))
				if !s.Cooked {
					plan.Timers = append(plan.Timers, process.Timer{Name: "impatient", After: time.Hour})
				}
			}
			if s.Refused {
				plan.Commands = append(plan.Commands, step("order-in"))
			}
			if s.Cooked {
				plan.Commands = append(plan.Commands, step("eat"))
			}
			if s.Sated {
				plan.Withdrawn = []string{"cook"}
			}
			if s.Alone {
				plan.Attention, plan.Concern = "nobody delivers", process.Concern{Reason: "ALONE", Step: "order-in"}
			}
			return plan
		},
	}
}

func fact(order, aggregate string, version int64, name string) event.Fact {
	return event.Fact{
		Envelope: event.Envelope{
			ID: fmt.Sprintf("%s-%d", aggregate, version), Key: order, Version: version, Epoch: "e1",
			Aggregate: event.Aggregate{Type: "t", ID: aggregate},
		},
		Body: note(name),
	}
}

type kitchen struct {
	t       *testing.T
	pool    *pgxpool.Pool
	manager *process.Manager[dinner]
}

type send = func(context.Context, proto.Message, process.Cause) error

// open returns a manager on the pool whose calls go to send.
func open(t *testing.T, pool *pgxpool.Pool, to send) kitchen {
	t.Helper()
	return openTo(t, pool, process.Participants{Send: to}, definition())
}

func openTo(t *testing.T, pool *pgxpool.Pool, to process.Participants, definitions ...process.Definition[dinner]) kitchen {
	t.Helper()
	to.Targets, to.Target = []string{"chef"}, func(proto.Message) string { return "chef" }
	if err := postgres.Migrate(t.Context(), pool, process.Migrations(), process.MigrationTable); err != nil {
		t.Fatal(err)
	}
	m, err := process.NewManager(pool, to, slog.New(slog.DiscardHandler), definitions...)
	if err != nil {
		t.Fatal(err)
	}
	return kitchen{t, pool, m}
}

func (k kitchen) fold(facts ...event.Fact) {
	k.t.Helper()
	if err := k.manager.Fold(k.t.Context(), facts); err != nil {
		k.t.Fatal(err)
	}
}

// run starts the dispatcher and returns a function that stops it and waits.
func (k kitchen) run() (stop func()) {
	ctx, cancel := context.WithCancel(k.t.Context())
	done := make(chan error, 1)
	go func() { done <- k.manager.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Error(err)
		}
	}
}

// steps returns "step status" of every command, sorted.
func (k kitchen) steps() []string {
	k.t.Helper()
	rows, err := k.pool.Query(context.Background(), `SELECT instance_id || ' ' || step || ' ' || status FROM process_command ORDER BY 1`)
	if err != nil {
		k.t.Fatal(err)
	}
	steps, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		k.t.Fatal(err)
	}
	return steps
}

func name(request proto.Message) string { return request.(*wrapperspb.StringValue).GetValue() }

func TestFactsIssueEachStepOnce(t *testing.T) {
	k := open(t, testkit.Postgres(t), nil)
	hungry, cooked := fact("o1", "a", 1, "Hungry"), fact("o1", "a", 2, "Cooked")
	k.fold(hungry)
	k.fold(hungry, hungry) // the topic delivers at least once
	k.fold(hungry, cooked)
	k.fold(cooked)
	if diff := cmp.Diff([]string{"o1 cook pending", "o1 eat pending"}, k.steps()); diff != "" {
		t.Error(diff)
	}
	var facts int
	if err := k.pool.QueryRow(t.Context(), `SELECT (state->>'Facts')::int FROM process_instance`).Scan(&facts); err != nil || facts != 2 {
		t.Errorf("folded %d facts, %v; want 2", facts, err)
	}
}

func TestAnUnknownOutcomeIsSentAgainUnderTheSameRequest(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	answered := make(chan struct{})
	k := open(t, testkit.Postgres(t), func(_ context.Context, request proto.Message, cause process.Cause) error {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, name(request)+" for "+cause.Instance+" because of "+cause.ID)
		if len(calls) < 3 {
			return status.Error(codes.Unavailable, "the reply was lost")
		}
		close(answered)
		return nil
	})
	k.fold(fact("o1", "a", 1, "Hungry"))
	stop := k.run()
	<-answered
	stop()
	want := "cook for o1 because of a-1"
	if diff := cmp.Diff([]string{want, want, want}, calls); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"o1 cook done"}, k.steps()); diff != "" {
		t.Error(diff)
	}
}

func TestARefusalLetsTheProcessReact(t *testing.T) {
	refusedTwice := make(chan struct{})
	k := open(t, testkit.Postgres(t), func(_ context.Context, request proto.Message, _ process.Cause) error {
		if name(request) == "order-in" {
			defer close(refusedTwice)
		}
		return status.Error(codes.FailedPrecondition, "no")
	})
	k.fold(fact("o1", "a", 1, "Hungry"))
	stop := k.run()
	<-refusedTwice
	stop()
	if diff := cmp.Diff([]string{"o1 cook refused", "o1 order-in refused"}, k.steps()); diff != "" {
		t.Error(diff)
	}
	var attention string
	if err := k.pool.QueryRow(t.Context(), `SELECT attention FROM process_instance`).Scan(&attention); err != nil || attention != "nobody delivers" {
		t.Errorf("attention %q, %v", attention, err)
	}
}

// A dispatcher that dies with a claim, before or after its call, leaves it. When
// the claim lapses, another one sends the same request id, so the effect happens
// once; a live claim is respected.
func TestAnAbandonedClaimIsTakenOver(t *testing.T) {
	pool := testkit.Postgres(t)
	dead := open(t, pool, nil) // claims what it issues, and never runs
	dead.fold(fact("o1", "a", 1, "Hungry"))
	calls := make(chan string, 4)
	k := open(t, pool, func(_ context.Context, request proto.Message, cause process.Cause) error {
		calls <- name(request) + " " + cause.Instance
		return nil
	})
	if _, err := pool.Exec(t.Context(), `UPDATE process_command SET claimed_until = clock_timestamp() + interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	stop := k.run()
	k.fold(fact("o2", "b", 1, "Hungry"))
	if got := <-calls; got != "cook o2" {
		t.Fatalf("sent %s", got)
	}
	stop()
	if diff := cmp.Diff([]string{"o1 cook pending", "o2 cook done"}, k.steps()); diff != "" {
		t.Fatalf("a live claim was not respected: %s", diff)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE process_command SET claimed_until = clock_timestamp() WHERE status = 'pending'`); err != nil {
		t.Fatal(err)
	}
	stop = k.run()
	<-calls
	stop()
	if diff := cmp.Diff([]string{"o1 cook done", "o2 cook done"}, k.steps()); diff != "" {
		t.Error(diff)
	}
}

func TestManyDispatchersSendEachStepOnce(t *testing.T) {
	const orders = 200
	pool := testkit.Postgres(t)
	var mu sync.Mutex
	sent := map[string]int{}
	all := make(chan struct{})
	count := func(_ context.Context, _ proto.Message, cause process.Cause) error {
		mu.Lock()
		defer mu.Unlock()
		sent[cause.Instance]++
		if len(sent) == orders {
			select {
			case <-all:
			default:
				close(all)
			}
		}
		return nil
	}
	k := open(t, pool, count)
	var facts []event.Fact
	for i := range orders {
		facts = append(facts, fact(fmt.Sprint("o", i), fmt.Sprint("a", i), 1, "Hungry"))
	}
	k.fold(facts...)
	var stops []func()
	for range 3 {
		stops = append(stops, open(t, pool, count).run())
	}
	select {
	case <-all:
	case <-time.After(30 * time.Second):
		t.Fatal("not all steps were sent")
	}
	for _, stop := range stops {
		stop()
	}
	for instance, n := range sent {
		if n != 1 {
			t.Errorf("%s was sent %d times", instance, n)
		}
	}
}

// Cut into batches anywhere, with duplicates, the same facts give the same
// state and the same steps.
func TestBatchesDoNotMatter(t *testing.T) {
	pool := testkit.Postgres(t)
	k := open(t, pool, nil)
	history := []event.Fact{
		fact("o", "a", 1, "Hungry"), fact("o", "a", 2, "Bored"), fact("o", "b", 1, "Cooked"), fact("o", "a", 3, "Eaten"),
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		order := fmt.Sprint("o", run)
		var batch []event.Fact
		for i := range history {
			f := history[i]
			f.Key, f.Aggregate.ID = order, order+f.Aggregate.ID
			batch = append(batch, f)
			if rapid.Bool().Draw(rt, "again") {
				batch = append(batch, f)
			}
			if rapid.Bool().Draw(rt, "cut") {
				k.fold(batch...)
				batch = nil
			}
		}
		k.fold(batch...)
		var state, status string
		err := pool.QueryRow(context.Background(), `SELECT state->>'Facts', status FROM process_instance WHERE id = $1`, order).Scan(&state, &status)
		if err != nil {
			rt.Fatal(err)
		}
		if state != "4" || status != "ended" {
			rt.Fatalf("folded %s facts, %s; want 4, ended", state, status)
		}
	})
}
