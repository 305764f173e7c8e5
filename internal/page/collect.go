package page

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/recorder"
)

const (
	// round is how often servers are asked, at most.
	round = time.Second
	// roundWait is how long a page waits for the answers of a round. Servers that answer later are
	// in the next one.
	roundWait = 900 * time.Millisecond
	// askTime is how long one server may take.
	askTime = 5 * time.Second
	// lateAfter is after what time without an answer a device counts as one that does not answer.
	lateAfter = 3 * time.Second
	// More is asked of a device whose own page somebody has looked at within watchTime.
	watchTime = 10 * time.Second
	// restEvery is how often what changes slowly is asked for.
	restEvery = 10 * time.Second
)

// errGone is the end of a Page.
var errGone = errors.New("the monitor ends")

// fresh returns once what is known is at most a round old, or ctx has ended.
func (p *Page) fresh(ctx context.Context) error {
	p.mu.Lock()
	now := p.now()
	if p.rounding == nil && now.Sub(p.began) >= round {
		p.began = now
		p.rounding = make(chan struct{})
		go p.round(p.rounding)
	}
	wait := p.rounding
	p.mu.Unlock()
	if wait == nil {
		return nil
	}
	select {
	case <-wait:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return errGone
	}
}

// round asks all servers once, and closes done when they have answered or the round is over.
func (p *Page) round(done chan struct{}) {
	over := time.NewTimer(roundWait)
	defer over.Stop()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		p.list()
		p.askAll()
	}()
	select {
	case <-asked:
	case <-over.C:
	case <-p.ctx.Done():
	}
	p.mu.Lock()
	p.rounding = nil
	p.mu.Unlock()
	close(done)
}

// list asks which devices there are, unless the last such question has no answer yet.
func (p *Page) list() {
	p.mu.Lock()
	if p.listing {
		p.mu.Unlock()
		return
	}
	p.listing = true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, askTime)
	defer cancel()
	all, err := p.source.List(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.listing, p.listErr = false, err
	p.listed = now
	for _, d := range p.devices {
		d.listed = false
	}
	for _, l := range all {
		key := keyOf(l.Status)
		d := p.devices[key]
		if d == nil || d.st != nil && d.st.UUID != l.Status.UUID {
			d = &device{} // also if it is another set of the same name
			p.devices[key] = d
		}
		d.listed, d.final = true, l.Asked
		if l.Asked || d.st == nil {
			d.st = l.Status
		}
	}
	if err == nil {
		maps.DeleteFunc(p.devices, func(_ string, d *device) bool { return !d.listed })
	}
}

// keyOf is what a device is known by. Names are unique; a device that nothing is known of but its
// number has none.
func keyOf(st *control.Status) string {
	if st.Name != "" {
		return st.Name
	}
	return st.Device
}

// askAll asks each device that is not being asked, and returns when all of these have answered.
func (p *Page) askAll() {
	type question struct {
		key string
		of  *device
	}
	var questions []question
	p.mu.Lock()
	now := p.now()
	for key, d := range p.devices {
		if d.final || !d.asked.IsZero() {
			continue
		}
		d.asked = now
		questions = append(questions, question{key, d})
	}
	p.mu.Unlock()
	control.Each(len(questions), func(i int) { p.ask(questions[i].key, questions[i].of) })
}

// ask asks the server of a device for all that is of interest.
func (p *Page) ask(key string, d *device) {
	ctx, cancel := context.WithTimeout(p.ctx, askTime)
	defer cancel()
	st, err := p.source.Status(ctx, key)
	p.mu.Lock()
	now := p.now()
	if err != nil {
		d.asked, d.failed = time.Time{}, err
		p.mu.Unlock()
		return
	}
	d.answer(st, now)
	d.asked = now // until the rest is there too
	watched := now.Sub(d.watched) < watchTime
	scrub := now.Sub(d.scrubAt) >= restEvery
	events := eventsKeyOf(st) != d.eventsOf || now.Sub(d.eventsAt) >= restEvery
	p.mu.Unlock()
	if st.HasFigures() {
		if watched {
			p.askLatencies(ctx, key, d)
		}
		if scrub {
			p.askScrub(ctx, key, d)
		}
		if events {
			p.askEvents(ctx, key, d, st)
		}
	}
	p.mu.Lock()
	d.asked = time.Time{}
	p.mu.Unlock()
}

func (p *Page) askLatencies(ctx context.Context, key string, d *device) {
	l, err := p.source.Latencies(ctx, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.latencies = l; err != nil {
		d.latencies = nil
	}
}

func (p *Page) askScrub(ctx context.Context, key string, d *device) {
	s, err := p.source.Scrub(ctx, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	d.scrubAt = p.now()
	if d.scrub = s; err != nil {
		d.scrub = nil
	}
}

// askEvents asks for the events that are new.
func (p *Page) askEvents(ctx context.Context, key string, d *device, st *control.Status) {
	p.mu.Lock()
	place := d.place
	p.mu.Unlock()
	list, anew, err := recorder.Since(ctx, func(ctx context.Context, from uint64) ([]Event, error) {
		return p.source.Events(ctx, key, from)
	}, placeOf, &place)
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.noEvents = err; err == nil {
		if anew {
			d.forgetEvents()
		}
		d.addEvents(list)
		d.place = place
	}
	d.eventsOf, d.eventsAt = eventsKeyOf(st), p.now()
}

func placeOf(e *Event) recorder.Place {
	return recorder.Place{Number: e.Number, Micros: e.Time.UnixMicro()}
}

// Observe takes in what somebody else has asked for, for the history of rates. err says that all
// may lack some devices.
func (p *Page) Observe(all []*control.Status, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	seen := make(map[string]bool, len(all))
	for _, st := range all {
		key := keyOf(st)
		seen[key] = true
		d := p.devices[key]
		if d == nil || d.st.UUID != st.UUID {
			d = &device{st: st}
			p.devices[key] = d
		}
		d.figures(st, now)
	}
	if err == nil {
		maps.DeleteFunc(p.devices, func(key string, _ *device) bool { return !seen[key] })
	}
}

// current returns the status of a device as it is to be shown: that of its server, or that it does
// not answer.
func (d *device) current(now time.Time) *control.Status {
	st := *d.st
	late := d.late(now)
	switch {
	case d.final || late == 0 && d.failed == nil && !d.answered.IsZero():
		return &st
	case late > 0:
		st.Reason = fmt.Sprintf("its server has not answered for %s; whether I/O goes on is not "+
			"known", readable.Duration(late))
	case d.failed != nil:
		st.Reason = "its server gives no status: " + d.failed.Error()
	default:
		st.State, st.Reason, st.Action = control.StateRecovering, "its server is being asked", ""
		st.ServerPID = 0
		return &st
	}
	st.State, st.Action = control.StateUnreachable, ""
	return &st
}
