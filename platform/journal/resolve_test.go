package journal_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

const (
	effective = journalpb.RequestOutcome_REQUEST_OUTCOME_EFFECTIVE
	refused   = journalpb.RequestOutcome_REQUEST_OUTCOME_REFUSED
)

type resolution struct {
	*journalpb.ResolveRequestResponse
	err error
}

func resolve(ctx context.Context, j *journal.Journal, undecided journal.Undecided, id, method string) resolution {
	resp, err := journal.NewRequestServer(j, undecided).ResolveRequest(ctx, &journalpb.ResolveRequestRequest{RequestId: id, Method: method})
	return resolution{resp, err}
}

func TestAnAbsentRequestIsRefusedForEver(t *testing.T) {
	j := open(t)
	id := uuid.NewString()
	for range 2 {
		if r := resolve(t.Context(), j, nil, id, "Hold"); r.err != nil || r.GetOutcome() != refused {
			t.Fatalf("resolved: %v, %v", r.ResolveRequestResponse, r.err)
		}
	}
	if _, _, err := hold(t.Context(), j, id, "o-1", "why", 1); fault.ReasonOf(err) != fault.ReasonRequestResolved || fault.KindOf(err) != fault.KindFailedPrecondition {
		t.Errorf("the request that arrives late: %v", err)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM journal`); n != 0 {
		t.Errorf("%d events", n)
	}
}

func TestARequestThatTookEffectKeepsItsAnswer(t *testing.T) {
	j := open(t)
	id := uuid.NewString()
	want, _, err := hold(t.Context(), j, id, "o-1", "why", 1)
	if err != nil {
		t.Fatal(err)
	}
	r := resolve(t.Context(), j, nil, id, "Hold")
	got := &journalpb.GetEventsResponse{}
	if err := proto.Unmarshal(r.GetAnswer(), got); r.err != nil || err != nil || r.GetOutcome() != effective || !proto.Equal(got, want) {
		t.Errorf("resolved: %v, %v, %v", r.ResolveRequestResponse, r.err, err)
	}
	if r := resolve(t.Context(), j, nil, id, "Release"); fault.ReasonOf(r.err) != fault.ReasonRequestIDReused {
		t.Errorf("under another method: %v", r.err)
	}
}

// The request's transaction is under way: its row is there and cannot be seen.
// Whoever looks for it finds nothing; resolving waits for how it ends.
func TestARequestUnderWayIsWaitedFor(t *testing.T) {
	for _, end := range []struct {
		name string
		say  string
		want journalpb.RequestOutcome
	}{{"commits", "why", effective}, {"rolls back", "refuse", refused}} {
		t.Run(end.name, func(t *testing.T) {
			j := open(t)
			mustHold(t, j, "o-1", 1)
			tx, err := j.Pool().Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `SELECT FROM things WHERE id = 'o-1' FOR UPDATE`); err != nil {
				t.Fatal(err)
			}
			id := uuid.NewString()
			first, resolved := make(chan error, 1), make(chan resolution, 1)
			go func() { _, _, err := hold(context.Background(), j, id, "o-1", end.say, 1); first <- err }()
			blockedSessions(t, j.Pool(), 1) // it has its row and waits for the aggregate
			if n := query[int](t, j.Pool(), `SELECT count(*) FROM idempotency WHERE request_id = $1`, id); n != 0 {
				t.Fatal("the row can be seen already")
			}
			go func() { resolved <- resolve(context.Background(), j, nil, id, "Hold") }()
			blockedSessions(t, j.Pool(), 2)
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-first; (err == nil) != (end.want == effective) {
				t.Errorf("the request: %v", err)
			}
			if r := <-resolved; r.err != nil || r.GetOutcome() != end.want {
				t.Errorf("resolved: %v, %v; want %v", r.ResolveRequestResponse, r.err, end.want)
			}
		})
	}
}

// What depends on somebody outside is neither effective nor refused; once it is
// decided, a refusal from there has taken the row away and is recorded as ours.
func TestARequestThatWaitsForSomebodyElseIsNotDecided(t *testing.T) {
	j := open(t)
	id := uuid.NewString()
	if _, _, err := hold(t.Context(), j, id, "o-1", "why", 1); err != nil {
		t.Fatal(err)
	}
	open := true
	undecided := func(context.Context, string, string, []byte) (bool, error) { return open, nil }
	if r := resolve(t.Context(), j, undecided, id, "Hold"); fault.KindOf(r.err) != fault.KindUnavailable {
		t.Errorf("while it waits: %v, %v", r.ResolveRequestResponse, r.err)
	}
	open = false
	if r := resolve(t.Context(), j, undecided, id, "Hold"); r.err != nil || r.GetOutcome() != effective {
		t.Errorf("once it took effect: %v, %v", r.ResolveRequestResponse, r.err)
	}
	refusedOutside := func(context.Context, string, string, []byte) (bool, error) {
		exec(t, j.Pool(), `DELETE FROM idempotency WHERE request_id = $1 AND fingerprint <> ''`, id)
		return false, nil
	}
	if r := resolve(t.Context(), j, refusedOutside, id, "Hold"); r.err != nil || r.GetOutcome() != refused {
		t.Errorf("once it was refused outside: %v, %v", r.ResolveRequestResponse, r.err)
	}
}

func TestAnswersToNameBasedRequestsAreKept(t *testing.T) {
	j := open(t)
	drawn, made := uuid.NewString(), uuid.NewSHA1(uuid.Nil, []byte("a step")).String()
	for _, id := range []string{drawn, made} {
		if _, _, err := hold(t.Context(), j, id, "o-1", "why", 1); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, j.Pool(), `UPDATE idempotency SET created_at = created_at - interval '31 days'`)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- j.Prune(ctx) }()
	eventually(t, func() bool { return query[int](t, j.Pool(), `SELECT count(*) FROM idempotency`) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, again, err := hold(t.Context(), j, made, "o-1", "why", 1); err != nil || !again {
		t.Errorf("the step came again: replayed %v, %v", again, err)
	}
}

// A process that ended lets its answers go, of which none is younger than what
// every other caller is promised.
func TestAnswersThatAreLetGoAreForgottenWhenOld(t *testing.T) {
	j := open(t)
	old, young, kept := uuid.NewSHA1(uuid.Nil, []byte("old")).String(), uuid.NewSHA1(uuid.Nil, []byte("young")).String(), uuid.NewSHA1(uuid.Nil, []byte("kept")).String()
	for _, id := range []string{old, young, kept} {
		if _, _, err := hold(t.Context(), j, id, "o-1", "why", 1); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, j.Pool(), `UPDATE idempotency SET created_at = created_at - interval '31 days' WHERE request_id <> $1`, young)
	resp, err := journal.NewRequestServer(j, nil).ForgetRequests(t.Context(), &journalpb.ForgetRequestsRequest{RequestIds: []string{old, young, uuid.NewString()}})
	if err != nil || resp.GetForgotten() != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	if n := query[int](t, j.Pool(), `SELECT count(*) FROM idempotency WHERE request_id IN ($1, $2)`, young, kept); n != 2 {
		t.Errorf("%d of the two that were to stay", n)
	}
}
