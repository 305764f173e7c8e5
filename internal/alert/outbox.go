package alert

import (
	"slices"
	"time"
)

const (
	// burst is how many messages of a single notice may be sent within the time between two
	// digests, and how many more about critical alerts that are new: these do not wait because a
	// disk gets worse and worse. What comes beyond that waits for a digest.
	burst = 3
	// gather is how long a digest waits for more of the same storm.
	gather = time.Minute
)

// outbox decides when people are told. New critical alerts of a round are told at once, together;
// without any, the first notice of a round is. All others are told together later, and so are these
// if there were many lately.
type outbox struct {
	Single  []time.Time `json:"single,omitempty"` // when messages were sent at once
	Urgent  []time.Time `json:"urgent,omitempty"` // the same, about new critical alerts
	Waiting []*Notice   `json:"waiting,omitempty"`
	Since   time.Time   `json:"since"`  // when the first of Waiting came
	Digest  time.Time   `json:"digest"` // when the last digest was sent
}

// take takes the notices of a round, the most urgent first, and returns what is sent now.
func (o *outbox) take(all []*Notice, now time.Time, opt Options) (send []*Message) {
	old := func(t time.Time) bool { return now.Sub(t) >= opt.Digest }
	o.Single, o.Urgent = slices.DeleteFunc(o.Single, old), slices.DeleteFunc(o.Urgent, old)
	// One that waits already is told with what it was before.
	var urgent, others []*Notice
	for _, n := range all {
		if n.urgent() && len(o.Urgent) < burst && o.waiting(n) < 0 {
			urgent = append(urgent, n)
		} else {
			others = append(others, n)
		}
	}
	if len(urgent) > 0 {
		o.Urgent = append(o.Urgent, now)
		send = append(send, newMessage(opt.Host, now, urgent...))
	} else if len(others) > 0 && !others[0].urgent() && others[0].Event != Again &&
		len(o.Single) < burst && o.waiting(others[0]) < 0 {
		o.Single = append(o.Single, now)
		send = append(send, newMessage(opt.Host, now, others[0]))
		others = others[1:]
	}
	for _, n := range others {
		o.wait(n, now)
	}
	if len(o.Waiting) > 0 && now.Sub(o.Since) >= gather && now.Sub(o.Digest) >= opt.Digest {
		slices.SortStableFunc(o.Waiting, func(a, b *Notice) int { return rank(a) - rank(b) })
		send = append(send, newMessage(opt.Host, now, o.Waiting...))
		o.Waiting, o.Since, o.Digest = nil, time.Time{}, now
	}
	return send
}

// urgent reports whether a notice is of a critical alert that is new.
func (n *Notice) urgent() bool { return n.Event == Raised && n.Severity() == Critical }

// waiting returns the place of a notice about the same alert, or -1.
func (o *outbox) waiting(n *Notice) int {
	return slices.IndexFunc(o.Waiting, func(w *Notice) bool {
		return w.Kind == n.Kind && w.Set == n.Set && w.UUID == n.UUID
	})
}

// wait has a notice wait for the next digest, in place of an older one about the same alert.
func (o *outbox) wait(n *Notice, now time.Time) {
	if len(o.Waiting) == 0 {
		o.Since = now
	}
	at := o.waiting(n)
	if at < 0 {
		o.Waiting = append(o.Waiting, n)
		return
	}
	last := *n
	last.Times += o.Waiting[at].Times
	last.Since = o.Waiting[at].Since
	o.Waiting[at] = &last
}
