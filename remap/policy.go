package remap

import (
	"time"

	"ublkremap/metadata"
)

// Class says what an errno from direct I/O means for remapping. All readers of a disk share one
// table, that of package metadata.
type Class = metadata.Class

const (
	// ClassMedium is a candidate for remapping. Only a durable commit on the backing disk shows
	// that the disk works apart from these blocks.
	ClassMedium = metadata.ClassMedium
	// ClassResource goes away by itself. The operation is retried after a while.
	ClassResource = metadata.ClassResource
	// ClassPath never uses up a spare.
	ClassPath = metadata.ClassPath
)

// Classify returns the class of an errno, positive or negative.
func Classify(errno int32) Class { return metadata.Classify(errno) }

// Policy says how many tries are made before a block counts as bad. The zero value means the
// defaults.
type Policy struct {
	// Retries is how often a single block is retried in place before it counts as bad.
	Retries int
	// MaxBad is how many blocks of one request may be found bad one by one. Past it units are tried
	// as a whole, once. Blocks that fail together then count as bad together.
	MaxBad int
	// IsolateFor is the time that a request may spend on single blocks. Past it units are tried as
	// a whole, as past MaxBad. That also begins with the first failure that takes more than an
	// eighth of it. Past eight times IsolateFor the rest of what failed is tried only until
	// something is found bad that is not the first. A write then remaps what is left, and a read
	// notes it as pending.
	IsolateFor time.Duration
	// FailFast is how long a pending block that failed a try is not tried again. Reads of it are
	// answered with an error for that time. Below 0: each read tries it.
	FailFast time.Duration
	// ResourceFor is how long an operation that fails for lack of resources is retried before the
	// request is answered with the error.
	ResourceFor time.Duration
	// Elsewhere is how many other places of the disk are read before a block is read that was
	// written in place, because no spare unit was free. They displace what the disk's cache holds.
	Elsewhere int
	// Burst is how many units may be remapped at once. PerSecond is how many may be remapped per
	// second in the long run. Past these limits the breaker treats the disk as dying.
	Burst     uint64
	PerSecond uint64
}

// Defaults of Policy. The burst is large enough that a disk with thousands of bad units can be
// written over once.
const (
	DefaultRetries     = 2
	DefaultMaxBad      = 16
	DefaultIsolateFor  = 2 * time.Second
	DefaultFailFast    = 60 * time.Second
	DefaultResourceFor = metadata.RetryResourcesFor
	DefaultElsewhere   = 256
	DefaultBurst       = 65536
	DefaultPerSecond   = 64
)

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// withDefaults replaces zeroes with the defaults.
func (p Policy) withDefaults() Policy {
	orDefault(&p.Retries, DefaultRetries)
	orDefault(&p.MaxBad, DefaultMaxBad)
	orDefault(&p.IsolateFor, DefaultIsolateFor)
	orDefault(&p.FailFast, DefaultFailFast)
	orDefault(&p.ResourceFor, DefaultResourceFor)
	orDefault(&p.Elsewhere, DefaultElsewhere)
	orDefault(&p.Burst, DefaultBurst)
	orDefault(&p.PerSecond, DefaultPerSecond)
	return p
}

// bucket is a token bucket over remapped units.
type bucket struct {
	tokens, burst, perSecond uint64
	last                     int64 // monotonic ns of the last refill
}

// take uses n tokens. If there are fewer it uses none and returns false.
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
