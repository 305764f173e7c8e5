package remap

import (
	"sync/atomic"
	"time"
)

// This file finds out how long requests of the user have been under way, without reading the clock
// for each of them. A caller that needs to know asks the engine to look at its requests from time
// to time. A request that is still the same one as at the last look has been under way since then
// at least.

// SlowAfter is how long a request must have been seen under way to count as slow. A drive takes
// seconds for a bad sector.
const SlowAfter = 3 * time.Second

// Ages is what the last looks at the requests of all queues have found.
type Ages struct {
	UnderWay int   // requests of the user
	Slow     int   // those of them that are under way for SlowAfter or longer
	Oldest   int64 // monotonic ns: when the oldest slow one was first seen; 0: there is none
	Last     int64 // monotonic ns: the last look that saw a slow one; 0: none did
}

// age is when a request was first seen.
type age struct {
	serial uint32
	since  int64 // 0: nothing was seen of this tag
}

// queueAges is one queue's share.
type queueAges struct {
	underWay, slow atomic.Int32
	oldest, last   atomic.Int64
}

// LookAtAges looks at the requests that are under way. Like all methods of the Engine it is called
// on the queue's thread. It costs a look at each tag.
func (e *Engine) LookAtAges() {
	now := e.drv.Now()
	var seen Ages
	for i := range e.ages {
		q, a := &e.requests[i], &e.ages[i]
		switch {
		case !q.active:
			a.since = 0
			continue
		case a.since == 0 || a.serial != q.serial:
			a.serial, a.since = q.serial, now
		case now-a.since >= int64(SlowAfter):
			seen.Slow++
			if seen.Oldest == 0 || a.since < seen.Oldest {
				seen.Oldest = a.since
			}
		}
		seen.UnderWay++
	}
	e.public.ages.underWay.Store(int32(seen.UnderWay))
	e.public.ages.slow.Store(int32(seen.Slow))
	e.public.ages.oldest.Store(seen.Oldest)
	if seen.Slow > 0 {
		e.public.ages.last.Store(now)
	}
}

// Ages returns what the last LookAtAges of each queue has found.
func (s *Shared) Ages() Ages {
	var sum Ages
	if queues := s.queues.list.Load(); queues != nil {
		for _, q := range *queues {
			sum.UnderWay += int(q.ages.underWay.Load())
			sum.Slow += int(q.ages.slow.Load())
			if at := q.ages.oldest.Load(); at != 0 && (sum.Oldest == 0 || at < sum.Oldest) {
				sum.Oldest = at
			}
			sum.Last = max(sum.Last, q.ages.last.Load())
		}
	}
	return sum
}
