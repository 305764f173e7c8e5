package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Handler carries out what clients ask for. Its methods are called from
// several goroutines. Errors that wrap ErrInvalid, ErrRefused or ErrNotFound
// reach the client as such.
type Handler interface {
	Status(ctx context.Context) (*Status, error)
	Remaps(ctx context.Context) ([]Remap, error)
	// AddRemaps moves blocks to the spare region; it returns when they live there.
	AddRemaps(ctx context.Context, ranges []Range) (MoveReply, error)
	// RemoveRemaps moves blocks home; it returns when they live there.
	RemoveRemaps(ctx context.Context, ranges []Range) (MoveReply, error)
	// Resume closes the breaker.
	Resume(ctx context.Context) error
	// Stop begins an orderly stop and returns when it is certain to happen.
	Stop(ctx context.Context) error
}

// Limits of a request.
const (
	maxBody     = 1 << 20
	maxRanges   = 4096
	readTimeout = 10 * time.Second
	// MoveTimeout bounds how long a move may take: the copy itself, and I/O
	// in flight that it waits for.
	MoveTimeout = 10 * time.Minute
)

// Server listens on a device's socket.
type Server struct {
	l    *listener
	http http.Server
	done chan error
}

// Serve listens on the socket of name and answers by h until Close. A socket
// that a dead server left behind is replaced; the caller must Own the name.
func Serve(name string, h Handler) (*Server, error) {
	path := SocketPath(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &Server{l: &listener{UnixListener: l, uid: os.Geteuid()}, done: make(chan error, 1)}
	s.http = http.Server{
		Handler:           routes(h),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      MoveTimeout + readTimeout,
		IdleTimeout:       readTimeout,
		MaxHeaderBytes:    16 << 10,
	}
	go func() {
		err := s.http.Serve(s.l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.done <- err
	}()
	return s, nil
}

// Close takes no more requests, waits for those under way as long as ctx
// allows, and removes the socket.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return errors.Join(err, <-s.done)
}

// listener lets only root and the server's own user in.
type listener struct {
	*net.UnixListener
	uid int
}

// Accept returns the next connection of a peer that may connect.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || uid == l.uid) {
			return c, nil
		}
		c.Close()
	}
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

func routes(h Handler) http.Handler {
	mux := http.NewServeMux()
	get(mux, "/v1/status", h.Status)
	get(mux, "/v1/remaps", h.Remaps)
	move := func(f func(context.Context, []Range) (MoveReply, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var req MoveRequest
			if err := body(w, r, &req); err != nil {
				reply(w, nil, err)
				return
			}
			if len(req.Ranges) == 0 || len(req.Ranges) > maxRanges {
				reply(w, nil, fmt.Errorf("%w: %d ranges, 1 to %d are taken", ErrInvalid, len(req.Ranges), maxRanges))
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), MoveTimeout)
			defer cancel()
			done, err := f(ctx, req.Ranges)
			reply(w, done, err)
		}
	}
	mux.HandleFunc("POST /v1/remaps/add", move(h.AddRemaps))
	mux.HandleFunc("POST /v1/remaps/remove", move(h.RemoveRemaps))
	act(mux, "/v1/resume", h.Resume)
	act(mux, "/v1/stop", h.Stop)
	return mux
}

func get[T any](mux *http.ServeMux, path string, f func(context.Context) (T, error)) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r.Context())
		reply(w, v, err)
	})
}

func act(mux *http.ServeMux, path string, f func(context.Context) error) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, f(r.Context()))
	})
}

func body(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(statusOf(err))
		v = answer{Error: err.Error()}
	}
	// The client may be gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
