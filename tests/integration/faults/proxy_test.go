package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between the services and a server, and cuts connections.
type proxy struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]net.Conn // to the server, by the client's
}

// listen starts a proxy that lives as long as the test.
func listen(t *testing.T, addr, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, open: map[net.Conn]net.Conn{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.cut()
		p.done.Wait()
	})
	return p
}

func (p *proxy) accept() {
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
		p.done.Go(func() { p.copy(client, server, client) })
		p.done.Go(func() { p.copy(server, client, client) })
	}
}

// copy passes bytes on until one side ends, and then ends the other.
func (p *proxy) copy(from, to, client net.Conn) {
	_, _ = io.Copy(to, from) // that it ends is all there is to know
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.open, client)
	p.mu.Unlock()
}

// cut resets every connection, without a word of farewell, and returns how many.
func (p *proxy) cut() int {
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

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
