package projection_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// hinting has a projection exchange hints until the test ends.
func (s *subject) hinting() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Hint(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.until("it hears others", s.Hears)
}

// pair is two processes of one view: the first answers, the second applies.
func pair(t *testing.T) (reader, writer *subject) {
	reader = fresh(t)
	reader.ForeignIs(func() bool { return true })
	writer = open(t, reader.url)
	writer.claim()
	reader.hinting()
	writer.hinting()
	return reader, writer
}

func TestACommitElsewhereWakesWhoWaits(t *testing.T) {
	reader, writer := pair(t)
	f, other := fact("o", "payment/a", 1, &note{Add: 1}), fact("p", "payment/b", 1, &note{Add: 1})
	looked, done := reader.looking(demand(ample, f), "o")
	writer.until("others want to hear it", writer.Wanted)
	<-looked
	l := newTopics()
	began := time.Now()
	writer.handle(l.facts(other)...)
	writer.handle(l.facts(f)...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: no hint woke it", waited)
	}
	if looks := len(looked); looks > 3 {
		t.Errorf("it looked %d times more", looks)
	}
	// As of a control record alone, too, and of many orders.
	looked, done = reader.looking(fresherThan(time.Hour, ample), "")
	<-looked
	writer.handle(append(l.facts(), l.totals(beat("order", 1, 0)), l.totals(beat("payment", 1, 0)))...)
	if err := <-done; err != nil {
		t.Errorf("after a control record: %v", err)
	}
}

// What was committed after the read looked, and before the other process heard
// that somebody waits, is told with its answer.
func TestACommitBeforeTheOtherHearsIsNotMissed(t *testing.T) {
	reader, writer := pair(t)
	f := fact("o", "payment/a", 1, &note{Add: 1})
	var once atomic.Bool
	reader.ForeignIs(func() bool { // it has looked, and is about to ask
		if once.CompareAndSwap(false, true) {
			writer.handle(newTopics().facts(f)...)
		}
		return true
	})
	began := time.Now()
	if _, err := reader.read(demand(ample, f), "o"); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: no hint woke it", waited)
	}
}

// More than fits a notification is everything.
func TestAHintOfManyOrders(t *testing.T) {
	reader, writer := pair(t)
	var facts []event.Fact
	facts = append(facts, orders(600)...)
	last := facts[len(facts)-1]
	_, done := reader.looking(demand(ample, last), last.Key)
	writer.until("others want to hear it", writer.Wanted)
	began := time.Now()
	writer.handle(newTopics().facts(facts...)...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited > ample/2 {
		t.Errorf("it waited %v: no hint woke it", waited)
	}
}

// While nobody waits for others, commits send nothing.
func TestNobodyWaitsNothingIsSent(t *testing.T) {
	_, writer := pair(t)
	conn, err := pgx.Connect(t.Context(), writer.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "LISTEN tidemark_tally"); err != nil {
		t.Fatal(err)
	}
	l := newTopics()
	for v := range int64(20) {
		writer.handle(l.facts(fact("o", "order/o", v+1, &note{Add: 1}))...)
	}
	if _, err := conn.Exec(t.Context(), "NOTIFY tidemark_tally, 'end'"); err != nil {
		t.Fatal(err)
	}
	n, err := conn.WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n.Payload != "end" {
		t.Errorf("%q was sent for nobody", n.Payload)
	}
}
