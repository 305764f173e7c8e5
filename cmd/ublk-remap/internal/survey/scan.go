package survey

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

// ErrTooMany is returned by Scan if more units do not read than can be replaced.
var ErrTooMany = errors.New("too many bad places")

// scanPart is how much a scan reads at once.
const scanPart = 1 << 20

// ScanOptions say how to scan.
type ScanOptions struct {
	InFlight int // how many reads there may be at once; at least 1
	// Most is how many units may turn out not to read. With more the scan ends early.
	Most uint64
}

// Scan reads every place in r that was not tried or read before and is not known to be bad, and
// writes nothing. A part that does not read is read again unit by unit. Each unit is tried once, so
// a slow drive gets two tries for a bad unit. Once the failures of a part have taken a minute, the
// untried rest of that part counts as bad. What does not read is in Unread.
//
// Errors: ErrTooMany, that of the context, and errors that are not of the medium. A disk that does
// not read any more where it did is one of these.
func (d *Disk) Scan(ctx context.Context, r badblocks.Range, o ScanOptions) error {
	todo := badblocks.Subtract([]badblocks.Range{r}, badblocks.Merge(append(d.tested, d.read...)))
	todo = badblocks.Subtract(todo, outward(d.known, d.dev.Size()))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &scan{Disk: d, most: o.Most}
	parts := make(chan badblocks.Range)
	var readers sync.WaitGroup
	for range max(1, o.InFlight) {
		readers.Go(func() {
			buf := metadata.AlignedBytes(scanPart)
			for p := range parts {
				if err := s.part(buf[:p.End-p.Start], p); err != nil {
					cancel(err)
				}
			}
		})
	}
	send(ctx, parts, todo)
	readers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	d.read = badblocks.Merge(append(d.read, todo...))
	return nil
}

// send hands out ranges in parts, until all are handed out or the context ends.
func send(ctx context.Context, parts chan<- badblocks.Range, todo []badblocks.Range) {
	defer close(parts)
	for _, r := range todo {
		for at := r.Start; at < r.End; at += scanPart {
			select {
			case parts <- badblocks.Range{Start: at, End: min(at+scanPart, r.End)}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Unread returns the places that a scan could not read, in units of 4096 bytes.
func (d *Disk) Unread() []badblocks.Range { return badblocks.Merge(d.unread) }

// scan is a scan under way. Several goroutines read whole parts. Only one at a time takes a part
// apart: mu guards what they find.
type scan struct {
	*Disk
	most uint64

	mu     sync.Mutex
	found  uint64 // units that do not read
	place  int64  // a place that was read, if proved
	proved bool
}

// part reads one part.
func (s *scan) part(buf []byte, p badblocks.Range) error {
	ok, took, err := s.reads(buf, p.Start)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case ok:
		s.place, s.proved = p.Start, true
	default:
		if err := s.apart(buf, p, took); err != nil {
			return err
		}
	}
	s.o.Progress(p.End-p.Start, s.units)
	return nil
}

// apart reads a part again, unit by unit.
func (s *scan) apart(buf []byte, p badblocks.Range, failing time.Duration) error {
	var unread []badblocks.Range
	for off := p.Start; off < p.End; off += metadata.UnitSize {
		one := badblocks.Range{Start: off, End: min(off+metadata.UnitSize, p.End)}
		if failing > presumeAfter {
			unread = append(unread, badblocks.Range{Start: off, End: p.End})
			break
		}
		ok, took, err := s.reads(buf[:one.End-one.Start], off)
		switch {
		case err != nil:
			return err
		case ok:
			s.place, s.proved = off/metadata.PageSize*metadata.PageSize, true
		default:
			failing += took
			unread = append(unread, one)
		}
	}
	if len(unread) == 0 {
		return nil // it reads by now
	}
	if err := s.present(buf); err != nil {
		return err
	}
	for _, r := range unread {
		s.unread = append(s.unread, r)
		n := (r.End - r.Start + metadata.UnitSize - 1) / metadata.UnitSize
		s.units += int(n)
		s.found += uint64(n)
	}
	if s.found > s.most {
		return fmt.Errorf("%w: %d units of %d bytes do not read so far, up to byte %d",
			ErrTooMany, s.found, metadata.UnitSize, p.End)
	}
	return nil
}

// present makes sure that failures are of the medium: a place that was read before still reads. A
// disk that is gone fails everywhere.
func (s *scan) present(buf []byte) error {
	for n := 1; s.proved; n++ {
		ok, _, err := s.reads(buf[:metadata.PageSize], s.place)
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		case n == pathTries:
			return fmt.Errorf("%w: byte %d did read and does not any more, nor does what comes "+
				"after it; check its cable, its power and its health, then do the same again",
				metadata.ErrPath, s.place)
		}
		s.o.Pause(pathPause)
	}
	return nil
}

// reads reads a place once, and reports whether that succeeded and how long it took. If it fails
// for another reason than the medium, it is tried again for a while. After that the failure is an
// error. Any goroutine may call it.
func (s *scan) reads(b []byte, off int64) (ok bool, took time.Duration, err error) {
	for n := 1; ; n++ {
		begun := s.o.Now()
		_, err := s.dev.ReadAt(b, off)
		if took = s.o.Now().Sub(begun); err == nil {
			return true, took, nil
		}
		var errno syscall.Errno
		if errors.As(err, &errno) && metadata.Classify(int32(errno)) == metadata.ClassMedium {
			return false, took, nil
		}
		if n == pathTries {
			return false, took, fmt.Errorf("%w: %w; check its cable, its power and its health, "+
				"then do the same again", metadata.ErrPath, err)
		}
		s.o.Pause(pathPause)
	}
}
