package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bite says what a fault met.
type bite struct {
	n    int64 // 0: nothing, it does not count
	what string
}

func (b bite) String() string { return fmt.Sprintf("met %d %s", b.n, b.what) }

type fault struct {
	name   string
	strike func(ctx context.Context, w *world) (bite, error)
}

// kinds are all kinds of faults that this world's broker allows.
func (w *world) kinds() []fault {
	all := append(w.inside(), []fault{
		{"kill a service", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, w.service(), syscall.SIGKILL) }},
		{"kill a read model", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, w.view(), syscall.SIGKILL) }},
		{"stop a service", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, w.service(), syscall.SIGTERM) }},
		{"kill the database", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, "postgres", syscall.SIGKILL) }},
		{"restart the database", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, "postgres", syscall.SIGTERM) }},
		{"kill the registry", func(ctx context.Context, w *world) (bite, error) { return w.end(ctx, "registry", syscall.SIGKILL) }},
		{"freeze a service", freezeService},
		{"freeze a read model", freezeView},
		{"cut database connections", cutConnections},
		{"hold transactions", holdTransactions},
		{"roll writers back", rollBack},
	}...)
	return slices.DeleteFunc(append(all, readSide()...), func(f fault) bool { return !strings.Contains(f.name, *only) })
}

// inside are the kinds that happen to the broker: a real Kafka is killed, the
// embedded one, which this process runs, can be made to misbehave besides.
func (w *world) inside() []fault {
	if w.broker == nil {
		return []fault{{"kill the broker", killBroker}}
	}
	return []fault{{"restart the broker", restartBroker}, {"lose acknowledgements", loseAcks}, {"delay acknowledgements", delayAcks}}
}

func (w *world) service() string { return []string{"order", "payment", "shipment"}[w.choice.IntN(3)] }
func (w *world) view() string    { return []string{"timeline", "operations"}[w.choice.IntN(2)] }

// inFlight waits for a moment at which something is on its way.
func (w *world) inFlight(ctx context.Context) int64 {
	var n int64
	until(ctx, 3*time.Second, func() bool {
		backlog, ok := w.Waiting(ctx)
		n = backlog.Unsent + backlog.Unapplied
		return ok && n > 0
	})
	return n
}

// end kills or stops a part while something is on its way, and waits until it
// serves again.
func (w *world) end(ctx context.Context, part string, signal syscall.Signal) (bite, error) {
	n := w.inFlight(ctx)
	w.Signal(part, signal)
	w.Await(part)
	return bite{n, "facts on their way; " + part}, nil
}

// freezeService stops a service for longer than its leases last. Somebody else
// takes them meanwhile, so what it does when it wakes up is fenced.
func freezeService(ctx context.Context, w *world) (bite, error) {
	part := w.service()
	w.inFlight(ctx)
	w.Signal(part, syscall.SIGSTOP)
	var taken int64
	var err error
	until(ctx, 10*time.Second, func() bool {
		taken, err = w.Count(ctx, part, `WITH taken AS (
			UPDATE relay_shard SET term = nextval('relay_term'), holder = 'somebody else', expires_at = clock_timestamp() + interval '1 second'
			WHERE expires_at < clock_timestamp() AND holder <> 'somebody else' RETURNING 1) SELECT count(*) FROM taken`)
		return err != nil || taken > 0
	})
	w.Signal(part, syscall.SIGCONT)
	return bite{taken, "leases that somebody else took; " + part}, err
}

// freezeView stops a read model beside a growing log.
func freezeView(ctx context.Context, w *world) (bite, error) {
	part := w.view()
	w.Signal(part, syscall.SIGSTOP)
	committed, err := w.Committed(ctx)
	if err != nil {
		return bite{}, err
	}
	pass(ctx, 3*time.Second)
	w.Signal(part, syscall.SIGCONT)
	later, err := w.Committed(ctx)
	return bite{later - committed, "facts that came meanwhile; " + part}, err
}

func restartBroker(ctx context.Context, w *world) (bite, error) {
	w.inFlight(ctx)
	w.broker.Close()
	var unsent int64
	until(ctx, 5*time.Second, func() bool { unsent, _ = w.Unsent(ctx); return unsent > 20 })
	w.startBroker(ctx)
	return bite{unsent, "facts that nobody took"}, nil
}

