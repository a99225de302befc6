package relay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// holding returns how many partitions each relay holds under a lease that runs.
func (f *fixture) holding() map[string]int {
	f.Helper()
	rows, err := f.pool.Query(context.Background(), `SELECT holder, count(*) FROM relay_shard WHERE expires_at > clock_timestamp() GROUP BY 1`)
	if err != nil {
		f.Fatal(err)
	}
	held := map[string]int{}
	var holder string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&holder, &n}, func() error { held[holder] = n; return nil }); err != nil {
		f.Fatal(err)
	}
	return held
}

func (f *fixture) shares(want ...int) {
	f.Helper()
	f.eventually(fmt.Sprintf("the relays hold %v partitions", want), func() bool {
		return slices.Equal(slices.Sorted(maps.Values(f.holding())), want)
	})
}

// Relays that come and go while events are committed share the partitions, and
// hand them over at once: the leases run for a minute. No event is lost, none
// overtakes another of its aggregate, and none is sent twice.
func TestRelaysShareThePartitions(t *testing.T) {
	f := setup(t)
	f.tuning.LeaseTTL = time.Minute
	stopFirst := f.start(f.relay())
	f.shares(8)
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
					f.state(fmt.Sprintf("o-%d", (w+i)%11), 1+i%2)
				}
			}
		})
	}
	stopSecond := f.start(f.relay())
	f.shares(4, 4)
	f.start(f.relay())
	f.shares(2, 3, 3)
	stopFirst()
	f.shares(4, 4)
	stopSecond()
	f.shares(8)
	close(quit)
	wg.Wait()
	f.drained()
	next := map[string]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact != nil {
			if next[r.fact.Aggregate.ID]++; r.fact.Version != next[r.fact.Aggregate.ID] {
				t.Fatalf("%s arrived as version %d, want %d", r.fact.Aggregate, r.fact.Version, next[r.fact.Aggregate.ID])
			}
		}
	}
	f.checkTotals()
}

// However relays join and leave, what they settle on is fair, and partitions
// move only as far as needed.
func TestSharesAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 20).Draw(t, "partitions")
		held := map[string]int{}
		free := count
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "leave") {
				gone := rapid.SampledFrom(slices.Sorted(maps.Keys(held))).Draw(t, "who")
				free += held[gone]
				delete(held, gone)
			} else {
				held[fmt.Sprint("relay", step)] = 0
			}
			moved := 0
			for range 4 * len(held) { // turns, in any order
				if len(held) == 0 {
					break
				}
				me := rapid.SampledFrom(slices.Sorted(maps.Keys(held))).Draw(t, "turn")
				moved += turn(held, &free, me, count)
			}
			for range 2 {
				for _, me := range slices.Sorted(maps.Keys(held)) {
					moved += turn(held, &free, me, count)
				}
			}
			if len(held) == 0 {
				continue
			}
			shares := slices.Sorted(maps.Values(held))
			if free != 0 || shares[len(shares)-1]-shares[0] > 1 {
				t.Fatalf("%d partitions: %v, free %d", count, held, free)
			}
			if moved > count {
				t.Fatalf("%d of %d partitions were given up", moved, count)
			}
		}
	})
}

// turn lets one relay settle, and returns how many partitions it gave up.
func turn(held map[string]int, free *int, me string, partitions int) int {
	s := survey{others: maps.Clone(held), free: *free}
	delete(s.others, me)
	share := s.share(me, held[me], partitions)
	if surplus := held[me] - share; surplus > 0 {
		held[me], *free = share, *free+surplus
		return surplus
	}
	took := min(share-held[me], *free)
	held[me], *free = held[me]+took, *free-took
	return 0
}

// A relay stops without a word. Another has its partitions within the lease's
// time and two seconds.
func TestTakeoverIsInTime(t *testing.T) {
	f := setup(t)
	f.tuning.Poll = time.Second
	paused, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.state("o-1", 3)
	f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			once.Do(func() { close(paused); <-resume })
			return nil
		}
	}))
	t.Cleanup(func() { close(resume) })
	<-paused
	since := time.Now()
	f.start(f.relay())
	f.drained()
	if took := time.Since(since); took > f.tuning.LeaseTTL+2*time.Second {
		t.Errorf("took %s", took)
	}
	f.checkTotals()
}

// One of a relay's partitions is taken over while its batch is acknowledged but
// not marked. Of that partition it marks, counts and announces nothing; of the
// others it does.
func TestALostPartitionLeavesTheOthersAlone(t *testing.T) {
	f := setup(t)
	lost, kept := "o-1", "o-2"
	p := event.PartitionOf(lost, partitions)
	if p == event.PartitionOf(kept, partitions) {
		t.Fatal("choose other orders")
	}
	f.state(lost, 2)
	f.state(kept, 3)
	var once sync.Once
	f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			once.Do(func() {
				f.exec(`UPDATE relay_shard SET term = nextval('relay_term'), holder = 'another', expires_at = 'infinity' WHERE partition = $1`, p)
			})
			return nil
		}
	}))
	f.eventually("the other partition is marked", func() bool { return f.unsent() == 2 })
	from := query[time.Time](f, `SELECT clock_timestamp()`)
	f.state(kept, 1)
	f.eventually("the other partition goes on", func() bool { return f.unsent() == 2 })
	if n := query[int](f, `SELECT count FROM control_totals WHERE partition = $1`, p); n != 0 {
		t.Errorf("counted %d", n)
	}
	for _, r := range append(f.read(kafka.TopicOrder), f.read(kafka.TopicControl)...) {
		if c := r.control; c != nil && c.Partition == p && (c.Count > 0 || c.AsOf.After(from)) {
			t.Errorf("announced %+v", c)
		}
	}
	f.exec(`UPDATE relay_shard SET expires_at = '-infinity' WHERE holder = 'another'`)
	f.drained()
	f.checkTotals()
}

