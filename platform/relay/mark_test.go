package relay

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// unhurried lets nothing be due during a test, so that every mark but the first
// travels with the next read.
func (f *fixture) unhurried() {
	f.tuning.LeaseTTL, f.tuning.Poll, f.tuning.ControlEvery = time.Hour, time.Hour, time.Hour
}

// marksTogether starts a relay that is past its first barriers, and returns a
// function that lets something happen to the next rows between acknowledgement
// and mark.
func (f *fixture) marksTogether() (between func(func(*owner) error), stop func()) {
	f.unhurried()
	hook := make(chan func(*owner) error, 1)
	stop = f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(o *owner) error {
			select {
			case h := <-hook:
				return h(o)
			default:
				return nil
			}
		}
	}))
	for i := range 2 * partitions { // every partition has its control record
		f.state(fmt.Sprintf("first-%d", i), 1)
	}
	f.drained()
	return func(h func(*owner) error) { hook <- h }, stop
}

func (f *fixture) counted() int64 {
	f.Helper()
	return query[int64](f, `SELECT sum(count)::bigint FROM control_totals`)
}

// What was sent is marked, and the next rows are read, in one round trip.
func TestAMarkTravelsWithTheNextRead(t *testing.T) {
	f := setup(t)
	f.unhurried()
	var together atomic.Int64
	config := f.pool.Config()
	config.ConnConfig.Tracer = pairs{&together}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.start(f.relay(func(r *Relay) { r.cfg.Pool, r.leases.pool = pool, pool }))
	f.state("first", 1)
	f.drained()
	before := together.Load()
	for i := range 10 {
		f.state("first", 1) // its partition has its control record
		f.drained()
		if n := together.Load() - before; n != int64(i+1) {
			t.Fatalf("%d marks travelled with a read, of %d", n, i+1)
		}
	}
	f.checkTotals()
}

// pairs counts the batches of a mark and a read.
type pairs struct{ n *atomic.Int64 }

func (pairs) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (pairs) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (p pairs) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	if q := b.Batch.QueuedQueries; len(q) == 2 && q[0].SQL == markExpected && strings.Contains(q[1].SQL, "transaction_timestamp()") {
		p.n.Add(1)
	}
	return ctx
}
func (pairs) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (pairs) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A row that somebody else took out of the unsent set is not counted, although
// it was sent; the others are.
func TestAMarkCountsWhatItFinds(t *testing.T) {
	f := setup(t)
	between, _ := f.marksTogether()
	before := f.counted()
	between(func(*owner) error {
		f.exec(`DELETE FROM outbox o USING journal j WHERE o.sequence = j.sequence AND j.aggregate_id = 'o-1' AND j.version = 2`)
		return nil
	})
	f.state("o-1", 3)
	f.drained()
	f.eventually("the others are counted", func() bool { return f.counted() >= before+2 })
	f.state("o-1", 1)
	f.drained()
	if n := f.counted() - before; n != 3 {
		t.Errorf("counted %d of 4 events, of which one was not there to be marked", n)
	}
	if n := query[int](f, `SELECT count(*) FROM outbox`); n != 0 {
		t.Errorf("%d are unsent", n)
	}
}

// Of a partition that was taken between acknowledgement and mark nothing is
// marked or counted; what was sent to others is.
func TestAMarkLeavesALostPartitionAlone(t *testing.T) {
	f := setup(t)
	between, _ := f.marksTogether()
	before := f.counted()
	lost := event.PartitionOf("o-1", partitions)
	other := "o-2"
	for i := 2; event.PartitionOf(other, partitions) == lost; i++ {
		other = fmt.Sprintf("o-%d", i)
	}
	reading := make(chan struct{})
	between(func(o *owner) error {
		close(reading)
		f.state(other, 1)
		f.exec(`UPDATE relay_shard SET term = nextval('relay_term'), holder = 'another', expires_at = 'infinity' WHERE partition = $1`, lost)
		return nil
	})
	f.state("o-1", 1)
	<-reading
	f.eventually("the other partition's event is marked", func() bool { return f.unsent() == 1 && f.counted() == before+1 })
	if left := query[string](f, `SELECT j.aggregate_id FROM outbox o JOIN journal j USING (sequence)`); left != "o-1" {
		t.Errorf("%s is unsent", left)
	}
}

// The totals were changed under a relay that is about to mark. It counts nothing
// and starts over from what is there.
func TestAMarkOnOtherTotalsStartsOver(t *testing.T) {
	f := setup(t)
	between, _ := f.marksTogether()
	p := event.PartitionOf("o-1", partitions)
	moved := false
	between(func(*owner) error {
		f.exec(`UPDATE control_totals SET number = number + 1000 WHERE partition = $1`, p)
		moved = true
		return nil
	})
	f.state("o-1", 1)
	f.drained()
	if diff := cmp.Diff(2, len(f.sentOf("o-1"))); diff != "" || !moved {
		t.Errorf("sent again after starting over: %s", diff)
	}
	f.checkTotals()
}

func (f *fixture) sentOf(id string) (versions []string) {
	f.Helper()
	for _, s := range f.sent() {
		if s == id+"/1" {
			versions = append(versions, s)
		}
	}
	return versions
}

// A relay that is stopped while what it sent waits to be marked marks it before
// it gives its partitions back: the next one sends nothing twice.
func TestAStopMarksWhatWasSent(t *testing.T) {
	f := setup(t)
	between, stop := f.marksTogether()
	acknowledged := make(chan struct{})
	between(func(o *owner) error {
		o.tuning.Coalesce = time.Hour // the next read is far away
		close(acknowledged)
		return nil
	})
	f.state("o-1", 5)
	<-acknowledged
	stop()
	if n := f.unsent(); n != 0 {
		t.Errorf("%d acknowledged events are unsent after a stop", n)
	}
	f.checkTotals()
}

// What takes the place of a context while the relay stops ends a while after it,
// not with it.
func TestOutlast(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	outlasting, end := outlast(ctx)
	cancel()
	if err := outlasting.Err(); err != nil {
		t.Error(err)
	}
	end()
	if outlasting.Err() == nil {
		t.Error("does not end")
	}
}