// killBroker kills a real Kafka while records are on their way, so that it has to
// find out from its logs what it has, and starts it again. Relays that cannot go
// on then would show in the end, but as one fault of many.
func killBroker(ctx context.Context, w *world) (bite, error) {
	w.inFlight(ctx)
	w.real.Kill()
	var unsent int64
	until(ctx, 5*time.Second, func() bool { unsent, _ = w.Unsent(ctx); return unsent > 20 })
	if err := w.real.Restart(ctx); err != nil {
		return bite{}, err
	}
	if !until(ctx, 2*time.Minute, func() bool { left, err := w.Unsent(ctx); return err == nil && left < unsent }) {
		return bite{}, fmt.Errorf("the relays do not go on after the broker was killed: %d facts were unsent", unsent)
	}
	return bite{unsent, "facts that nobody took"}, nil
}

// loseAcks has the broker store records and say that it timed out.
func loseAcks(ctx context.Context, w *world) (bite, error) {
	lost := w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: 8})
	defer lost.Remove()
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = lost.Wait(bounded, 8) // what it met is counted
	return bite{int64(lost.Hits()), "requests that were carried out and denied"}, nil
}

// delayAcks has the broker take its time with every record.
func delayAcks(ctx context.Context, w *world) (bite, error) {
	var met atomic.Int64
	var over atomic.Bool
	cluster := w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if over.Load() {
			cluster.DropControl()
			return nil, nil, false
		}
		met.Add(1)
		cluster.SleepControl(func() { pass(ctx, 300*time.Millisecond) })
		return nil, nil, false
	})
	pass(ctx, 3*time.Second)
	over.Store(true)
	return bite{met.Load(), "requests that waited"}, nil
}

func cutConnections(ctx context.Context, w *world) (bite, error) {
	n := w.inFlight(ctx)
	cut := w.database.Cut()
	if n == 0 {
		cut = 0
	}
	return bite{int64(cut), "connections"}, nil
}

// holdTransactions keeps every third writer at the end of its transaction, its
// sequences drawn and its locks held, while the others pass it; and a snapshot
// besides, so that no deleted row can go.
func holdTransactions(ctx context.Context, w *world) (bite, error) {
	part := w.service()
	conn, err := w.Connect(ctx, part)
	if err != nil {
		return bite{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range []string{
		"SELECT pg_advisory_lock(4711)",
		"BEGIN ISOLATION LEVEL REPEATABLE READ",
		"SELECT count(*) FROM outbox",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return bite{}, fmt.Errorf("hold: %w", err)
		}
	}
	var held, passed int64
	until(ctx, 4*time.Second, func() bool {
		held, _ = w.Count(ctx, part, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`)
		passed, _ = w.Count(ctx, part, `SELECT count(*) FROM journal WHERE recorded_at > (SELECT min(xact_start) FROM pg_stat_activity
			WHERE wait_event = 'advisory')`)
		return held > 3 && passed > 10
	})
	return bite{min(held, passed), "writers that others passed; " + part}, nil // closing the connection lets go
}

// rollBack makes every second writer fail at its commit, so that the numbers it
// drew are never used.
func rollBack(ctx context.Context, w *world) (bite, error) {
	part := w.service()
	holes := func() (int64, error) {
		return w.Count(ctx, part, `SELECT last_value - (SELECT count(*) FROM journal) FROM journal_sequence`)
	}
	before, err := holes()
	if err != nil {
		return bite{}, err
	}
	if err := w.set(ctx, part, "UPDATE fault_switch SET refuse = true"); err != nil {
		return bite{}, err
	}
	pass(ctx, 1500*time.Millisecond)
	if err := w.set(ctx, part, "UPDATE fault_switch SET refuse = false"); err != nil {
		return bite{}, err
	}
	after, err := holes()
	return bite{after - before, "numbers that were never used; " + part}, err
}

// arm puts the two faults of writers into the services' databases: triggers
// that act at the commit, when the sequence is drawn and the lock held.
func (w *world) arm(ctx context.Context) {
	w.t.Helper()
	for _, part := range []string{"order", "payment", "shipment"} {
		err := w.set(ctx, part, `
			CREATE TABLE fault_switch (refuse boolean NOT NULL);
			INSERT INTO fault_switch VALUES (false);
			CREATE FUNCTION fault_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF NEW.sequence % 3 = 0 THEN
					PERFORM pg_advisory_xact_lock_shared(4711);
				END IF;
				IF NEW.sequence % 2 = 0 AND (SELECT refuse FROM fault_switch) THEN
					RAISE EXCEPTION 'refused by the test' USING ERRCODE = '40001';
				END IF;
				RETURN NULL;
			END $$;
			CREATE CONSTRAINT TRIGGER fault_at_commit AFTER INSERT ON outbox
				DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fault_at_commit()`)
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) set(ctx context.Context, part, sql string) error {
	conn, err := w.Connect(ctx, part)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", part, err)
	}
	return nil
}
