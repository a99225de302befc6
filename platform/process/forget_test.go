package process_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// Answers are forgotten of processes that ended long ago, and of nothing else:
// an open process may send a step again however old it is, and so may one that
// ended while an outcome is open, or that moved since.
func TestOnlyTheRequestsOfEndedProcessesAreForgotten(t *testing.T) {
	var told []string
	deaf := true
	k := openTo(t, testkit.Postgres(t), process.Participants{Forget: func(_ context.Context, target string, ids []string) error {
		if deaf {
			return errors.New("it does not answer")
		}
		for _, id := range ids {
			told = append(told, target+" "+id)
		}
		return nil
	}}, definition())
	for _, id := range []string{"ended", "open", "doubtful", "young", "moved", "fresh"} {
		k.fold(fact(id, "a-"+id, 1, "Hungry"))
		if id != "open" {
			k.fold(fact(id, "a-"+id, 2, "Eaten"))
		}
	}
	k.exec(`UPDATE process_command SET status = 'done', finished_at = clock_timestamp() WHERE instance_id <> 'doubtful'`)
	k.exec(`UPDATE process_command SET finished_at = finished_at - interval '31 days' WHERE instance_id <> 'fresh'`)
	k.exec(`UPDATE process_instance SET created_at = created_at - interval '40 days', updated_at = updated_at - interval '31 days'`)
	k.exec(`UPDATE process_instance SET updated_at = clock_timestamp() - interval '29 days' WHERE id = 'young'`)
	k.fold(fact("moved", "a-moved", 3, "Helped")) // a late fact

	if _, err := k.manager.ForgetEnded(t.Context()); err == nil {
		t.Error("a participant that was not told is taken for told")
	}
	deaf = false
	for range 2 { // and once is enough
		if _, err := k.manager.ForgetEnded(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"chef " + process.RequestID("dinner", "ended", "cook")}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}

	// It lives again, and ends again: what it asked for since is forgotten, too.
	k.fold(fact("ended", "a-ended", 3, "Cooked"))
	k.exec(`UPDATE process_command SET status = 'done', finished_at = clock_timestamp() - interval '31 days' WHERE instance_id = 'ended'`)
	k.exec(`UPDATE process_instance SET updated_at = updated_at - interval '31 days' WHERE id = 'ended'`)
	if _, err := k.manager.ForgetEnded(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := "chef " + process.RequestID("dinner", "ended", "eat"); !slices.Contains(told, again) {
		t.Errorf("told %v, want also %s", told, again)
	}
}
