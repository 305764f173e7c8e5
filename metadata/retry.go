package metadata

import "time"

// Retry says how long an operation is tried again that failed for something else than the
// medium. It keeps no clock of its own, so that the server, offline verbs and the simulator
// can go by the same rule. The zero value is an operation that has not failed yet.
type Retry struct {
	tries int
	first int64 // monotonic ns of the first failure
}

// Limits of Retry. Resources are waited for as long as the data path does by default
// (remap.DefaultResourceFor). While a device is served, those who wait for a record of
// a heal wait with it, so a path gets less time than offline, where nobody does.
const (
	RetryResourceFor    = 30 * time.Second
	RetryPathFor        = 3 * time.Second  // of a server
	retryPathForOffline = 15 * time.Second // of a load, and of all that works offline

	retryFirst = time.Millisecond
	retryLast  = 250 * time.Millisecond
)

// Again takes a failure, at a monotonic time in ns, and reports whether to try again, and
// after which pause. Trying again is safe for what the Committer writes: the same bytes
// at the same place, of which nothing was said yet. A medium that fails is not tried
// again: the Committer has other places.
func (r *Retry) Again(err error, now int64) (pause time.Duration, again bool) {
	return r.again(err, now, RetryPathFor)
}

func (r *Retry) again(err error, now int64, path time.Duration) (time.Duration, bool) {
	limit := path
	switch classOf(err) {
	case ClassMedium:
		return 0, false
	case ClassResource:
		limit = RetryResourceFor
	}
	return r.wait(now, limit)
}

func (r *Retry) wait(now int64, limit time.Duration) (time.Duration, bool) {
	if r.tries == 0 {
		r.first = now
	}
	left := limit - time.Duration(now-r.first)
	if left <= 0 {
		return 0, false
	}
	pause := min(retryFirst<<min(r.tries, 16), retryLast, left)
	r.tries++
	return pause, true
}
