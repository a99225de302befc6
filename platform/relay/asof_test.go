package relay

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// gate holds one statement up between its snapshot and its execution: the server
// takes the snapshot when it binds the portal.
type gate struct {
	armed         atomic.Bool
	answered      chan struct{} // the server sent something
	held, release chan struct{}
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case c.gate.answered <- struct{}{}:
	default:
	}
	return n, err
}

// Write sends the Bind of an armed statement, asks the server to answer it, and
// sends the rest when the gate is released.
func (c gatedConn) Write(p []byte) (int, error) {
	at := executeIn(p)
	if at < 0 || !c.gate.armed.CompareAndSwap(true, false) {
		return c.Conn.Write(p)
	}
	select {
	case <-c.gate.answered:
	default:
	}
	if _, err := c.Conn.Write(append(p[:at:at], 'H', 0, 0, 0, 4)); err != nil {
		return 0, err
	}
	<-c.gate.answered
	close(c.gate.held)
	<-c.gate.release
	n, err := c.Conn.Write(p[at:])
	return at + n, err
}

// executeIn returns where the Execute message begins in messages that begin
// with a Bind; -1 if they do not.
func executeIn(p []byte) int {
	for i := 0; i+5 <= len(p) && p[0] == 'B'; i += 1 + int(binary.BigEndian.Uint32(p[i+1:])) {
		if p[i] == 'E' {
			return i
		}
	}
	return -1
}

// The time of a read is not after its snapshot. Between the snapshot and the
// execution of a read an event is committed and acknowledged, which the read
// cannot see. It finds nothing unsent; as_of must not pass the acknowledgement
// before the event stands in the topic. With clock_timestamp() or
// statement_timestamp() in the read it does.
func TestAsOfIsNotLaterThanTheSnapshot(t *testing.T) {
	f := setup(t)
	g := &gate{answered: make(chan struct{}, 1), held: make(chan struct{}), release: make(chan struct{})}
	config := f.pool.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return gatedConn{conn, g}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.tuning.LeaseTTL = 10 * time.Second
	stop := f.start(f.relay(func(r *Relay) { r.cfg.Pool, r.leases.pool = pool, pool }))
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	g.armed.Store(true)
	<-g.held
	f.state("late", 1)
	acknowledged := query[time.Time](f, `SELECT clock_timestamp()`)
	close(g.release)
	f.drained()
	f.currentAfter(acknowledged)
	stop()
	partition, arrived := event.PartitionOf("late", partitions), int64(-1)
	for _, r := range f.read(kafka.TopicOrder) {
		switch {
		case r.partition != partition:
		case r.fact != nil:
			arrived = r.offset
		case arrived < 0 && r.control.AsOf.After(acknowledged):
			t.Errorf("as_of %s at offset %d: the event acknowledged at %s is not there yet", r.control.AsOf, r.offset, acknowledged)
		}
	}
	for _, r := range f.read(kafka.TopicControl) {
		if r.partition == partition && r.control.AsOf.After(acknowledged) && r.control.DataEndOffset <= arrived {
			t.Errorf("as_of %s holds from offset %d: the event acknowledged at %s is at %d", r.control.AsOf, r.control.DataEndOffset, acknowledged, arrived)
		}
	}
}
