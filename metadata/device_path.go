package metadata

import (
	"errors"
	"fmt"
	"time"
)

// Clock is a Device that has time. Without it nothing is waited for: what fails is
// tried again at once, a number of times.
type Clock interface {
	// Monotonic is a time, in ns, that only counts up.
	Monotonic() int64
	// Pause waits. It may return early, for someone who wants to end.
	Pause(time.Duration)
}

// Tries of a steady device.
const (
	// mediumTries is how often a place is read before it is asked whether the disk is
	// there at all.
	mediumTries = 6
	// instantTries is how often something is tried, that is not of the medium, on a device
	// that has no time.
	instantTries = 1000
	// slowRead is what a read takes that the drive itself has tried again: then
	// one is enough.
	slowRead = time.Second
	// wholeRead is the longest read that is tried on its own account. A longer one that
	// fails is gone through in parts by whoever wants it.
	wholeRead = 64 << 10
	// stableTries is how often a disk is read from the beginning that reads otherwise at
	// the end.
	stableTries = 4
	// retryBudget is how much time is spent on pauses, in all, before what fails is no
	// longer waited for.
	retryBudget = time.Minute
)

// retryDevice is the Device that every load and every offline verb goes by: it tells a place
// of the medium that does not read from a disk that cannot be asked.
//
// A medium error is one only where another place of the same disk reads, before and
// after: a disk that has vanished answers EIO as well. It is tried again a few times, for
// a medium that reads the second time is not damaged.
//
// Everything else is waited for, and then ends whatever was going on: from the first
// failure on nothing is read and nothing is written any more, so that nobody can
// take silence for absence, wherever in the code. To the disk that is a power cut. failure
// is to be asked before a result is believed.
//
// A flush that fails ends it as well, and at once: what the disk has dropped from its
// cache a second flush would not bring back.
type retryDevice struct {
	Device
	clock  Clock // nil: none
	failed error
	spent  time.Duration
	good   int64 // a place that has read, or -1
	page   []byte
	unread map[int64]int // places that did not, and how long they are
}

// withRetries makes all devices steady that are not.
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

// pathFailure says which of the devices could not be asked, nil if all could.
func pathFailure(devs []Device) error {
	for _, d := range devs {
		if s, is := d.(*retryDevice); is && s.failed != nil {
			return s.failed
		}
	}
	return nil
}

// orPathFailure is err, unless a device could not be asked: then what was concluded counts for
// nothing, also if it was that all is well.
func orPathFailure(devs []Device, err error) error {
	if f := pathFailure(devs); f != nil {
		return f
	}
	return err
}

// untilStable calls f, which changes nothing that counts, until what it could not read cannot be
// read afterwards either. A disk that was away for a moment, and answered EIO meanwhile, has
// then been asked again. The error is that of f, or ErrPath.
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

// errUnstable is a disk that fails in other places each time.
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

// clearFailures forgets that a device could not be asked: what was left to do does not count.
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

// ReadAt reads, or fails for the medium's sake, or for good.
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

// read reads once. What reads is known to, from then on.
func (s *retryDevice) read(b []byte, off int64) (n int, slow bool, err error) {
	begun := s.now()
	n, err = s.Device.ReadAt(b, off)
	if err == nil {
		s.good = roundDown(off, PageSize)
		delete(s.unread, off)
	}
	return n, time.Duration(s.now()-begun) > slowRead, err
}

// isBad decides about a place that does not read. It is bad if another one reads, then it
// does not, and then that other one reads again. If it turns out to read, why is nil; else
// why is what is wrong with the disk.
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

// otherPlaceReads reads some place of the disk other than the one at off. The error is why none
// reads, or how the path failed.
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

// WriteAt writes, or fails for the medium's sake, or for good.
func (s *retryDevice) WriteAt(b []byte, off int64) (int, error) {
	var retry Retry
	failed := false // for the medium's sake, of a disk that was there
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
		// The same bytes at the same place: a cut between two tries leaves what one
		// within the first could.
		s.waitFor(&retry, try, "write", len(b), off, err)
	}
}

// Sync flushes. A second try would be answered as good, and bring nothing back.
func (s *retryDevice) Sync() error {
	if s.failed != nil {
		return s.failed
	}
	if err := s.Device.Sync(); err != nil {
		s.failed = fmt.Errorf("%w: %s: flushing its cache: %w; what was written last may not be "+
			"on it: check its cable, its power and its health, then do the same again", ErrPath,
			s.name(), err)
		return s.failed
	}
	return nil
}

// waitFor waits until it is time to try again, or ends it all.
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
		if pause, again := retry.wait(s.now(), limit); again {
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
	s.failed = fmt.Errorf("%w: %s: %s of %d bytes at %d: %w; %s", ErrPath, s.name(), what, n, off,
		err, do)
}

// name is what the device is called, where that is known.
func (s *retryDevice) name() string {
	if d, ok := s.Device.(interface{ Path() string }); ok {
		return d.Path()
	}
	return "a device"
}
