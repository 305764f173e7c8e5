package metadata

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"unsafe"
)

// PageSize is what all offline I/O of this package is a multiple of, and what
// its buffers are aligned to in memory: enough for direct I/O on any device
// with blocks of up to 4 KiB.
const PageSize = 4096

// Device is a disk, or a file, for offline work: create, load, check, dump.
// Offsets and lengths are multiples of 4096 and buffers begin at a 4096-byte
// boundary in memory, so that an implementation may use direct I/O. ReadAt
// and WriteAt move the whole buffer or return an error.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns once all writes that have ended are durable.
	Sync() error
	// Size is the size in bytes. It does not change.
	Size() int64
}

// AlignedBytes returns n zeroed bytes that begin at a 4096-byte boundary, as
// direct I/O needs. The memory belongs to the garbage collector, which does
// not move it.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+PageSize)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (PageSize - 1))
	return b[off : off+n : off+n]
}

func roundUp[T ~int | ~int64 | ~uint64](n, to T) T   { return (n + to - 1) / to * to }
func roundDown[T ~int | ~int64 | ~uint64](n, to T) T { return n / to * to }

// nameOf is what a device is called in messages: its path, if it has one, and otherwise its number,
// counted from 1.
func nameOf(d Device, index int) string {
	if named, ok := unwrapped(d).(interface{ Path() string }); ok {
		return named.Path()
	}
	return fmt.Sprintf("device %d", index+1)
}

// errReadBack is the error for a write that succeeded, but reads back as something else.
var errReadBack = errors.New("what was written reads back as something else")

// writePage writes b, makes it durable and reads it into back to compare.
func writePage(dev Device, b, back []byte, off int64) error {
	if _, err := dev.WriteAt(b, off); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return err
	}
	if _, err := dev.ReadAt(back[:len(b)], off); err != nil {
		return err
	}
	if !slices.Equal(back[:len(b)], b) {
		return errReadBack
	}
	return nil
}

func syncAll(devs []Device) error {
	for i, d := range devs {
		if err := d.Sync(); err != nil {
			return fmt.Errorf("syncing %s: %w", nameOf(d, i), err)
		}
	}
	return nil
}
