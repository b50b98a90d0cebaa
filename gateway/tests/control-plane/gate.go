package main

import (
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gate stands in front of every stream: it refuses new ones and ends open ones on demand.
type gate struct {
	mu      sync.Mutex
	code    codes.Code
	until   time.Time
	left    int // streams still to refuse, when counted rather than timed
	refused int
	streams map[chan error]struct{}
}

func newGate() *gate { return &gate{streams: map[chan error]struct{}{}} }

// refuse answers new streams with code, for a time or for a number of streams.
func (g *gate) refuse(code codes.Code, for_ time.Duration, count int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.code, g.until, g.left = code, time.Now().Add(for_), count
}

// disconnect ends every open stream with code and says how many there were.
func (g *gate) disconnect(code codes.Code) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	count := len(g.streams)
	for end := range g.streams {
		end <- status.Error(code, "disconnected by the test")
	}
	clear(g.streams)
	return count
}

func (g *gate) counts() (open, refused int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.streams), g.refused
}

func (g *gate) admit() (chan error, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left > 0 || time.Now().Before(g.until) {
		g.left = max(g.left-1, 0)
		g.refused++
		return nil, status.Error(g.code, "refused by the test")
	}
	end := make(chan error, 1)
	g.streams[end] = struct{}{}
	return end, nil
}

func (g *gate) intercept(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	end, err := g.admit()
	if err != nil {
		return err
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.streams, end)
	}()
	// When we return first, gRPC cancels the stream's context, and with it the handler.
	done := make(chan error, 1)
	go func() { done <- next(srv, stream) }()
	select {
	case err := <-end:
		return err
	case err := <-done:
		return err
	}
}

// connections is a listener that can reset (RST) all it has accepted.
type connections struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func newConnections(inner net.Listener) *connections {
	return &connections{Listener: inner, open: map[net.Conn]struct{}{}}
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = struct{}{}
	return &tracked{Conn: conn, of: c}, nil
}

// reset drops every connection without a GOAWAY and says how many there were.
func (c *connections) reset() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := len(c.open)
	for conn := range c.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	}
	clear(c.open)
	return count
}

type tracked struct {
	net.Conn
	of *connections
}

func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.open, t.Conn)
	t.of.mu.Unlock()
	return t.Conn.Close()
}
