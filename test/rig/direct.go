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
	// Anything else than a block device would be made into a regular file by
	// those who open to create.
	if st, err := os.Stat(path); err != nil ||
		st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		t.Fatalf("%s is no block device (%v)", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
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

// Pattern fills b, which is for the bytes at off, with words that tell seed
// and place.
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

// Aligned returns n bytes that begin at a page.
func Aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
	return b[skip : skip+n : skip+n]
}