// A relay that lost a partition in which nothing is unsent does not announce it
// as current: it cannot know what the new owner sent.
func TestALostPartitionIsNotAnnounced(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	f.shares(8)
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	f.exec(`UPDATE relay_shard SET term = nextval('relay_term'), holder = 'another', expires_at = 'infinity' WHERE partition = 3`)
	from := query[time.Time](f, `SELECT clock_timestamp()`)
	f.eventually("the others are announced", func() bool {
		others := map[int32]bool{}
		for _, r := range f.read(kafka.TopicControl) {
			if r.control.AsOf.After(from) {
				others[r.partition] = true
			}
		}
		if others[3] {
			t.Fatal("the lost partition was announced as current")
		}
		return len(others) == partitions-1
	})
}

// A commit belongs to a partition that another process's relay holds. A hint
// reaches it: the poll would come in a minute.
func TestACommitWakesTheRelayOfAnotherProcess(t *testing.T) {
	f := setup(t)
	f.tuning.Poll, f.tuning.LeaseTTL = time.Minute, 10*time.Minute
	here, there := f.relay(), f.relay(func(r *Relay) { r.cfg.Wakes = nil })
	for i, r := range []*Relay{here, there} { // each knows of the other from the start
		r.leases.holder = fmt.Sprint("relay ", i) // of which nobody can tell yet whether it lives
		f.exec(`INSERT INTO relay_member VALUES ($1, clock_timestamp() + interval '10 minutes')`, r.leases.holder)
	}
	f.start(here)
	f.shares(4)
	f.start(there)
	f.shares(4, 4)
	f.eventually("both listen", func() bool {
		return query[int](f, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`) == 2
	})
	for i := range 20 {
		f.state(fmt.Sprintf("o-%d", i), 1)
	}
	f.drained()
	f.checkTotals()
}

// The lease runs out while a broker's answer is awaited, is renewed meanwhile,
// and nobody takes over.
func TestLeasesAreKeptWhileTheBrokerIsSlow(t *testing.T) {
	f := setup(t)
	f.start(f.relay(func(r *Relay) {
		r.hooks.read = func(o *owner) error {
			if len(o.shards) == partitions {
				o.trusted = time.Now().Add(-time.Hour) // as after a pause
			}
			return nil
		}
	}))
	for i := range 5 {
		f.state(fmt.Sprintf("o-%d", i), 1)
		f.drained()
	}
	if n := query[int64](f, `SELECT max(term) - min(term) FROM relay_shard`); n != partitions-1 {
		t.Errorf("terms span %d: a partition was acquired twice", n)
	}
	f.checkTotals()
}

type counter struct{ statements *atomic.Int64 }

func (c counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}
func (counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}
func (c counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {
	c.statements.Add(1)
}
func (counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// An idle relay makes one statement per poll for all partitions, renewing its
// leases and looking at the others included.
func TestIdleCostsOneStatementPerPoll(t *testing.T) {
	f := setup(t)
	var statements, turns atomic.Int64
	config := f.pool.Config()
	config.ConnConfig.Tracer = counter{&statements}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.state("o-1", 1)
	stop := f.start(f.relay(func(r *Relay) {
		r.cfg.Pool, r.leases.pool = pool, pool
		r.hooks.read = func(*owner) error { turns.Add(1); return nil }
	}))
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	statementsBefore, turnsBefore := statements.Load(), turns.Load()
	f.eventually("many polls", func() bool { return turns.Load() > turnsBefore+60 })
	s, n := statements.Load()-statementsBefore, turns.Load()-turnsBefore
	stop()
	if s > n+1 {
		t.Errorf("%d statements in %d turns", s, n)
	}
}

// A relay that was killed gives nothing back and its leases run on. Its session
// has ended, so another takes all of its partitions, and its share of them, at
// once; while it lives, or nobody can tell, nothing is taken.
func TestTheLeasesOfTheDeadAreNotWaitedFor(t *testing.T) {
	f := setup(t)
	f.tuning.LeaseTTL = time.Minute
	f.exec(makeShards, partitions)
	doomed := f.relay()
	session, err := doomed.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := doomed.leases.acquire(t.Context(), []int32{}, partitions); err != nil {
		t.Fatal(err)
	}
	f.exec(`INSERT INTO relay_member VALUES ($1, clock_timestamp() + interval '1 minute')`, doomed.leases.holder)
	bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again, err := doomed.session(bounded) // while the server still takes the one before for alive
	if err != nil {
		t.Fatalf("another session of the same relay: %v", err)
	}
	closeSession(t.Context(), again)
	next := f.relay()
	if got, err := next.leases.acquire(t.Context(), []int32{}, partitions); err != nil || len(got) != 0 {
		t.Fatalf("took %v from a relay that lives, %v", got, err)
	}
	closeSession(t.Context(), session)
	f.start(next)
	f.state("o-1", 3)
	f.drained()
	f.shares(8)
	if n := query[int](f, `SELECT count(*) FROM relay_shard WHERE expires_at - clock_timestamp() < interval '1 second'`); n != 0 {
		t.Errorf("%d leases had run out", n)
	}

	f.exec(`UPDATE relay_shard SET holder = 'of an earlier release', expires_at = clock_timestamp() + interval '1 minute'`)
	if got, err := f.relay().leases.acquire(t.Context(), []int32{}, partitions); err != nil || len(got) != 0 {
		t.Errorf("took %v from a relay of which nobody knows whether it lives, %v", got, err)
	}
}
