package metadata

import (
	"errors"
	"fmt"
	"time"
)

// Clock is implemented by a Device that can wait. Without it, an operation that fails is retried at
// once, a limited number of times.
type Clock interface {
	// Monotonic is a time, in ns, that only counts up.
	Monotonic() int64
	// Pause waits. It may return early, so that the caller can end.
	Pause(time.Duration)
}

// Limits of a retryDevice.
const (
	// mediumTries is how often a place is read before another place is, to see whether the
	// disk is there at all.
	mediumTries = 6
	// instantTries is how often an operation is tried that fails for another reason than
	// the medium, on a device without a clock.
	instantTries = 1000
	// slowRead: a read that takes longer has been retried by the drive itself, so one
	// is enough.
	slowRead = time.Second
	// wholeRead is the longest read that is judged. If a longer one fails its caller reads
	// it in parts.
	wholeRead = 64 << 10
	// stableTries is how often everything is read from the beginning, if a place that did not read
	// reads in the end.
	stableTries = 4
	// retryBudget is how much time is spent on pauses, in all. After that, no failure is waited
	// for.
	retryBudget = time.Minute
)

// retryDevice is the Device that every load and every offline verb reads and writes by. It
// tells a place of the medium that does not read from a disk that cannot be reached.
//
// A failure is a medium error only if another place of the same disk reads, before and after: a
// missing disk answers EIO as well. The place is read a few times, because a medium that reads the
// second time is not damaged.
//
// Every other failure is waited for, and then it is final: from then on nothing is read or written
// any more, so that no code can take unreadable data for absent data. For the disk this is like a
// power cut. pathFailure must be checked before a result counts.
//
// A flush that fails is final at once: a second flush would not bring back what the disk has
// dropped from its cache.
type retryDevice struct {
	Device
	clock  Clock // nil: none
	failed error
	spent  time.Duration
	good   int64 // a place that has read, or -1
	page   []byte
	unread map[int64]int // places that did not read, and how long they are
}

// withRetries wraps all devices that are not wrapped yet.
func withRetries(devs []Device) []Device {
	out := make([]Device, len(devs))
	for i, d := range devs {
		if _, is := d.(*retryDevice); is || d == nil {
			out[i] = d
			continue
		}
		s := &retryDevice{Device: d, good: -1}
		s.clock, _ = d.(Clock)
		out[i] = s
	}
	return out
}

// unwrapped is a device as it was given.
func unwrapped(d Device) Device {
	if s, is := d.(*retryDevice); is {
		return s.Device
	}
	return d
}

// pathFailure is the failure of a device that could not be reached; nil if all could.
func pathFailure(devs []Device) error {
	for _, d := range devs {
		if s, is := d.(*retryDevice); is && s.failed != nil {
			return s.failed
		}
	}
	return nil
}

// orPathFailure is err, unless a device could not be reached. Then no result counts, not even
// success.
func orPathFailure(devs []Device, err error) error {
	if f := pathFailure(devs); f != nil {
		return f
	}
	return err
}

// untilStable calls f, which changes nothing that counts, until the places that it could not read
// cannot be read afterwards either. So f is repeated if a disk was missing for a moment and
// answered EIO meanwhile. The error is that of f, or ErrPath.
func untilStable[T any](devs []Device, f func() (T, error)) (T, error) {
	var none T
	last := errUnstable
	for range stableTries {
		for _, d := range devs {
			if s, is := d.(*retryDevice); is {
				s.unread = nil
			}
		}
		v, err := f()
		changed := readsDiffer(devs)
		switch f := pathFailure(devs); {
		case f != nil:
			return none, f
		case errors.Is(err, ErrPath):
			last = err
		case !changed:
			return v, err
		}
	}
	return none, last
}

// errUnstable is the error for a disk that fails in different places each time.
var errUnstable = fmt.Errorf("%w: it reads otherwise than a moment ago; check its cable, its "+
	"power and its health, then try again", ErrPath)

// readsDiffer reports whether anything reads that did not before.
func readsDiffer(devs []Device) bool {
	for _, d := range devs {
		if s, is := d.(*retryDevice); is && s.rereads() {
			return true
		}
	}
	return false
}

// clearFailures forgets that a device could not be reached, because the rest of the work does not
// matter.
func clearFailures(devs []Device) {
	for _, d := range devs {
		if s, is := d.(*retryDevice); is {
			s.failed = nil
		}
	}
}

// rereads reports whether a place reads that did not a moment ago.
func (s *retryDevice) rereads() bool {
	for off, n := range s.unread {
		if _, err := s.ReadAt(AlignedBytes(roundUp(n, PageSize))[:n], off); err == nil {
			return true
		}
	}
	return false
}

func (s *retryDevice) now() int64 {
	if s.clock == nil {
		return 0
	}
	return s.clock.Monotonic()
}

// ReadAt reads. It fails if the medium does, or else finally.
func (s *retryDevice) ReadAt(b []byte, off int64) (int, error) {
	if plantedPathIsMedium {
		return s.Device.ReadAt(b, off)
	}
	var retry Retry
	for try := 1; ; try++ {
		if s.failed != nil {
			return 0, s.failed
		}
		n, slow, err := s.read(b, off)
		if err == nil {
			return n, nil
		}
		if classOf(err) == ClassMedium {
			switch {
			case !slow && try < mediumTries:
				continue
			case len(b) > wholeRead:
				return 0, err
			}
			bad, why := s.isBad(b, off, slow)
			if bad {
				return 0, err
			}
			if why == nil {
				return len(b), nil
			}
			err = why
		}
		s.waitFor(&retry, try, "read", len(b), off, err)
	}
}

