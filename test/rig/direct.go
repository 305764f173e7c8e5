package rig

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Direct is a block device opened for direct I/O: what is read comes from the
// device, and its errors come back as they are.
type Direct struct {
	fd   int
	Path string
	Size int64
}

// Open opens a block device; the caller closes, or the test's end does.
func Open(t testing.TB, path string) *Direct {
	t.Helper()
	return open(t, path, unix.O_RDWR)
}

// OpenToRead is Open for a device that may be read-only.
func OpenToRead(t testing.TB, path string) *Direct {
	t.Helper()
	return open(t, path, unix.O_RDONLY)
}

func open(t testing.TB, path string, flags int) *Direct {
	t.Helper()
	NeedBlockDevice(t, path)
	fd, err := unix.Open(path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	d := &Direct{fd: fd, Path: path}
	t.Cleanup(d.Close)
	if d.Size, err = unix.Seek(fd, 0, 2); err != nil {
		t.Fatal(err)
	}
	return d
}

// NeedBlockDevice ends the test unless path is a block device: many programs would make a regular
// file of that name and report success.
func NeedBlockDevice(t testing.TB, path string) {
	t.Helper()
	if st, err := os.Stat(path); err != nil ||
		st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		t.Fatalf("%q is no block device (%v)", path, err)
	}
}

// Close closes the device; more than once does no harm.
func (d *Direct) Close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

// Read and Write move the whole buffer, which Aligned made, or return an
// error, an errno wherever there is one.
func (d *Direct) Read(p []byte, off int64) error {
	return whole("read", len(p), func() (int, error) { return unix.Pread(d.fd, p, off) })
}

// Write writes the whole buffer.
func (d *Direct) Write(p []byte, off int64) error {
	return whole("write", len(p), func() (int, error) { return unix.Pwrite(d.fd, p, off) })
}

// Flush makes what was written durable.
func (d *Direct) Flush() error { return unix.Fdatasync(d.fd) }

func whole(what string, want int, f func() (int, error)) error {
	for {
		n, err := f()
		if err == syscall.EINTR {
			continue
		}
		if err == nil && n != want {
			return fmt.Errorf("short %s: %d of %d bytes", what, n, want)
		}
		return err
	}
}

// Step is how much Fill and Survey move at once.
const Step = 256 << 10

// Fill writes the pattern of a seed over [from, to).
func (d *Direct) Fill(t testing.TB, from, to int64, seed uint64) {
	t.Helper()
	buf := Aligned(Step)
	for off := from; off < to; off += Step {
		b := buf[:min(Step, to-off)]
		Pattern(b, off, seed)
		if err := d.Write(b, off); err != nil {
			t.Fatalf("write %d bytes at %d of %s: %v", len(b), off, d.Path, err)
		}
	}
}

// Survey reads [from, to), every block of it, in pieces that get smaller
// where they fail. What reads must be the pattern of the seed. It returns the
// blocks that do not read and fails unless their errno is want.
func (d *Direct) Survey(t testing.TB, from, to, blockSize int64, seed uint64,
	want syscall.Errno) []Extent {
	t.Helper()
	var bad []Extent
	buf := Aligned(Step)
	var look func(from, to int64)
	look = func(from, to int64) {
		b := buf[:to-from]
		// The buffer is overwritten, so that an answer without a read is noticed.
		for i := range b {
			b[i] = 0xa5
		}
		err := d.Read(b, from)
		switch {
		case err == nil:
			WantPattern(t, b, from, seed)
		case to-from > blockSize:
			mid := from + max((to-from)/2/blockSize, 1)*blockSize
			look(from, mid)
			look(mid, to)
		default:
			if err != want {
				t.Errorf("read of the block at %d of %s: %v, want %v", from, d.Path, err, want)
			}
			bad = append(bad, Extent{from, blockSize})
		}
	}
	for off := from; off < to; off += Step {
		look(off, min(off+Step, to))
	}
	return Merge(bad)
}

// Pattern fills b, which is for the bytes at off, a multiple of 8, with words that encode the seed
// and the place.
func Pattern(b []byte, off int64, seed uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], word(off+int64(i), seed))
	}
}

func word(off int64, seed uint64) uint64 { return seed<<48 ^ uint64(off)*0x9e3779b97f4a7c15 }

// CheckPattern returns an error that tells the first difference, unless b is what Pattern makes.
func CheckPattern(b []byte, off int64, seed uint64) error {
	for i := 0; i < len(b); i += 8 {
		if got, want := binary.LittleEndian.Uint64(b[i:]), word(off+int64(i), seed); got != want {
			return fmt.Errorf("wrong data at byte %d (of %d bytes at %d): %#x, want %#x",
				off+int64(i), len(b), off, got, want)
		}
	}
	return nil
}

// WantPattern fails the test, with the first difference, unless b is what Pattern makes.
func WantPattern(t testing.TB, b []byte, off int64, seed uint64) {
	t.Helper()
	if err := CheckPattern(b, off, seed); err != nil {
		t.Error(err)
	}
}

// Aligned returns n bytes that begin at a page.
func Aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
	return b[skip : skip+n : skip+n]
}
