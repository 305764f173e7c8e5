package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
)

// askTime is how long a monitor may take to answer; a test of all ways takes longer.
const (
	askTime  = 10 * time.Second
	testTime = 4 * time.Minute
)

// Acknowledgement asks for alerts to be quiet.
type Acknowledgement struct {
	Set    string   `json:"set"`    // name, UUID or device; empty: all devices
	Alerts []string `json:"alerts"` // kinds; empty: all
}

// Acknowledged says how many alerts are quiet.
type Acknowledged struct {
	Count int `json:"count"`
}

// failure is the answer to what cannot be done.
type failure struct {
	Error   string `json:"error"`
	NoAlert bool   `json:"no_alert"`
}

// listen makes the socket. The lock says that nobody else has it. Its directory is root's alone.
func (m *Monitor) listen() (net.Listener, error) {
	if err := os.Remove(control.AlertsPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", control.AlertsPath())
}

// answer answers until ctx ends.
func (m *Monitor) answer(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/alerts", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		all := m.machine.List()
		m.mu.Unlock()
		reply(w, all)
	})
	mux.HandleFunc("POST /v1/acknowledge", func(w http.ResponseWriter, r *http.Request) {
		var a Acknowledgement
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&a); err != nil {
			refuse(w, http.StatusBadRequest, failure{Error: err.Error()})
			return
		}
		m.mu.Lock()
		n, err := m.machine.Acknowledge(a.Set, a.Alerts, time.Now())
		m.mu.Unlock()
		if err != nil {
			refuse(w, http.StatusNotFound, failure{err.Error(), errors.Is(err, ErrNoAlert)})
			return
		}
		m.save()
		reply(w, Acknowledged{n})
	})
	mux.HandleFunc("POST /v1/test", func(w http.ResponseWriter, r *http.Request) {
		reply(w, Test(r.Context(), m.ways, m.takers, m.host))
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: askTime, BaseContext: func(
		net.Listener) context.Context {
		return ctx
	}}
	stopped := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stopped()
	_ = s.Serve(l)
	_ = os.Remove(control.AlertsPath())
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, f failure) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(f)
}

// Client asks the monitor that runs here.
type Client struct{ http http.Client }

// NewClient returns a Client.
func NewClient() *Client {
	return &Client{http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return control.Dial(ctx, control.AlertsPath())
		}}}}
}

// ErrNotRunning is returned if no monitor runs here.
var ErrNotRunning = errors.New("no monitor runs here")

// List asks for the alerts that are there.
func (c *Client) List(ctx context.Context) (all []Listed, err error) {
	return all, c.call(ctx, askTime, http.MethodGet, "alerts", nil, &all)
}

// Acknowledge makes alerts quiet until they get worse. The error is ErrNoAlert if there is none.
func (c *Client) Acknowledge(ctx context.Context, a Acknowledgement) (done Acknowledged,
	err error) {
	return done, c.call(ctx, askTime, http.MethodPost, "acknowledge", a, &done)
}

// Test sends a test alert by each way.
func (c *Client) Test(ctx context.Context) (all []Result, err error) {
	return all, c.call(ctx, testTime, http.MethodPost, "test", nil, &all)
}

func (c *Client) call(ctx context.Context, limit time.Duration, method, what string, ask,
	answer any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://monitor/v1/"+what,
		bytes.NewReader(body))
	if err != nil {
		return err
	}
	got, err := c.http.Do(r)
	if hidden := (*url.Error)(nil); errors.As(err, &hidden) {
		err = hidden.Err // the URL is made up
	}
	switch {
	case errors.Is(err, control.ErrRefused):
		return err
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNotRunning
	case err != nil:
		return fmt.Errorf("the monitor does not answer: %w", err)
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK {
		var f failure
		_ = json.NewDecoder(got.Body).Decode(&f)
		if f.NoAlert {
			return ErrNoAlert
		}
		return fmt.Errorf("the monitor: %s: %s", got.Status, f.Error)
	}
	return json.NewDecoder(got.Body).Decode(answer)
}
