package fulfilment

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// fault is one kind of trouble. It returns how many commands it met, or other
// things that make it count.
type fault struct {
	name   string
	strike func(ctx context.Context, w *world) int64
}

func kinds() []fault {
	kill := func(part string) fault {
		return fault{"kill -9 " + part, func(ctx context.Context, w *world) int64 {
			n := w.underWay(ctx)
			w.Signal(part, syscall.SIGKILL)
			w.Await(part)
			return n
		}}
	}
	swallow := func(name string, proxy func(*world) *processes.Proxy) fault {
		return fault{"swallow replies of " + name, func(ctx context.Context, w *world) int64 { return w.swallow(ctx, name, proxy(w)) }}
	}
	all := []fault{
		kill("order"), kill("payment"), kill("shipment"), kill("postgres"), kill("broker"), kill("timeline"), kill("operations"),
		swallow("payment", func(w *world) *processes.Proxy { return w.payment }),
		swallow("shipment", func(w *world) *processes.Proxy { return w.shipment }),
		{"cut connections of the database", func(ctx context.Context, w *world) int64 {
			n := w.underWay(ctx)
			return min(n, int64(w.database.Cut()))
		}},
		{"cut calls between services", func(ctx context.Context, w *world) int64 {
			n := w.underWay(ctx)
			return min(n, int64(w.payment.Cut()+w.shipment.Cut()))
		}},
	}
	if *bites > 1 { // it takes its time
		all = append(all, fault{"freeze payment beyond the deadline", func(ctx context.Context, w *world) int64 {
			n := w.underWay(ctx)
			w.Signal("payment", syscall.SIGSTOP)
			pass(ctx, 11*time.Second) // a call waits ten; its reply comes when nobody waits for it
			w.Signal("payment", syscall.SIGCONT)
			return n
		}})
	}
	return all
}

// underWay waits for a moment at which the process has sent commands and not
// noted their outcome, and returns how many.
func (w *world) underWay(ctx context.Context) (n int64) {
	until(ctx, 5*time.Second, func() bool {
		var err error
		n, err = w.Count(ctx, "order", `SELECT count(*) FROM process_command WHERE status = 'pending' AND claimed_until > clock_timestamp()`)
		return err == nil && n > 0
	})
	return n
}

// swallow lets requests through to a service and its replies not back, and
// counts commands that took effect there meanwhile and are open here.
func (w *world) swallow(ctx context.Context, part string, p *processes.Proxy) (n int64) {
	end := p.Mute()
	until(ctx, 8*time.Second, func() bool {
		open := w.ids(ctx, "order", `SELECT request_id::text FROM process_command WHERE status = 'pending' AND target = '`+part+`'`)
		took := w.ids(ctx, part, `SELECT request_id FROM idempotency WHERE created_at > clock_timestamp() - interval '10 seconds'`)
		n = 0
		for id := range open {
			if took[id] {
				n++
			}
		}
		return n > 2
	})
	if end() == 0 {
		return 0
	}
	return n
}

func (w *world) ids(ctx context.Context, database, sql string) map[string]bool {
	found := map[string]bool{}
	conn, err := w.Connect(ctx, database)
	if err != nil {
		return found // it is asked again
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return found
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if rows.Scan(&id) == nil {
			found[id] = true
		}
	}
	return found
}

// strikeAll strikes with every kind, at random moments, until each has met
// something often enough.
func (w *world) strikeAll(ctx context.Context) {
	w.t.Helper()
	hits := map[string]int{}
	const tries = 4
	for round := 0; round < *bites*tries; round++ {
		var due []fault
		for _, f := range kinds() {
			if hits[f.name] < *bites {
				due = append(due, f)
			}
		}
		w.choice.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
		for _, f := range due {
			pass(ctx, time.Duration(w.choice.IntN(800))*time.Millisecond)
			started := time.Now()
			n := f.strike(ctx, w)
			w.t.Logf("%-36s %5.1f s, met %d commands", f.name, time.Since(started).Seconds(), n)
			if n > 0 {
				hits[f.name]++
				w.met.add(f.name, n)
			}
		}
	}
	for _, f := range kinds() {
		if hits[f.name] < *bites {
			w.t.Errorf("%s met commands under way %d times, want %d: the run proves nothing about it", f.name, hits[f.name], *bites)
		}
	}
}

// rest waits until every order ended or is in the hands of a person, no call to
// the provider is open, and the read models have seen it all.
func (w *world) rest(ctx context.Context, orders int) {
	w.t.Helper()
	var state string
	calm := until(ctx, settle, func() bool {
		known, err := w.Count(ctx, "order", `SELECT count(*) FROM process_instance`)
		open, also := w.Count(ctx, "order", `SELECT count(*) FROM process_instance WHERE status = 'running' AND attention = ''`)
		commands, third := w.Count(ctx, "order", `SELECT count(*) FROM process_command WHERE status = 'pending'`)
		attempts, fourth := w.Count(ctx, "payment", `SELECT count(*) FROM payments WHERE attempt_due IS NOT NULL`)
		backlog, ok := w.Waiting(ctx)
		state = fmt.Sprintf("%d processes, %d of them open, %d commands, %d calls to the provider, %+v", known, open, commands, attempts, backlog)
		return ok && errors.Join(err, also, third, fourth) == nil && known == int64(orders) && open+commands+attempts+backlog.Unsent+backlog.Unapplied == 0
	})
	if calm {
		return
	}
	w.t.Errorf("not at rest after %s: %s", settle, state)
	for _, sql := range []string{
		`SELECT instance_id || ' ' || step || ' ' || outcome FROM process_command WHERE status = 'pending' LIMIT 20`,
		`SELECT id || ' ' || state::text FROM process_instance WHERE status = 'running' AND attention = '' LIMIT 20`,
	} {
		for line := range w.ids(ctx, "order", sql) {
			w.t.Log(line)
		}
	}
}

// report prints what was met, and complains about what never was.
func (t *tally) report(tt *testing.T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, what := range wanted() {
		if t.count[what] == 0 {
			tt.Errorf("%q never happened: the run proves nothing about it", what)
		}
		tt.Logf("%8d  %s", t.count[what], what)
	}
	const lapsed = "authorisations given back before they lapsed" // only of orders that wait for so long
	tt.Logf("%8d  %s", t.count[lapsed], lapsed)
}

// wanted is what must have happened at least once.
func wanted() []string {
	all := []string{
		"cancelled by the customer", "held and released", "amended before it was confirmed",
		"parcel lost", "parcel came back undelivered", "parcel sent back by the customer",
		"provider declined", "provider's answer got lost and was asked for again", "provider answered twice", "provider was slow",
		"paid by voucher and card", "voids at the provider", "refunds at the provider",
		"given to a person", "settled by a person",
	}
	for _, f := range kinds() {
		all = append(all, f.name)
	}
	return all
}
