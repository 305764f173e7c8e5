package remap

import "time"

// This file limits how many reads try pending blocks at a time. A try can take a drive minutes, and
// holds one of the queue's tags for as long. A program that reads bad blocks again and again, or
// many of them at once, would leave no tags for the requests of others. So a quarter of the tags
// may be used for tries. A read that comes meanwhile waits for its turn. If the drive works again,
// that takes milliseconds. If no try has begun or ended for turnWait, the drive does not work: the
// reads that wait are answered with an error, and those that come are answered at once. Otherwise
// they would hold all other tags for as long as they wait, again and again.

const (
	// triesShare: one tag in so many may be used by reads that try pending blocks.
	triesShare = 4
	// turnWait is how long reads wait for their turn after a try has begun or ended. A read that
	// waits holds its tag.
	turnWait = time.Second
)

// turn says when a read may try pending blocks.
type turn uint8

const (
	turnNow turn = iota
	turnLater
	turnNever // it has waited long enough
)

// turnOf returns when a read may try pending blocks. One that gets its turn keeps it until it ends.
func (e *Engine) turnOf(q *request) turn {
	switch {
	case q.trying, q.internal != nil, e.policy.FailFast < 0:
		return turnNow
	case e.trying < e.maxTrying():
		q.trying = true
		e.trying++
		e.tried = e.drv.Now()
		return turnNow
	case q.turn == 0:
		q.turn = e.tried + int64(turnWait)
	}
	if e.drv.Now() >= q.turn {
		return turnNever
	}
	q.waits = true
	e.waiting++
	return turnLater
}

// maxTrying is how many reads may try pending blocks at a time.
func (e *Engine) maxTrying() int { return max(e.cfg.Depth/triesShare, min(e.cfg.Depth, 2)) }

// endWait is called when a read goes on.
func (e *Engine) endWait(q *request) {
	if q.waits {
		q.waits = false
		e.waiting--
	}
}

// nextTurns lets the reads go on that have waited the longest, as far as they may.
func (e *Engine) nextTurns() {
	for e.trying < e.maxTrying() {
		if q := e.firstWaiting(); q == nil || !e.goOn(q) {
			return
		}
	}
}

// endTurns answers the reads that have waited long enough.
func (e *Engine) endTurns(now int64) {
	for {
		if q := e.firstWaiting(); q == nil || q.turn > now || !e.goOn(q) {
			return
		}
	}
}

// goOn carries on a read that has waited. It reports whether the read waits no longer.
func (e *Engine) goOn(q *request) bool {
	turn := q.turn
	e.advance(q)
	return !q.waits || q.turn != turn
}

// firstWaiting returns the read that has waited the longest, or nil.
func (e *Engine) firstWaiting() (first *request) {
	if e.waiting == 0 {
		return nil
	}
	for i := range e.requests {
		if q := &e.requests[i]; q.waits && (first == nil || q.turn < first.turn) {
			first = q
		}
	}
	return first
}
