package process_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

var errLost = status.Error(codes.Aborted, "the reply was lost")

// A step whose reply was lost is withdrawn: it is not sent again, but made
// definite at the participant, and the process learns what it was.
func TestAWithdrawnStepIsMadeDefinite(t *testing.T) {
	for _, c := range []struct {
		name      string
		effective bool
		spared    string
		want      string
	}{
		{"it never took effect", false, "true", "o1 cook withdrawn"},
		{"it took effect", true, "false", "o1 cook done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent, asked := make(chan struct{}, 16), make(chan string, 16)
			k := openTo(t, testkit.Postgres(t), process.Participants{
				Send: func(context.Context, proto.Message, process.Cause) error {
					sent <- struct{}{}
					return errLost
				},
				Resolve: func(_ context.Context, target, requestID, method string, _ process.Cause) (bool, error) {
					asked <- target + " " + requestID + " " + method
					if len(asked) == 1 {
						return false, errLost // as unknown as before
					}
					return c.effective, nil
				},
			}, definition())
			k.fold(fact("o1", "a", 1, "Hungry"))
			stop := k.run()
			defer stop()
			<-sent
			k.eventually("the loss is noted", func() bool { return query[string](k, `SELECT outcome FROM process_command`) != "" })
			k.exec(`UPDATE process_command SET due_at = clock_timestamp() + interval '1 hour'`)
			before := len(sent)
			k.fold(fact("o1", "a", 2, "Sated"))
			k.manager.Wake()
			k.eventually("it is definite", func() bool { return cmp.Equal([]string{c.want}, k.steps()) })
			want := "chef " + process.RequestID("dinner", "o1", "cook") + " StringValue"
			if got := <-asked; got != want || len(sent) != before {
				t.Errorf("asked for %q, want %q; sent %d times more", got, want, len(sent)-before)
			}
			if got := query[string](k, `SELECT state->>'Spared' FROM process_instance`); got != c.spared {
				t.Errorf("the process was told that it was withdrawn: %s", got)
			}
		})
	}
}

// A step that waits in the table, never sent, is withdrawn without asking anybody.
func TestAStepThatWasNeverSentIsWithdrawnAtOnce(t *testing.T) {
	pool := testkit.Postgres(t)
	other := open(t, pool, nil)
	other.fold(fact("o1", "a", 1, "Hungry"))
	other.exec(`UPDATE process_command SET attempts = 0, claimed_until = '-infinity'`)
	other.fold(fact("o1", "a", 2, "Sated"))
	k := open(t, pool, func(context.Context, proto.Message, process.Cause) error { return errors.New("must not be sent") })
	defer k.run()()
	k.eventually("it is withdrawn", func() bool { return cmp.Equal([]string{"o1 cook withdrawn"}, k.steps()) })
}

// The reply was on its way when the step was withdrawn: what the participant
// said stands.
func TestAReplyThatComesAfterTheWithdrawalStands(t *testing.T) {
	called, answer := make(chan struct{}), make(chan error)
	k := open(t, testkit.Postgres(t), func(context.Context, proto.Message, process.Cause) error {
		called <- struct{}{}
		return <-answer
	})
	defer k.run()()
	k.fold(fact("o1", "a", 1, "Hungry"))
	<-called
	k.fold(fact("o1", "a", 2, "Sated"))
	answer <- nil
	k.eventually("it is done", func() bool { return cmp.Equal([]string{"o1 cook done"}, k.steps()) })
}

// A step that keeps failing for an hour is tried again for ever, loses nothing,
// and is seen with its age; once it succeeds nobody sees it any more.
func TestAStepThatKeepsFailingIsSeenAndNeverGivenUp(t *testing.T) {
	healthy := make(chan struct{})
	k := open(t, testkit.Postgres(t), func(context.Context, proto.Message, process.Cause) error {
		select {
		case <-healthy:
			return nil
		default:
			return errLost
		}
	})
	defer k.run()()
	k.fold(fact("o1", "a", 1, "Hungry"))
	k.exec(`UPDATE process_command SET created_at = created_at - interval '1 hour'`)
	k.eventually("it is seen", func() bool { return query[bool](k, `SELECT stalled FROM process_command`) })
	found, err := k.manager.List(t.Context(), process.Filter{NeedsPerson: true, Limit: 10})
	if err != nil || len(found) != 1 || found[0].ID != "o1" {
		t.Fatalf("processes that need a person: %+v, %v", found, err)
	}
	detail, err := k.manager.Show(t.Context(), "o1")
	if err != nil || len(detail.Steps) != 1 || !detail.Steps[0].Stalled || time.Since(detail.Steps[0].IssuedAt) < time.Hour ||
		detail.Steps[0].Outcome != "rpc error: code = Aborted desc = the reply was lost" {
		t.Errorf("%+v, %v", detail, err)
	}
	close(healthy)
	k.eventually("it is done", func() bool { return cmp.Equal([]string{"o1 cook done"}, k.steps()) })
	if found, err = k.manager.List(t.Context(), process.Filter{NeedsPerson: true, Limit: 10}); err != nil || len(found) != 0 {
		t.Errorf("still seen: %+v, %v", found, err)
	}
}

