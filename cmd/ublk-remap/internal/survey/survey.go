// Package survey tries the places of a disk that a new set will rely on, before anything on the
// disk is changed. It writes back what it has read, and reads it again.
//
// A drive may take seconds for each try of a bad place, so there are few tries. If a part of the
// disk fails, its units are tried one by one. A unit that fails is bad. The time for failures is
// bounded. Once it is used up, the untried rest of a part that failed counts as bad. In the end the
// survey is given up.
package survey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

// ErrSlow is returned when bad places take so long to fail that the survey is given up.
var ErrSlow = errors.New("bad places take too long")

// Device is a disk that is surveyed. Reads and writes are aligned to blocks of 4096 bytes, except
// at the end of the device.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() int64
}

const (
	// part is how much is tried at once.
	part = 4 << 20
	// slowTry is the duration from which on a try counts as repeated by the drive itself. A place
	// that failed to read after that is not written to.
	slowTry = time.Second
	// presumeAfter is how much time failures may take before the untried rest of a part that failed
	// counts as bad.
	presumeAfter = time.Minute
	// giveUpAfter is how much time failures may take before the survey is given up.
	giveUpAfter = 5 * time.Minute
	// pathTries is how often an operation is tried that fails for another reason than the medium.
	pathTries = 20
	pathPause = 250 * time.Millisecond
)

// Options say how to survey a disk.
type Options struct {
	// ReadOnly: places are only read.
	ReadOnly bool
	// Progress, if set, is called with how many more bytes were tried, and how many bad units were
	// found so far over all places.
	Progress func(bytes int64, bad int)
	// Now and Pause are the clock. The default is the machine's.
	Now   func() time.Time
	Pause func(time.Duration)
}

// Disk is a disk that is being surveyed. Only one goroutine may use it.
type Disk struct {
	dev    Device
	o      Options
	known  []badblocks.Range // not to be tried: known to be bad
	tested []badblocks.Range
	bad    []badblocks.Range
	read   []badblocks.Range // by a scan; the units in unread did not read
	unread []badblocks.Range
	units  int           // bad and unread ones
	failed time.Duration // the time that failures took
	buf    []byte
}

// New returns a disk about which only a list of bad places is known.
func New(dev Device, known []badblocks.Range, o Options) *Disk {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == nil {
		o.Pause = time.Sleep
	}
	if o.Progress == nil {
		o.Progress = func(int64, int) {}
	}
	return &Disk{dev: dev, o: o, known: known, buf: metadata.AlignedBytes(part)}
}

// Report sets Options.Progress.
func (d *Disk) Report(progress func(bytes int64, bad int)) { d.o.Progress = progress }

// Bad returns the places that were found to be bad, in units of 4096 bytes.
func (d *Disk) Bad() []badblocks.Range { return badblocks.Merge(d.bad) }

// Failed is how much time failures took.
func (d *Disk) Failed() time.Duration { return d.failed }

// Test tries every place in r that was not tried before and is not known to be bad. Errors:
// ErrSlow, that of the context, and errors that are not of the medium. After such an error nothing
// is known about the place.
func (d *Disk) Test(ctx context.Context, r badblocks.Range) error {
	todo := badblocks.Subtract([]badblocks.Range{r}, d.tested)
	for _, todo := range badblocks.Subtract(todo, outward(d.known, d.dev.Size())) {
		for at := todo.Start; at < todo.End; at += part {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := badblocks.Range{Start: at, End: min(at+part, todo.End)}
			if err := d.part(p); err != nil {
				return err
			}
			d.o.Progress(p.End-p.Start, d.units)
		}
	}
	d.tested = badblocks.Merge(append(d.tested, r))
	return nil
}

// outward makes ranges whole units.
func outward(list []badblocks.Range, size int64) []badblocks.Range {
	const unit = metadata.UnitSize
	var out []badblocks.Range
	for _, r := range list {
		out = append(out, badblocks.Range{Start: r.Start / unit * unit,
			End: min((r.End+unit-1)/unit*unit, size)})
	}
	return badblocks.Merge(out)
}

