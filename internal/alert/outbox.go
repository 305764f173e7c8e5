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

// outbox decides when people are told. The first notice of a round is told at once, unless there
// were many lately. All others are told together.
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
	for i, n := range all {
		// One that waits already is told with what it was before.
		sent := &o.Single
		if n.Event == Raised && n.Severity() == Critical {
			sent = &o.Urgent
		}
		if i == 0 && n.Event != Again && len(*sent) < burst && o.waiting(n) < 0 {
			*sent = append(*sent, now)
			send = append(send, newMessage(opt.Host, now, n))
			continue
		}
		o.wait(n, now)
	}
	if len(o.Waiting) > 0 && now.Sub(o.Since) >= gather && now.Sub(o.Digest) >= opt.Digest {
		slices.SortStableFunc(o.Waiting, func(a, b *Notice) int { return rank(a) - rank(b) })
		send = append(send, newMessage(opt.Host, now, o.Waiting...))
		o.Waiting, o.Since, o.Digest = nil, time.Time{}, now
	}
	return send
}

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
