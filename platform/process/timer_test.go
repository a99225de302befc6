package process_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

func (k kitchen) eventually(what string, condition func() bool) {
	k.t.Helper()
	ticker, timeout := time.NewTicker(3*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			k.t.Fatalf("did not come true: %s", what)
		}
	}
}

func query[T any](k kitchen, sql string, args ...any) (v T) {
	k.t.Helper()
	if err := k.pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		k.t.Fatal(err)
	}
	return v
}

func (k kitchen) exec(sql string, args ...any) {
	k.t.Helper()
	if _, err := k.pool.Exec(context.Background(), sql, args...); err != nil {
		k.t.Fatal(err)
	}
}

// blocked waits until n sessions of this database wait for a lock.
func (k kitchen) blocked(n int) {
	k.t.Helper()
	k.eventually("sessions wait for a lock", func() bool {
		return query[int](k, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}

func answering(context.Context, proto.Message, process.Cause) error { return nil }

const rang = `SELECT coalesce(json_array_length(nullif(state->>'Rang', 'null')::json), 0) FROM process_instance WHERE id = 'o1'`

// The database's clock alone decides: a timer that a scheduler saw as due is not
// fired if the clock was put back meanwhile.
func TestATimerDoesNotFireEarly(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	if wait := query[time.Duration](k, `SELECT due_at - clock_timestamp() FROM process_timer`); wait < 59*time.Minute || wait > time.Hour {
		t.Errorf("due in %v", wait)
	}
	if err := k.manager.Fire(t.Context(), "o1", "impatient"); err != nil {
		t.Fatal(err)
	}
	if n := query[int](k, rang); n != 0 {
		t.Errorf("fired %d times before it was due", n)
	}
	if n := query[int](k, `SELECT count(*) FROM process_timer`); n != 1 {
		t.Error("a timer that did not fire is gone")
	}
}

// Two schedulers see the same timer; the first is stopped in the middle of its
// transaction. It fires once.
func TestTwoSchedulersFireATimerOnce(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	k.exec(`UPDATE process_timer SET due_at = clock_timestamp()`)
	hold, err := k.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.Exec(t.Context(), `SELECT FROM process_instance FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	var schedulers sync.WaitGroup
	for range 2 {
		schedulers.Go(func() {
			if err := k.manager.Fire(t.Context(), "o1", "impatient"); err != nil {
				t.Error(err)
			}
		})
	}
	k.blocked(2)
	if err := hold.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	schedulers.Wait()
	if n := query[int](k, rang); n != 1 {
		t.Errorf("fired %d times", n)
	}
	// The plan still names it; a timer fires once, for ever.
	k.fold(fact("o1", "a", 2, "Bored"))
	if n := query[int](k, `SELECT count(*) FROM process_timer`); n != 0 {
		t.Error("it was set again")
	}
}

// The clock jumps over the deadline while nobody runs: the timer fires when
// somebody does, once. A clock that jumps back does not fire it again.
func TestAClockThatJumps(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	k.exec(`UPDATE process_timer SET due_at = due_at - interval '1 year'`)
	stop := k.run()
	k.eventually("it fires", func() bool { return query[int](k, rang) == 1 })
	stop()
	k.exec(`UPDATE process_instance SET updated_at = updated_at + interval '1 year'`)
	stop = k.run()
	defer stop()
	k.fold(fact("o1", "a", 2, "Bored"))
	if n := query[int](k, rang); n != 1 {
		t.Errorf("fired %d times", n)
	}
}

func TestATimerIsTakenBackWhenItIsNotWantedAnyMore(t *testing.T) {
	k := open(t, testkit.Postgres(t), answering)
	k.fold(fact("o1", "a", 1, "Hungry"))
	k.fold(fact("o1", "b", 1, "Cooked"))
	if diff := cmp.Diff(0, query[int](k, `SELECT count(*) FROM process_timer`)); diff != "" {
		t.Error(diff)
	}
	// A scheduler that saw it before comes too late.
	if err := k.manager.Fire(t.Context(), "o1", "impatient"); err != nil {
		t.Fatal(err)
	}
	if n := query[int](k, rang); n != 0 {
		t.Error("a timer that was taken back fired")
	}
}
