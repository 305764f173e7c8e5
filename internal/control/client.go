package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Client talks to the server of one device.
type Client struct {
	name string
	http http.Client
}

const (
	maxAnswer = 1 << 20 // bytes of an answer that is not a table
	maxTable  = 4 << 30 // bytes of a table; the largest table is smaller
	// askTimeout bounds requests that the server answers from memory.
	askTimeout = 15 * time.Second
	// stopTimeout bounds the request to stop. The server looks for users first.
	stopTimeout = 20 * time.Second
	// busyWait is how long to wait between attempts while the server's queue of connections is
	// full.
	busyWait = 20 * time.Millisecond
)

// NewClient returns a client for the device of that name. It opens nothing yet.
func NewClient(name string) *Client {
	c := &Client{name: name}
	c.http = http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return c.dial(ctx)
			},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
			// The body is sent only when the server asks for it.
			ExpectContinueTimeout: sendLimit,
		},
		// A server never redirects.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	return c
}

// dial connects to the server.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	return Dial(ctx, SocketPath(c.name))
}

// Dial connects to a socket in the runtime directory. It accepts only a process of root or of this
// user on the other side. The error is ErrRefused if that, or the directory, is somebody else's.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	if err := trust(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if errors.Is(err, unix.EAGAIN) {
			// Its queue is full. So the server lives, and has many clients.
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
			case <-time.After(busyWait):
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn.(*net.UnixConn))
		if err == nil && uid != 0 && uid != os.Geteuid() {
			err = fmt.Errorf("%s: %w: user %d listens there", path, ErrRefused, uid)
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
}

// Status asks for the state of the device.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return c.StatusWithin(ctx, askTimeout)
}

// StatusWithin is Status for a caller that asks other servers too. The error wraps ErrSilent if no
// answer comes within limit.
func (c *Client) StatusWithin(ctx context.Context, limit time.Duration) (*Status, error) {
	var s Status
	return &s, c.call(ctx, limit, http.MethodGet, "/v1/status", nil, &s)
}

// EachRemap calls f for each row of the table as it arrives, until f returns an error. Rows that f
// got before an error are valid.
func (c *Client) EachRemap(ctx context.Context, f func(Remap) error) error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	// The answer may take long to send, but not to begin.
	ctx, silent := context.WithCancelCause(ctx)
	began := time.AfterFunc(askTimeout, func() { silent(ErrSilent) })
	resp, err := c.ask(ctx, http.MethodGet, "/v1/remaps", nil)
	if !began.Stop() && err != nil {
		return &silentError{c.name, askTimeout, err}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &cutReader{r: resp.Body, left: maxTable}
	d := json.NewDecoder(body)
	var told error // returned by f
	err = func() error {
		if err := expect(d, json.Delim('[')); err != nil {
			return err
		}
		for d.More() {
			var m Remap
			if err := d.Decode(&m); err != nil {
				return err
			}
			if told = f(m); told != nil {
				return nil
			}
		}
		if err := expect(d, json.Delim(']')); err != nil {
			return err
		}
		return end(d)
	}()
	if told != nil || err == nil {
		return told
	}
	return c.broken(ctx, err, body.err)
}

// Remaps asks for the whole table at once.
func (c *Client) Remaps(ctx context.Context) ([]Remap, error) {
	list := []Remap{}
	err := c.EachRemap(ctx, func(m Remap) error {
		list = append(list, m)
		return nil
	})
	return list, err
}

// Snapshot asks for a part of the durable table. A server that is too old for that returns an error
// that wraps ErrNotFound.
func (c *Client) Snapshot(ctx context.Context, cursor uint64) (*Snapshot, error) {
	var s Snapshot
	return &s, c.call(ctx, askTimeout, http.MethodGet, "/v1/snapshot/"+strconv.FormatUint(cursor,
		10), nil, &s)
}

// Drill rehearses a heal, or notes how the whole drill ended. The error wraps ErrNotFound if the
// server is too old for that.
func (c *Client) Drill(ctx context.Context, do string) (*DrillReply, error) {
	var d DrillReply
	return &d, c.call(ctx, DrillTimeout+askTimeout, http.MethodPost, "/v1/drill/"+do, nil, &d)
}

// Events asks for what the flight recorder keeps, from the event of that number on. The answer may
// be a part of it: the caller asks again behind it. The error wraps ErrNotFound if the server is
// too old for that, or if the set has no flight recorder.
func (c *Client) Events(ctx context.Context, from uint64) (*Events, error) {
	var e Events
	return &e, c.call(ctx, askTimeout, http.MethodGet, "/v1/events/"+strconv.FormatUint(from, 10),
		nil, &e)
}

// AddRemaps moves blocks to the spare region. It also returns ErrInvalid if there are more ranges
// than a server accepts.
func (c *Client) AddRemaps(ctx context.Context, ranges []Range) (MoveReply, error) {
	return c.move(ctx, "/v1/remaps/add", ranges)
}