// read reads once. It remembers a place that reads.
func (s *retryDevice) read(b []byte, off int64) (n int, slow bool, err error) {
	begun := s.now()
	n, err = s.Device.ReadAt(b, off)
	if err == nil {
		s.good = roundDown(off, PageSize)
		delete(s.unread, off)
	}
	return n, time.Duration(s.now()-begun) > slowRead, err
}

// isBad decides about a place that does not read. It is bad if another place reads, then it
// does not, and then the other place reads again. If it is not bad, why is nil if it turned
// out to read, and otherwise what is wrong with the disk.
func (s *retryDevice) isBad(b []byte, off int64, slow bool) (bad bool, why error) {
	if why := s.otherPlaceReads(off); why != nil {
		return false, why
	}
	if !slow {
		_, _, err := s.read(b, off)
		if err == nil {
			return false, nil
		}
		if classOf(err) != ClassMedium {
			return false, err
		}
		if why := s.otherPlaceReads(off); why != nil {
			return false, why
		}
		if s.unread == nil {
			s.unread = map[int64]int{}
		}
		s.unread[off] = len(b)
	}
	return true, nil
}

// otherPlaceReads reads some other place of the disk than the one at off. The error says why
// none reads, or how the path failed.
func (s *retryDevice) otherPlaceReads(off int64) error {
	if s.page == nil {
		s.page = AlignedBytes(PageSize)
	}
	size := roundDown(s.Size(), int64(PageSize))
	var last error
	for _, at := range []int64{s.good, 0, SuperblockStride, 2 * SuperblockStride,
		size / 2 / PageSize * PageSize, tailSuperblock(size), size - PageSize} {
		if at < 0 || at+PageSize > size || at == roundDown(off, PageSize) {
			continue
		}
		for range 3 {
			_, slow, err := s.read(s.page, at)
			if err == nil {
				return nil
			}
			if last = err; classOf(err) != ClassMedium {
				return err
			}
			if slow {
				break
			}
		}
	}
	if last == nil {
		return nil // there is no other place
	}
	return fmt.Errorf("nor does any other place of it: %w", last)
}

// WriteAt writes. It fails if the medium does, or else finally.
func (s *retryDevice) WriteAt(b []byte, off int64) (int, error) {
	var retry Retry
	failed := false // the medium has failed once, on a disk that was there
	for try := 1; ; try++ {
		if s.failed != nil {
			return 0, s.failed
		}
		n, err := s.Device.WriteAt(b, off)
		for at, length := range s.unread {
			if at < off+int64(len(b)) && off < at+int64(length) {
				delete(s.unread, at) // that it reads now says nothing of before
			}
		}
		if err == nil {
			return n, nil
		}
		if classOf(err) == ClassMedium {
			why := s.otherPlaceReads(off)
			switch {
			case why == nil && failed:
				return n, err
			case why == nil:
				failed = true // once more, now that it is known to be there
				continue
			}
			err = why
		}
		// Each try writes the same bytes to the same place. So a cut between two tries leaves
		// nothing that a cut within the first try could not leave.
		s.waitFor(&retry, try, "write", len(b), off, err)
	}
}

// Sync flushes. A flush that failed is not retried: a second one would succeed, and bring nothing
// back. A flush that failed for lack of resources was not carried out.
func (s *retryDevice) Sync() error {
	var retry Retry
	for try := 1; s.failed == nil; try++ {
		err := s.Device.Sync()
		switch {
		case err == nil:
			return nil
		case classOf(err) == ClassResource:
			s.waitFor(&retry, try, "flush", 0, 0, err)
		default:
			s.failed = fmt.Errorf("%w: %s: flushing its cache: %w; what was written last may not "+
				"be on it: check its cable, its power and its health, then do the same again",
				ErrPath, s.name(), err)
		}
	}
	return s.failed
}

// waitFor waits until the next try, or makes the failure final.
func (s *retryDevice) waitFor(retry *Retry, try int, what string, n int, off int64, err error) {
	if errors.Is(err, ErrPath) {
		s.failed = err // of the device beneath, which has waited
		return
	}
	if s.clock == nil {
		if try < instantTries {
			return
		}
	} else if s.spent < retryBudget {
		limit := retryPathOffline
		switch {
		case classOf(err) == ClassResource:
			limit = RetryResourcesFor
		case !mayComeBack(err):
			limit = time.Second
		}
		if pause, ok := retry.wait(s.now(), limit); ok {
			s.spent += pause
			s.clock.Pause(pause)
			return
		}
	}
	do := "the path, not the medium: check its cable, its power and what lies in between, then " +
		"try again"
	if classOf(err) == ClassResource {
		do = "the machine lacks resources, usually memory; try again"
	}
	if n > 0 {
		what = fmt.Sprintf("%s of %d bytes at %d", what, n, off)
	}
	s.failed = fmt.Errorf("%w: %s: %s: %w; %s", ErrPath, s.name(), what, err, do)
}

// name is what the device is called, if that is known.
func (s *retryDevice) name() string {
	if d, ok := s.Device.(interface{ Path() string }); ok {
		return d.Path()
	}
	return "a device"
}
