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
	"time"
)

// Client talks to the server of one device.
type Client struct {
	name string
	http http.Client
}

// maxAnswer bounds what is read of an answer: a table of a few million runs.
const maxAnswer = 1 << 30

// askTimeout bounds requests that the server answers from memory.
const askTimeout = 15 * time.Second

// NewClient returns a client for the device of that name. Nothing is opened
// yet.
func NewClient(name string) *Client {
	return &Client{name: name, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", SocketPath(name))
		},
		DisableKeepAlives: true,
	}}}
}

// Status asks how the device is doing.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.call(ctx, askTimeout, http.MethodGet, "/v1/status", nil, &s)
}

// Remaps asks for the table.
func (c *Client) Remaps(ctx context.Context) ([]Remap, error) {
	list := []Remap{}
	return list, c.call(ctx, time.Minute, http.MethodGet, "/v1/remaps", nil, &list)
}

// AddRemaps moves blocks to the spare region.
func (c *Client) AddRemaps(ctx context.Context, ranges []Range) (MoveReply, error) {
	var r MoveReply
	err := c.call(ctx, MoveTimeout, http.MethodPost, "/v1/remaps/add", MoveRequest{ranges}, &r)
	return r, err
}

// RemoveRemaps moves blocks home.
func (c *Client) RemoveRemaps(ctx context.Context, ranges []Range) (MoveReply, error) {
	var r MoveReply
	err := c.call(ctx, MoveTimeout, http.MethodPost, "/v1/remaps/remove", MoveRequest{ranges}, &r)
	return r, err
}

// Resume closes the breaker.
func (c *Client) Resume(ctx context.Context) error {
	return c.call(ctx, askTimeout, http.MethodPost, "/v1/resume", nil, &struct{}{})
}

// Stop begins an orderly stop.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, askTimeout, http.MethodPost, "/v1/stop", nil, &struct{}{})
}

// cause strips what net/http says about a URL that means nothing here.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (c *Client) call(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://ublk-remap"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("ask the server of %s: %w", c.name, err)
		}
		// Nobody listens, or whoever did died over the request. What the socket
		// says is not wrapped: it is about the socket, not about a device.
		return fmt.Errorf("%w for %s (%v)", ErrNotRunning, c.name, cause(err))
	}
	defer resp.Body.Close()
	// Reading and understanding an answer fail for different reasons: whatever
	// ends the reading is about the connection, and so about a server that died.
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w for %s any more (%v)", ErrNotRunning, c.name, err)
	}
	if resp.StatusCode != http.StatusOK {
		var a answer
		_ = json.Unmarshal(text, &a) // without a text the status says it
		return errorOf(resp.StatusCode, a.Error)
	}
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return fmt.Errorf("answer of the server of %s: %w", c.name, err)
	}
	return nil
}
