package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Handler carries out the requests of clients. Several goroutines call its methods, with a context
// that ends when the client leaves. Errors that wrap ErrInvalid, ErrRefused or ErrNotFound reach
// the client as such.
type Handler interface {
	Status(ctx context.Context) (*Status, error)
	// Remaps calls f for each row of the table, in order, until f returns an error. It returns that
	// error. It keeps no part of the table, however long that is.
	Remaps(ctx context.Context, f func(Remap) error) error
	// Snapshot returns a part of the durable table, from cursor on. The first cursor is 0.
	Snapshot(ctx context.Context, cursor uint64) (*Snapshot, error)
	// Drill rehearses a heal on spare units that are set aside for it, or notes how the whole drill
	// ended: do is one of DrillReady, DrillHeal, DrillPassed and DrillFailed. The error is
	// ErrRefused if the device is in no state for it.
	Drill(ctx context.Context, do string) (*DrillReply, error)
	// Events returns what the flight recorder keeps, from the event of that number on, or a part of
	// it. The error is ErrNotFound if the set has none.
	Events(ctx context.Context, from uint64) (*Events, error)
	// AddRemaps moves blocks to the spare region. It returns when they live there.
	AddRemaps(ctx context.Context, ranges []Range) (MoveReply, error)
	// RemoveRemaps moves blocks home. It returns when they live there.
	RemoveRemaps(ctx context.Context, ranges []Range) (MoveReply, error)
	// TakeBackRemaps is RemoveRemaps, but a block without a copy that can be read gets what its
	// home holds. That may be older than what was acknowledged.
	TakeBackRemaps(ctx context.Context, ranges []Range) (MoveReply, error)
	// Fill gives blocks from block on what data holds, as far as they are pending or lost and do
	// not read. It leaves all others alone. The reply says what became of each block.
	Fill(ctx context.Context, block uint64, data []byte) (FillReply, error)
	// HealFree gives blocks zeroes that are still pending or lost as the rows say, which are some
	// of the table, in order, at least one. They span MaxFill bytes at most. It leaves all others
	// alone. The reply says what became of each block from the first to the last one.
	HealFree(ctx context.Context, rows []Remap) (FillReply, error)
	// Scrub carries out a verb of the scrub, and returns the state after it. The error is
	// ErrRefused if the state does not allow the verb.
	Scrub(ctx context.Context, r ScrubRequest) (*ScrubStatus, error)
	// MarkRemaps marks blocks pending that another tool calls bad. It returns when that is durable.
	MarkRemaps(ctx context.Context, ranges []Range) (MarkReply, error)
	// RescueRemaps is AddRemaps for blocks that another tool calls bad. It goes on past blocks that
	// cannot be moved.
	RescueRemaps(ctx context.Context, ranges []Range) (RescueReply, error)
	RetestHandler
	SurfaceHandler
	LatencyHandler
	// Resume closes the breaker.
	Resume(ctx context.Context) error
	// Stop begins an orderly stop and returns when the stop is certain. It refuses with ErrRefused
	// while somebody uses the device, unless force is set. Directly before it begins it calls
	// begin. If begin returns an error Stop does nothing: the client has left, and was told that
	// nothing happens.
	Stop(ctx context.Context, force bool, begin func() error) error
	// Leave begins to give the device up to another server and returns when that is certain. The
	// error is ErrRefused if the device is being stopped or given up already, or if Stay was called
	// with the token in whose name Leave is asked.
	Leave(ctx context.Context, token string) error
	// Stay makes Leave refuse in the name of this token from now on. The error is ErrRefused if the
	// device is being stopped or given up already.
	Stay(ctx context.Context, token string) error
}

