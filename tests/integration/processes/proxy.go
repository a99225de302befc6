package processes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy stands between clients and a server, cuts connections and swallows
// what the server says.
type Proxy struct {
	listener net.Listener
	target   string
	routes   map[string]string // other targets, by the name of the database
	done     sync.WaitGroup
	mute     atomic.Bool
	lost     atomic.Int64 // bytes

	mu   sync.Mutex
	open map[net.Conn]net.Conn // to the server, by the client's
}

// Listen starts a proxy that lives as long as the test. Who asks for a database
// that routes names is sent there and not to the target.
func Listen(t *testing.T, addr, target string, routes map[string]string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, routes: routes, open: map[net.Conn]net.Conn{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.Cut()
		p.done.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.done.Go(func() { p.join(client) })
	}
}

// join connects a client with its server.
func (p *Proxy) join(client net.Conn) {
	target, hello, err := p.greeted(client)
	if err != nil {
		_ = client.Close() // it left before it said what it wants
		return
	}
	var dialer net.Dialer
	server, err := dialer.DialContext(context.Background(), "tcp", target)
	if err != nil {
		_ = client.Close() // the server is away, as the client will see
		return
	}
	if _, err := server.Write(hello); err != nil {
		_, _ = client.Close(), server.Close()
		return
	}
	p.mu.Lock()
	p.open[client] = server
	p.mu.Unlock()
	p.done.Go(func() { p.copy(client, server, server, client) })
	p.done.Go(func() { p.copy(server, replies{p, client}, client, client) })
}

// greeted reads the client's first message, if it matters where to, and returns
// the target and what was read.
func (p *Proxy) greeted(client net.Conn) (target string, hello []byte, err error) {
	if len(p.routes) == 0 {
		return p.target, nil, nil
	}
	if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", nil, err
	}
	var length [4]byte
	if _, err := io.ReadFull(client, length[:]); err != nil {
		return "", nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < 8 || size > 10_000 {
		return "", nil, fmt.Errorf("a first message of %d bytes", size)
	}
	hello = make([]byte, size)
	copy(hello, length[:])
	if _, err := io.ReadFull(client, hello[4:]); err != nil {
		return "", nil, err
	}
	target = p.target
	for database, other := range p.routes { // "database\0tidemark_order\0" stands among the parameters
		if bytes.Contains(hello, []byte("\x00database\x00"+database+"\x00")) {
			target = other
		}
	}
	return target, hello, client.SetReadDeadline(time.Time{})
}

// replies passes on what a server says, or swallows it.
type replies struct {
	*Proxy
	to io.Writer
}

func (r replies) Write(b []byte) (int, error) {
	if r.mute.Load() {
		r.lost.Add(int64(len(b)))
		return len(b), nil
	}
	return r.to.Write(b)
}

// copy passes bytes on until one side ends, and then ends the other.
func (p *Proxy) copy(from net.Conn, into io.Writer, to, client net.Conn) {
	_, _ = io.Copy(into, from) // that it ends is all there is to know
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.open, client)
	p.mu.Unlock()
}

// Cut resets every connection, without a word of farewell, and returns how many.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, server := range p.open {
		for _, conn := range []net.Conn{client, server} {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
		}
	}
	return len(p.open)
}

// Mute swallows what the server says, so that what it is asked takes effect and
// nobody hears of it, until the returned function is called: it cuts the
// connections and returns how many bytes were swallowed.
func (p *Proxy) Mute() (end func() (bytes int64)) {
	before := p.lost.Load()
	p.mute.Store(true)
	return func() int64 {
		p.Cut() // a stream with a hole in it is worth nothing
		p.mute.Store(false)
		return p.lost.Load() - before
	}
}

// Address is a port of this machine.
func Address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