// A new version is deployed while processes are open: those keep the version
// they were started with; a program that lacks it leaves them alone.
func TestAnInstanceKeepsItsVersion(t *testing.T) {
	pool := testkit.Postgres(t)
	second := definition()
	second.Version = 2
	next := second.Next
	second.Next = func(s *dinner) process.Plan {
		plan := next(s)
		for i, c := range plan.Commands {
			plan.Commands[i] = process.Command{Step: c.Step + " anew", Request: wrapperspb.String(c.Step)}
		}
		return plan
	}
	k := open(t, pool, answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	both := openTo(t, pool, process.Participants{Send: answering}, definition(), second)
	both.fold(fact("o1", "a", 2, "Cooked"), fact("o2", "b", 1, "Hungry"))
	if diff := cmp.Diff([]string{"o1 cook pending", "o1 eat pending", "o2 cook anew pending"}, k.steps()); diff != "" {
		t.Error(diff)
	}
	if err := k.manager.Fold(t.Context(), []event.Fact{fact("o2", "b", 2, "Cooked")}); err == nil {
		t.Error("a program folded into a version that it does not know")
	}
	both.fold(fact("o2", "b", 2, "Cooked"))
	if diff := cmp.Diff([]string{"o1 cook pending", "o1 eat pending", "o2 cook anew pending", "o2 eat anew pending"}, k.steps()); diff != "" {
		t.Error(diff)
	}
}

// A fact that was released unsent comes as a void fact: it folds nothing, takes
// its version, and a person is told.
func TestAVoidFactFoldsNothing(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	void := fact("o1", "a", 2, "")
	void.Body = &control.FactVoided{OriginalName: "Cooked", OriginalVersion: 1, Reason: "too large", Actor: "operator:eva"}
	k.fold(fact("o1", "a", 1, "Hungry"), void, fact("o1", "a", 2, "Cooked"), fact("o1", "a", 3, "Bored"))
	if n := query[string](k, `SELECT (state->>'Facts') || (state->>'Cooked') FROM process_instance`); n != "2false" {
		t.Errorf("folded %s", n)
	}
	if a := query[string](k, `SELECT attention FROM process_instance`); a == "" {
		t.Error("nobody is told")
	}
}

// Nothing is written on top of a state that somebody else changed.
func TestARevisionIsComparedAndSet(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	k.exec(`CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	k.exec(`CREATE TRIGGER elsewhere BEFORE UPDATE ON process_instance FOR EACH ROW EXECUTE FUNCTION elsewhere()`) // as if the row were at another revision
	if err := k.manager.Fold(t.Context(), []event.Fact{fact("o1", "a", 2, "Cooked")}); err == nil {
		t.Error("the write was lost and nobody noticed")
	}
	if diff := cmp.Diff([]string{"o1 cook pending"}, k.steps()); diff != "" {
		t.Error(diff)
	}
}

// TestWhatWaitsForATargetGoesWhenItIsBack: a step's next attempt may be long in
// coming; one call that is answered after the circuit was open brings it forward.
func TestWhatWaitsForATargetGoesWhenItIsBack(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	k := open(t, testkit.Postgres(t), func(context.Context, proto.Message, process.Cause) error {
		if down.Load() {
			return status.Error(codes.Unavailable, "away")
		}
		return nil
	})
	for i := range 12 {
		k.fold(fact(fmt.Sprint("o", i), fmt.Sprint("a", i), 1, "Hungry"))
	}
	stop := k.run()
	defer stop()
	k.eventually("attempts fail", func() bool {
		return query[int](k, `SELECT coalesce(sum(attempts), 0)::int FROM process_command WHERE outcome <> ''`) > 6
	})
	k.exec(`UPDATE process_command SET due_at = clock_timestamp() + interval '1 hour' WHERE instance_id <> 'o0'`)
	down.Store(false)
	k.eventually("all are sent", func() bool {
		return query[int](k, `SELECT count(*)::int FROM process_command WHERE status = 'pending'`) == 0
	})
}

// TestOthersAreToldThatAPersonIsNeeded: in the transaction that learns of it,
// once for each change, and told of the end of it as well.
func TestOthersAreToldThatAPersonIsNeeded(t *testing.T) {
	k := open(t, testkit.Postgres(t), func(_ context.Context, r proto.Message, _ process.Cause) error {
		return status.Error(codes.FailedPrecondition, "no")
	})
	k.exec(`CREATE TABLE said (number serial, id text, reason text, step text)`)
	var fail atomic.Bool
	var after atomic.Int64
	k.manager.Tell = func(_ context.Context, _ *postgres.BatchTx, b *pgx.Batch, id string, c process.Concern) (func(), error) {
		if fail.Load() {
			return nil, errors.New("not now")
		}
		b.Queue(`INSERT INTO said (id, reason, step) VALUES ($1, $2, $3)`, id, c.Reason, c.Step)
		return func() { after.Add(1) }, nil
	}
	said := func() string {
		return query[string](k, `SELECT coalesce(string_agg(reason || ' ' || step, ', ' ORDER BY number), '') FROM said`)
	}
	k.fold(fact("o1", "a1", 1, "Hungry"))
	stop := k.run()
	k.eventually("a person is needed", func() bool { return said() == "ALONE order-in" })
	stop()
	k.fold(fact("o1", "a1", 2, "Sated")) // changes nothing of it
	if got := said(); got != "ALONE order-in" || after.Load() != 1 {
		t.Errorf("told %q, %d times after a commit", got, after.Load())
	}
	fail.Store(true)
	if err := k.manager.Fold(t.Context(), []event.Fact{fact("o1", "a1", 3, "Helped")}); err == nil {
		t.Error("folded although nobody could be told")
	}
	fail.Store(false)
	k.fold(fact("o1", "a1", 3, "Helped"), fact("o1", "a1", 4, "Cooked"))
	if got := said(); got != "ALONE order-in,  " || after.Load() != 2 {
		t.Errorf("told %q, %d times after a commit", got, after.Load())
	}
}