// Limits of what clients may do to a server. The server of a disk must not wait for clients.
// Clients must not make it use much memory, because its pages are locked.
const (
	maxBody   = 512 << 10 // bytes of a request's body
	maxRanges = 4096      // of one request
	// connections at once: their goroutines share the CPUs with those of the queues
	maxConns  = 16
	maxQueue  = 64      // connections that wait; those beyond it must try again
	maxLists  = 2       // tables being sent
	maxMoves  = 4       // moves and fills under way or waiting
	maxHeader = 8 << 10 // bytes of a request's header

	maxScrubBody = 4 << 10 // bytes of the body of a request of the scrub

	readTimeout = 10 * time.Second // for a request to be read
	// sendTimeout is how long the client may take for each piece of an answer, of sendPiece bytes.
	// sendLimit is the limit for the whole answer.
	sendTimeout = 10 * time.Second
	sendPiece   = 32 << 10
	sendLimit   = 5 * time.Minute
	// DrillTimeout bounds how long a rehearsal may take: some writes and flushes on a busy disk.
	DrillTimeout = 2 * time.Minute
	// MoveTimeout bounds how long a move may take: the copy itself, and the I/O in flight that it
	// waits for.
	MoveTimeout = 10 * time.Minute
)

// requestTimeout is how long a connection may take to send its request while others wait for its
// place.
var requestTimeout = time.Second

// Server listens on a device's socket.
type Server struct {
	l    *listener
	http *http.Server
	done chan error
}

// Serve listens on the socket of name and lets h answer until Close. It replaces a socket that a
// dead server left behind. The caller must Own the name. Serve leaves anything else in the place of
// the socket alone, and returns ErrRefused.
func Serve(name string, h Handler) (*Server, error) {
	path := SocketPath(name)
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(path, 0o600), shortQueue(l)); err != nil {
		l.Close()
		return nil, err
	}
	s := &Server{l: newListener(l), done: make(chan error, 1)}
	s.http = newHTTP(h)
	go func() {
		err := s.http.Serve(s.l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.done <- err
	}()
	return s, nil
}

// shortQueue makes the kernel's queue of connections short. Go asks for the longest possible queue.
// With that the server would have to accept thousands of connections whose clients have left before
// it reached one that still waits.
func shortQueue(l *net.UnixListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var listenErr error
	err = raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), maxQueue) })
	return errors.Join(err, listenErr)
}

// clearSocket removes the socket that a dead server left at path.
func clearSocket(path string) error {
	if err := trust(filepath.Dir(path)); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s: %w: it is not a socket; remove what is there", path, ErrRefused)
	}
	return os.Remove(path)
}

func newHTTP(h Handler) *http.Server {
	s := &http.Server{
		Handler:           routes(h),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      MoveTimeout + readTimeout,
		IdleTimeout:       readTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	// A connection carries one request, so that an idle client keeps no place.
	s.SetKeepAlivesEnabled(false)
	return s
}

// Close accepts no more requests, waits for those under way as long as ctx allows, and removes the
// socket.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return errors.Join(err, <-s.done)
}

func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid := -1
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil && credErr == nil {
		uid = int(cred.Uid)
	}
	return uid, errors.Join(err, credErr)
}

// goAheadBody is what a client sends when the server has said that it is ready for something that
// cannot be undone.
const goAheadBody = "go"

// goAhead asks a client that sent "Expect: 100-continue" whether it is still there and still wants
// it. net/http asks for the body when the body is read. For a client that does not wait the request
// itself is the answer.
func goAhead(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Expect") == "" {
		return nil
	}
	// The steps before may have taken longer than a request may take.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(len(goAheadBody))+1))
	if err == nil && string(body) != goAheadBody {
		err = errors.New("it did not say so")
	}
	if err != nil {
		return fmt.Errorf("%w: whoever asked has left: %w", ErrFailed, err)
	}
	return nil
}

// limit counts what is under way, up to its capacity.
type limit chan struct{}

// enter reports whether there is room for one more. It does not wait.
func (l limit) enter() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l limit) leave() { <-l }

// reply sends an answer that is small.
func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	// This fails on a pipe of a test.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(sendTimeout))
	if err != nil {
		w.WriteHeader(statusOf(err))
		v = answer{Error: err.Error()}
	}
	// The client may have left. Then nobody can be told.
	_ = json.NewEncoder(w).Encode(v)
}
