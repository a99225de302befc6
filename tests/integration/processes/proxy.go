package processes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between clients and a server, cuts connections and swallows
// what the server says.
type Proxy struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup
	mute     atomic.Bool
	lost     atomic.Int64 // bytes

	mu   sync.Mutex
	open map[net.Conn]net.Conn // to the server, by the client's
}

// Listen starts a proxy that lives as long as the test.
func Listen(t *testing.T, addr, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, open: map[net.Conn]net.Conn{}}
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
		var dialer net.Dialer
		server, err := dialer.DialContext(context.Background(), "tcp", p.target)
		if err != nil {
			_ = client.Close() // the server is away, as the client will see
			continue
		}
		p.mu.Lock()
		p.open[client] = server
		p.mu.Unlock()
		p.done.Go(func() { p.copy(client, server, server, client) })
		p.done.Go(func() { p.copy(server, replies{p, client}, client, client) })
	}
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
