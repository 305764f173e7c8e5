package control

import (
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// listener admits only root and the server's own user, and limits the number of connections. A
// connection that comes when all places are taken waits. Then connections that have not sent their
// request within requestTimeout are closed, the oldest first. So neither a flood nor silent clients
// lock others out.
type listener struct {
	*net.UnixListener
	uid    int
	freed  chan struct{} // a connection has left
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	conns []*conn // ordered by age
}

// conn is a connection that has a place.
type conn struct {
	*net.UnixConn
	l       *listener
	since   time.Time
	working atomic.Bool // its request was read, so it stays
	once    sync.Once
}

type connKey struct{}

func newListener(l *net.UnixListener) *listener {
	return &listener{UnixListener: l, uid: os.Geteuid(), freed: make(chan struct{}, 1),
		closed: make(chan struct{})}
}

// Accept returns the next connection of an authorized peer. It waits until there is a place for it.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err != nil || uid != 0 && uid != l.uid {
			c.Close()
			continue
		}
		if !l.room() {
			c.Close()
			return nil, net.ErrClosed
		}
		mine := &conn{UnixConn: c, l: l, since: time.Now()}
		l.mu.Lock()
		l.conns = append(l.conns, mine)
		l.mu.Unlock()
		return mine, nil
	}
}

// room waits until there is a place. It returns false when the listener is closed.
func (l *listener) room() bool {
	for {
		l.mu.Lock()
		n := len(l.conns)
		var silent *conn
		for _, c := range l.conns {
			if !c.working.Load() {
				silent = c
				break
			}
		}
		l.mu.Unlock()
		if n < maxConns {
			return true
		}
		var due <-chan time.Time
		if silent != nil {
			left := requestTimeout - time.Since(silent.since)
			if left <= 0 {
				silent.Close()
				continue
			}
			due = time.After(left)
		}
		select {
		case <-l.freed:
		case <-due:
		case <-l.closed:
			return false
		}
	}
}

// Close closes the socket. The connections stay.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.UnixListener.Close()
}

// Close closes the connection and frees its place.
func (c *conn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		l := c.l
		l.mu.Lock()
		for i, other := range l.conns {
			if other == c {
				l.conns = append(l.conns[:i], l.conns[i+1:]...)
				break
			}
		}
		l.mu.Unlock()
		select {
		case l.freed <- struct{}{}:
		default: // it was signalled already
		}
	})
	return err
}

// begun notes that the request of this connection has arrived.
func begun(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.working.Store(true)
	}
}