// RemoveRemaps moves blocks home, under the same limit.
func (c *Client) RemoveRemaps(ctx context.Context, ranges []Range) (MoveReply, error) {
	return c.move(ctx, "/v1/remaps/remove", ranges)
}

// TakeBackRemaps moves blocks home, under the same limit. A block without a copy that can be read
// gets what its home holds. A server that is too old for that returns an error that wraps
// ErrNotFound.
func (c *Client) TakeBackRemaps(ctx context.Context, ranges []Range) (MoveReply, error) {
	return c.move(ctx, "/v1/remaps/takeback", ranges)
}

// MarkRemaps marks blocks pending that another tool calls bad, under the same limit. A server that
// is too old for that returns an error that wraps ErrNotFound.
func (c *Client) MarkRemaps(ctx context.Context, ranges []Range) (r MarkReply, err error) {
	err = c.ranges(ctx, "/v1/remaps/mark", ranges, &r)
	return r, err
}

// RescueRemaps moves blocks to the spare region that another tool calls bad, those that can be
// moved, under the same limit. A server that is too old for that returns an error that wraps
// ErrNotFound.
func (c *Client) RescueRemaps(ctx context.Context, ranges []Range) (r RescueReply, err error) {
	err = c.ranges(ctx, "/v1/remaps/rescue", ranges, &r)
	return r, err
}

// The verbs of MovePiece.
const (
	MoveAdd      = "add"      // to the spare region
	MoveRemove   = "remove"   // home
	MoveTakeBack = "takeback" // home, see TakeBackRemaps
)

// MovePiece moves a part of a range of blocks. That blocks stay where they are is no error: the
// reply counts them, and the caller goes on. A server that is too old for that returns an error.
func (c *Client) MovePiece(ctx context.Context, verb string, piece Range) (MoveReply, error) {
	return c.move(ctx, "/v1/remaps/"+verb+"?partial=true", []Range{piece})
}

func (c *Client) move(ctx context.Context, path string, ranges []Range) (r MoveReply, err error) {
	err = c.ranges(ctx, path, ranges, &r)
	return r, err
}

// MaxRanges is how many ranges one request may have.
const MaxRanges = maxRanges

func (c *Client) ranges(ctx context.Context, path string, ranges []Range, reply any) error {
	if len(ranges) > maxRanges {
		// The server reads no more than it needs for that many ranges.
		return fmt.Errorf("%w: more than %d ranges", ErrInvalid, maxRanges)
	}
	return c.call(ctx, MoveTimeout, http.MethodPost, path, MoveRequest{ranges}, reply)
}

// MaxFill is how many bytes one Fill may be about.
const MaxFill = 128 << 10

// Fill gives blocks from block on what data holds, as far as they are pending or lost and do not
// read. data is whole blocks, at most MaxFill bytes. A server that is too old for that returns an
// error that wraps ErrNotFound.
func (c *Client) Fill(ctx context.Context, block uint64, data []byte) (*FillReply, error) {
	var r FillReply
	err := c.call(ctx, MoveTimeout, http.MethodPost, "/v1/fill/"+strconv.FormatUint(block, 10),
		rawBody(data), &r)
	return &r, err
}

// HealFree gives blocks zeroes that are pending or lost, do not read, and are still as the rows
// say: parts of rows of the table, in order, which span MaxFill bytes at most. A server that is too
// old for that returns an error that wraps ErrNotFound.
func (c *Client) HealFree(ctx context.Context, rows []Remap) (*FillReply, error) {
	var r FillReply
	err := c.call(ctx, MoveTimeout, http.MethodPost, "/v1/heal-free", HealRequest{rows}, &r)
	return &r, err
}

// rawBody is a body that is sent as it is.
type rawBody []byte

// Scrub carries out a verb of the scrub, and returns the state after it. A server that is too old
// for that returns an error that wraps ErrNotFound.
func (c *Client) Scrub(ctx context.Context, r ScrubRequest) (*ScrubStatus, error) {
	var s ScrubStatus
	return &s, c.call(ctx, askTimeout, http.MethodPost, "/v1/scrub", r, &s)
}

// SlowBlocks asks for the blocks that are slow to read, in ascending order: those that the scrub
// has found since the server's start. A server that is too old for that has an empty list, or
// returns an error that wraps ErrNotFound.
func (c *Client) SlowBlocks(ctx context.Context) ([]Range, error) {
	s, err := c.Scrub(ctx, ScrubRequest{Do: ScrubShow, Slow: true})
	if err != nil {
		return nil, err
	}
	return s.SlowBlocks, nil
}

// Resume closes the breaker. Nothing happens if this client has left before the server could begin.
func (c *Client) Resume(ctx context.Context) error {
	return c.confirm(ctx, askTimeout,
		"/v1/resume")
}

