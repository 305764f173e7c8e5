package metadata

import (
	"errors"
	"time"
)

// RetryLimits is how long an operation is retried if it fails for another reason than the
// medium.
type RetryLimits struct {
	Resources time.Duration // memory and the like
	Path      time.Duration
}

// The usual limits. Resources are waited for as long as the data path does by default. While
// a device is served, requests wait for the record of a heal, so a path gets less time than
// offline, where nothing waits.
const (
	RetryResourcesFor = 30 * time.Second
	RetryPathFor      = 3 * time.Second  // of a server
	retryPathOffline  = 15 * time.Second // of a load, and of all that works offline

	retryFirst = time.Millisecond
	retryLast  = 250 * time.Millisecond
)

// Retry counts the tries of one operation. It keeps no clock, so that the server and the
// simulator can go by the same rule. The zero value is an operation that has not failed yet.
type Retry struct {
	tries int
	first int64 // monotonic ns of the first failure
}

// Next takes a failure, an errno of either sign at a monotonic time in ns, and reports whether to
// retry, and after which pause. It allocates nothing. For what the Committer writes
// that is safe: it is the same bytes at the same place, and nothing was reported yet. So a cut
// between two tries leaves what a cut within the first could leave. A medium that
// fails is not retried: the Committer has other places.
func (r *Retry) Next(errno int32, now int64, p RetryLimits) (pause time.Duration, retry bool) {
	switch Classify(errno) {
	case ClassMedium:
		return 0, false
	case ClassResource:
		return r.wait(now, p.Resources)
	}
	return r.wait(now, p.Path)
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

// badPlace reports whether the error of an Op blames its place. Only the medium's errors do.
// A place that could not be reached is not bad, so it is neither given up nor written over.
func badPlace(err error) bool {
	return errors.Is(err, errReadBack) || !errors.Is(err, ErrFlush) && classOf(err) == ClassMedium
}

// tryElsewhere reports whether another try, here or at another place, makes sense after an error
// of an Op. The driver of the Ops has waited for a path that fails.
func tryElsewhere(err error) bool { return badPlace(err) || errors.Is(err, ErrFlush) }
