package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"ublkremap/internal/control"
)

const (
	maxClients = 32
	// sendTime is how long one message may take to send. A client that is slower is dropped; it
	// connects again by itself.
	sendTime = 10 * time.Second
	// keepAlive is how often something is sent, so that a connection that is dead is noticed.
	keepAlive = 15 * time.Second
	// reconnect is after what time a browser connects again.
	reconnect = 2 * time.Second
)

// Message is the data of an event of /live.
type Message struct {
	At    time.Time `json:"at"`
	Clock string    `json:"clock"` // At, as the page writes times
	Build string    `json:"build"` // a page of another build has to be loaded again
	// Parts are the elements that have changed, by their ids, as HTML. A new one may be among them.
	Parts map[string]string `json:"parts"`
	// Order has the ids of all devices of the list in their order. It is nil for a page of one.
	Order []string `json:"order,omitempty"`
	// Status is that of the device if the page is of one, and null if it is not there any more.
	Status *control.Status `json:"status"`
	// Untold says why Status has no figures; empty if it has.
	Untold string `json:"untold"`
}

// client is an open page.
type client struct {
	device string        // empty: all
	wake   chan struct{} // has one element if there is something new
}

// enter adds a client, unless there are too many. The first one starts the questions.
func (p *Page) enter(c *client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.clients) >= maxClients || p.ctx.Err() != nil {
		return false
	}
	p.clients[c] = struct{}{}
	if !p.running {
		p.running = true
		go p.run()
	} else if p.now().Sub(p.began) < 2*round {
		c.wake <- struct{}{} // what is known is new enough
	}
	return true
}

func (p *Page) leave(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.clients, c)
}

// run asks the servers as long as there are clients.
func (p *Page) run() {
	tick := time.NewTicker(round)
	defer tick.Stop()
	for {
		p.mu.Lock()
		if len(p.clients) == 0 || p.ctx.Err() != nil {
			p.running = false
			p.mu.Unlock()
			return
		}
		now := p.now()
		for c := range p.clients {
			if d := p.devices[c.device]; d != nil {
				d.watched = now
			}
		}
		p.mu.Unlock()
		if p.fresh(p.ctx) == nil {
			p.wakeAll()
		}
		select {
		case <-tick.C:
		case <-p.ctx.Done():
		}
	}
}

// wakeAll tells all clients that there is something new. It waits for none.
func (p *Page) wakeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks = map[string]*rendered{}
	for c := range p.clients {
		select {
		case c.wake <- struct{}{}:
		default: // it has not looked at the last one yet
		}
	}
}

// live sends what changes until the client leaves.
func (p *Page) live(w http.ResponseWriter, r *http.Request) {
	c := &client{device: r.URL.Query().Get("device"), wake: make(chan struct{}, 1)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx is to pass on each event
	if r.Method == http.MethodHead {
		return
	}
	if !p.enter(c) {
		w.Header().Del("Content-Type")
		w.Header().Set("Retry-After", "30")
		http.Error(w, fmt.Sprintf("%d pages are open already; this one can be loaded again by hand",
			maxClients), http.StatusServiceUnavailable)
		return
	}
	defer p.leave(c)
	out := http.NewResponseController(w)
	send := func(text []byte) bool {
		// A writer that has no deadlines has no slow clients either.
		_ = out.SetWriteDeadline(time.Now().Add(sendTime))
		_, err := w.Write(text)
		return err == nil && out.Flush() == nil
	}
	if !send(fmt.Appendf(nil, "retry: %d\n\n", reconnect.Milliseconds())) {
		return
	}
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	var sent *rendered
	for {
		select {
		case <-c.wake:
			text, err := event(p.message(c, &sent))
			if err != nil || !send(text) {
				return
			}
		case <-idle.C:
			if !send([]byte(":\n\n")) {
				return
			}
		case <-r.Context().Done():
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// event is a message as it is sent. JSON has no line ends.
func event(m *Message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{[]byte("data: "), b, []byte("\n\n")}, nil), nil
}

// rendered is what a page shows after a round. It does not change.
type rendered struct {
	at     time.Time
	parts  map[string]string
	order  []string
	status *control.Status
	untold string
}

// render returns how the page of a device, or that of all, looks after the last round. All clients
// share it.
func (p *Page) render(device string) *rendered {
	p.mu.Lock()
	r := p.looks[device]
	p.mu.Unlock()
	if r != nil {
		return r
	}
	r = &rendered{at: p.now().UTC(), parts: map[string]string{}}
	if device == "" {
		r.order = p.overviewParts(r.parts)
	} else {
		r.status, r.untold = p.deviceParts(device, r.parts)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks[device] = r
	return r
}

// message returns what is new for a client that has been sent last, and notes it as sent.
func (p *Page) message(c *client, last **rendered) *Message {
	r := p.render(c.device)
	m := &Message{At: r.at, Clock: clock(r.at), Build: p.build, Parts: map[string]string{},
		Order: r.order, Status: r.status, Untold: r.untold}
	for id, html := range r.parts {
		if *last == nil || (*last).parts[id] != html {
			m.Parts[id] = html
		}
	}
	*last = r
	return m
}