// Stop begins an orderly stop. The server refuses it while somebody uses the device, unless force
// is set. An error that wraps ErrUnderway says that the stop may have begun and then continues by
// itself. With any other error nothing has happened and nothing will: before it begins the server
// asks whether this client is still there.
func (c *Client) Stop(ctx context.Context, force bool) error {
	path := "/v1/stop"
	if force {
		path += "?force=true"
	}
	return c.confirm(ctx, stopTimeout, path)
}

// confirm makes a request that the server carries out only if this client still wants it when the
// server could begin. Errors other than ErrUnderway mean that nothing was done.
func (c *Client) confirm(ctx context.Context, limit time.Duration, path string) error {
	body := &confirmation{rest: goAheadBody}
	err := c.call(ctx, limit, http.MethodPost, path, body, &struct{}{})
	if err != nil && !body.withdraw() && (errors.Is(err, ErrSilent) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return fmt.Errorf("%w: %w", ErrUnderway, err)
	}
	return err
}

// confirmation is the body of a request. It is sent when the server asks for it, unless it was
// withdrawn before.
type confirmation struct {
	rest  string
	state atomic.Int32
}

const (
	notSent int32 = iota
	sent
	withdrawn
)

func (c *confirmation) Read(p []byte) (int, error) {
	if !c.state.CompareAndSwap(notSent, sent) && c.state.Load() == withdrawn {
		return 0, context.Canceled
	}
	if c.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// withdraw reports whether the body was not sent. It will not be sent then.
func (c *confirmation) withdraw() bool { return c.state.CompareAndSwap(notSent, withdrawn) }

// Leave asks the server to give its device up to another server. The server answers or hands back
// the requests that are under way, and ends. A server that is too old for that returns an error
// that wraps ErrNotFound. token consists of letters and digits, and says in whose name Leave is
// asked.
func (c *Client) Leave(ctx context.Context, token string) error {
	return c.call(ctx, askTimeout, http.MethodPost, "/v1/leave/"+url.PathEscape(token), nil,
		&struct{}{})
}

// Stay makes the server refuse to leave in the name of a token from now on, also if such a request
// was made before and is still on its way. ErrRefused says that the server is ending already.
func (c *Client) Stay(ctx context.Context, token string) error {
	return c.call(ctx, askTimeout, http.MethodPost, "/v1/stay/"+url.PathEscape(token), nil,
		&struct{}{})
}

// cause removes what net/http says about the URL, which has no meaning here.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (c *Client) call(ctx context.Context, limit time.Duration, method, path string, in,
	out any) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := c.exchange(limited, method, path, in, out)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &silentError{c.name, limit, err}
	}
	return err
}

func (c *Client) exchange(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.ask(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &cutReader{r: resp.Body, left: maxAnswer}
	text, err := io.ReadAll(body)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return c.broken(ctx, err, body.err)
	}
	return nil
}

// ask sends a request. It returns the answer if that reports success.
func (c *Client) ask(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	confirmed, confirms := in.(*confirmation)
	raw, isRaw := in.(rawBody)
	switch {
	case confirms:
		body = confirmed
	case isRaw:
		body = bytes.NewReader(raw)
	case in != nil:
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://ublk-remap"+path, body)
	if err != nil {
		return nil, err
	}
	if confirms {
		req.ContentLength = int64(len(goAheadBody))
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrRefused) {
			return nil, fmt.Errorf("ask the server of %s: %w", c.name, cause(err))
		}
		// No server listens, or the server died during the request. The error of the socket is not
		// wrapped, because it is about the socket and not about a device.
		return nil, fmt.Errorf("%w for %s (%v)", ErrNotRunning, c.name, cause(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(&cutReader{r: resp.Body, left: maxAnswer})
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w for %s any more (%v)", ErrNotRunning, c.name, err)
	}
	var a answer
	_ = json.Unmarshal(text, &a) // without a text the status says what is wrong
	return nil, errorOf(resp.StatusCode, a.Error)
}

// broken returns the error for an answer that could not be read or understood. If reading failed
// the connection broke, so the server died.
func (c *Client) broken(ctx context.Context, err, reading error) error {
	switch {
	case errors.Is(err, errLong):
	case reading != nil && ctx.Err() == nil:
		return fmt.Errorf("%w for %s any more (%v)", ErrNotRunning, c.name, reading)
	case ctx.Err() != nil:
		return fmt.Errorf("the server of %s: %w", c.name, ctx.Err())
	}
	return fmt.Errorf("the server of %s: %w: %w", c.name, ErrAnswer, noEOF(err))
}

var errLong = errors.New("it has no end")

// cutReader reads a limited number of bytes. It remembers the error that ended the reading, if that
// was not the end of the data.
type cutReader struct {
	r    io.Reader
	left int64
	err  error
}

func (c *cutReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLong
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