func (d *Disk) part(p badblocks.Range) error {
	b := d.buf[:p.End-p.Start]
	whole, err := d.try(func() error { return d.whole(b, p.Start) })
	if err != nil || whole {
		return err
	}
	sums := map[int64]uint64{}
	for off := p.Start; off < p.End; off += metadata.UnitSize {
		u := b[:min(metadata.UnitSize, p.End-off)]
		if d.failed > presumeAfter {
			d.note(badblocks.Range{Start: off, End: p.End})
			break
		}
		good, err := d.unit(u, off)
		if err != nil {
			return err
		}
		if good {
			sums[off] = xxhash.Sum64(u)
		}
	}
	return d.confirm(sums, p.End)
}

// whole writes back what a part contains, and reads it again.
func (d *Disk) whole(b []byte, off int64) error {
	if _, err := d.dev.ReadAt(b, off); err != nil || d.o.ReadOnly {
		return err
	}
	sum := xxhash.Sum64(b)
	if _, err := d.dev.WriteAt(b, off); err != nil {
		return err
	}
	if err := d.dev.Sync(); err != nil {
		return flushError{err}
	}
	if _, err := d.dev.ReadAt(b, off); err != nil {
		return err
	}
	if xxhash.Sum64(b) != sum {
		return errOther
	}
	return nil
}

// errOther: a read returned other data than what was written.
var errOther = fmt.Errorf("it reads back otherwise: %w", syscall.EIO)

// flushError is a failed flush. It says nothing about the place that was written last.
type flushError struct{ error }

func (e flushError) Unwrap() error { return e.error }

// unit writes back what a unit contains. If the unit cannot be read, it writes zeroes to it, unless
// the drive took long to fail.
func (d *Disk) unit(u []byte, off int64) (good bool, err error) {
	before := d.failed
	good, err = d.try(func() error { _, err := d.dev.ReadAt(u, off); return err })
	if err != nil || d.o.ReadOnly {
		d.noteIf(!good && err == nil, off, len(u))
		return good, err
	}
	if !good {
		if d.failed-before > slowTry {
			d.noteIf(true, off, len(u))
			return false, nil
		}
		clear(u)
	}
	good, err = d.try(func() error { _, err := d.dev.WriteAt(u, off); return err })
	d.noteIf(!good && err == nil, off, len(u))
	return good, err
}

// confirm reads units again that were written.
func (d *Disk) confirm(sums map[int64]uint64, end int64) error {
	if d.o.ReadOnly || len(sums) == 0 {
		return nil
	}
	if err := d.dev.Sync(); err != nil {
		return err
	}
	for off, sum := range sums {
		u := d.buf[:min(metadata.UnitSize, end-off)]
		good, err := d.try(func() error {
			if _, err := d.dev.ReadAt(u, off); err != nil {
				return err
			}
			if xxhash.Sum64(u) != sum {
				return errOther
			}
			return nil
		})
		if err != nil {
			return err
		}
		d.noteIf(!good, off, len(u))
	}
	return nil
}

// try does something once, and reports whether it succeeded. If it fails for another reason than
// the medium, it is tried again for a while. After that the failure is an error.
func (d *Disk) try(f func() error) (good bool, err error) {
	for n := 1; ; n++ {
		begun := d.o.Now()
		err := f()
		if err == nil {
			return true, nil
		}
		var flush flushError
		if errors.As(err, &flush) {
			return false, err
		}
		var errno syscall.Errno
		if errors.As(err, &errno) && metadata.Classify(int32(errno)) == metadata.ClassMedium {
			if d.failed += d.o.Now().Sub(begun); d.failed > giveUpAfter {
				return false, fmt.Errorf("%w: they took %s, and %d are known so far; name them "+
					"with --badblocks, or use another disk",
					ErrSlow, d.failed.Round(time.Second), d.units)
			}
			return false, nil
		}
		if n == pathTries {
			return false, fmt.Errorf("%w: %w; check its cable, its power and its health, then do "+
				"the same again", metadata.ErrPath, err)
		}
		d.o.Pause(pathPause)
	}
}

func (d *Disk) noteIf(bad bool, off int64, n int) {
	if bad {
		d.note(badblocks.Range{Start: off, End: off + int64(n)})
	}
}

func (d *Disk) note(r badblocks.Range) {
	d.bad = append(d.bad, r)
	d.units += int((r.End - r.Start + metadata.UnitSize - 1) / metadata.UnitSize)
}
