package control

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrNotRunning is returned by the client when no server listens on the device's socket, by a
	// Handler that answers while its server ends, and by ReadRecord when there is no record.
	ErrNotRunning = errors.New("no server runs")
	// ErrOwned is returned by Own when another server has the name.
	ErrOwned = errors.New("another server runs under this name")
	// ErrSilent is returned by the client when the server has the connection but does not answer in
	// time.
	ErrSilent = errors.New("the server does not answer")
	// ErrUnderway is returned by the client when it stopped waiting for something that the server
	// had begun.
	ErrUnderway = errors.New("it has begun and goes on by itself")
	// ErrAnswer is returned by the client for an answer that cannot be understood or has no end.
	ErrAnswer = errors.New("bad answer")
	// ErrRecord is returned for a runtime record that cannot be understood.
	ErrRecord = errors.New("bad runtime record")

	// A Handler wraps one of the following errors to say what went wrong. The client returns an
	// error that wraps the same one. Any other error is ErrFailed.

	// ErrInvalid: the request makes no sense.
	ErrInvalid = errors.New("invalid request")
	// ErrRefused: the request was refused to protect data.
	ErrRefused = errors.New("refused")
	// ErrNotFound: what the request names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrBusy: the server already has as many requests of that sort under way as it accepts.
	// Nothing was done.
	ErrBusy = errors.New("the server is busy")
	// ErrFailed: the request was tried and failed.
	ErrFailed = errors.New("failed")
)

// answer is the body of every answer that is not 200.
type answer struct {
	Error string `json:"error"`
}

// There is one row for each error that crosses the socket.
var statuses = []struct {
	err    error
	status int
}{
	{ErrNotRunning, http.StatusGone},
	{ErrInvalid, http.StatusBadRequest},
	{ErrRefused, http.StatusConflict},
	{ErrNotFound, http.StatusNotFound},
	{ErrBusy, http.StatusServiceUnavailable},
	{ErrFailed, http.StatusInternalServerError},
}

func statusOf(err error) int {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// remoteError is an error as the server reported it.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// silentError is ErrSilent with the time that the client waited.
type silentError struct {
	name  string
	limit time.Duration
	err   error
}

func (e *silentError) Error() string {
	return fmt.Sprintf("the server of %s has not answered for %s", e.name, e.limit)
}
func (e *silentError) Unwrap() []error { return []error{ErrSilent, e.err} }

// maxError is how many bytes of a server's explanation are kept.
const maxError = 2048

func errorOf(status int, text string) error {
	// The server must not decide how much of the terminal its answer fills.
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "…"
	}
	if text == "" {
		text = fmt.Sprintf("the server answered %d", status)
	}
	for _, s := range statuses {
		if s.status == status {
			return &remoteError{kind: s.err, text: text}
		}
	}
	return &remoteError{kind: ErrFailed, text: text}
}
