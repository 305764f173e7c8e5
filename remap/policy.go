package remap

import (
	"time"

	"ublkremap/metadata"
)

// Class says what an errno from direct I/O means for remapping. There is one table for
// all readers of a disk, that of package metadata.
type Class = metadata.Class

const (
	// ClassMedium is a candidate for remapping. Only a durable commit on the
	// backing disk shows that the disk is alive but for these blocks.
	ClassMedium = metadata.ClassMedium
	// ClassResource goes away by itself: tried again after a while.
	ClassResource = metadata.ClassResource
	// ClassPath never uses up a spare.
	ClassPath = metadata.ClassPath
)

// Classify sorts an errno, positive or negative.
func Classify(errno int32) Class { return metadata.Classify(errno) }

// Policy says how hard to try before a block counts as bad. The zero value
// means the defaults.
type Policy struct {
	// Retries is how often a single block is tried again in place before it
	// counts as bad.
	Retries int
	// MaxBad is how many blocks of one request may be found bad one by one; past
	// it units are tried as a whole, once, and what fails together counts as
	// bad together.
	MaxBad int
	// IsolateFor is the time that a request may spend on single blocks; past it
	// units are tried as a whole, as past MaxBad, and from the first failure on that takes more
	// than an eighth of it. Past eight times that the rest of what failed is tried only until
	// something is found bad that is not the first: what is left then a write remaps, and a read
	// notes it as pending.
	IsolateFor time.Duration
	// FailFast is for how long a pending block that failed a try answers reads with an error and is
	// not tried again; below 0: it is tried by each read.
	FailFast time.Duration
	// ResourceFor is how long an operation that fails for want of resources is
	// tried again before the error is answered.
	ResourceFor time.Duration
	// Burst is how many units may be remapped at once, and PerSecond how many a
	// second in the long run, before the breaker takes it for a dying disk.
	Burst     uint64
	PerSecond uint64
}

// Defaults of Policy. The burst lets a disk with thousands of bad units be
// written over once.
const (
	DefaultRetries     = 2
	DefaultMaxBad      = 16
	DefaultIsolateFor  = 2 * time.Second
	DefaultFailFast    = 60 * time.Second
	DefaultResourceFor = metadata.RetryResourcesFor
	DefaultBurst       = 65536
	DefaultPerSecond   = 64
)

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// withDefaults fills what is zero.
func (p Policy) withDefaults() Policy {
	orDefault(&p.Retries, DefaultRetries)
	orDefault(&p.MaxBad, DefaultMaxBad)
	orDefault(&p.IsolateFor, DefaultIsolateFor)
	orDefault(&p.FailFast, DefaultFailFast)
	orDefault(&p.ResourceFor, DefaultResourceFor)
	orDefault(&p.Burst, DefaultBurst)
	orDefault(&p.PerSecond, DefaultPerSecond)
	return p
}

// bucket is a token bucket over remapped units.
type bucket struct {
	tokens, burst, perSecond uint64
	last                     int64 // monotonic ns of the last refill
}

// take uses n tokens, or none and reports false.
func (b *bucket) take(n uint64, now int64) bool {
	if elapsed := now - b.last; elapsed > 0 {
		gained := uint64(elapsed) / uint64(time.Second) * b.perSecond
		gained += uint64(elapsed) % uint64(time.Second) * b.perSecond / uint64(time.Second)
		if gained > 0 {
			b.tokens = min(b.burst, b.tokens+gained)
			b.last = now
		}
	}
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}
