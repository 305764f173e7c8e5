package remap

// Way says how far a request had to go. Of the ways that it went, the one that is last in this list
// counts.
type Way uint8

const (
	WayNone  Way = iota // no disk was asked: nothing to flush, or an error that was known
	WayHome             // to where its blocks are at home; a flush: of the backing disk
	WaySpare            // to spare units; a flush: of a spare device as well
	WayHeal             // it met a bad block: isolated, retried, perhaps remapped
	Ways                // how many there are
)

// Answer is what is known of a request that is being answered.
type Answer struct {
	Op  Op
	Way Way
	// Met, for WayHeal, is since when the request is known to have been under way: when it met the
	// bad block, or when a look at the ages of requests saw it before that. Monotonic ns; 0 for
	// other ways.
	Met int64
}

// Answering describes the request that is being answered. A driver may call it within Finish. It is
// the only call back into the Engine that is allowed there.
func (e *Engine) Answering(tag uint16) Answer {
	q := &e.requests[tag]
	return Answer{q.Op, q.way, q.met}
}

// went notes that an operation was issued.
func (q *request) went(mapped bool) {
	w := WayHome
	if mapped {
		w = WaySpare
	}
	q.way = max(q.way, w)
}

// metBad notes, before the answer, that the request met a bad block.
func (e *Engine) metBad(q *request) {
	q.way, q.met = WayHeal, q.since
	if int(q.Tag) >= len(e.ages) {
		return
	}
	if a := &e.ages[q.Tag]; a.since != 0 && a.serial == q.serial {
		q.met = min(q.met, a.since)
	}
}
