package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is a block device opened for direct I/O: what is read comes from the
// device, and its errors come back as they are.
type direct struct {
	fd   int
	path string
	size int64
}

// openDirect opens a block device; it is closed when the test ends.
func openDirect(t testing.TB, path string) *direct {
	t.Helper()
	d := openUntilClosed(t, path)
	t.Cleanup(d.close)
	return d
}

// openUntilClosed is openDirect for a device that is to go away before the
// test ends: the caller closes.
func openUntilClosed(t testing.TB, path string) *direct {
	t.Helper()
	needBlockDevice(t, path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	d := &direct{fd: fd, path: path}
	if d.size, err = unix.Seek(fd, 0, 2); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *direct) close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

// needBlockDevice ends the test unless path is a block device: many a program
// would make a regular file of that name and be content.
func needBlockDevice(t testing.TB, path string) {
	t.Helper()
	if st, err := os.Stat(path); err != nil {
		t.Fatal(err)
	} else if st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		t.Fatalf("%s is no block device: %v", path, st.Mode())
	}
}

// read and write move the whole buffer or return an error, an errno wherever
// there is one.
func (d *direct) read(p []byte, off int64) error {
	return whole("read", len(p), func() (int, error) { return unix.Pread(d.fd, p, off) })
}

func (d *direct) write(p []byte, off int64) error {
	return whole("write", len(p), func() (int, error) { return unix.Pwrite(d.fd, p, off) })
}

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

// step is how much the helpers below move at once.
const step = 256 << 10

// fill writes the pattern of a seed over [from, to).
func (d *direct) fill(t testing.TB, from, to int64, seed uint64) {
	t.Helper()
	buf := aligned(step)
	for off := from; off < to; off += step {
		b := buf[:min(step, to-off)]
		pattern(b, off, seed)
		if err := d.write(b, off); err != nil {
			t.Fatalf("write %d bytes at %d of %s: %v", len(b), off, d.path, err)
		}
	}
}

// survey reads [from, to), every block of it, in pieces that get smaller
// where they fail. What reads must be the pattern of the seed. It returns the
// blocks that do not read and fails unless their errno is want.
func (d *direct) survey(t testing.TB, from, to, blockSize int64, seed uint64,
	want syscall.Errno) []extent {
	t.Helper()
	var bad []extent
	buf := aligned(step)
	var look func(from, to int64)
	look = func(from, to int64) {
		b := buf[:to-from]
		// Whoever answers without reading is found out.
		for i := range b {
			b[i] = 0xa5
		}
		err := d.read(b, from)
		switch {
		case err == nil:
			checkPattern(t, b, from, seed)
		case to-from > blockSize:
			mid := from + max((to-from)/2/blockSize, 1)*blockSize
			look(from, mid)
			look(mid, to)
		default:
			if err != want {
				t.Errorf("read of the block at %d of %s: %v, want %v", from, d.path, err, want)
			}
			bad = append(bad, extent{from, blockSize})
		}
	}
	for off := from; off < to; off += step {
		look(off, min(off+step, to))
	}
	return merge(bad)
}

// pattern fills b, which is for the bytes at off, a multiple of 512, with
// words that tell seed and place.
func pattern(b []byte, off int64, seed uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], word(off+int64(i), seed))
	}
}

func word(off int64, seed uint64) uint64 { return seed<<48 ^ uint64(off)*0x9e3779b97f4a7c15 }

// checkPattern fails the test, with the first difference, unless b is what
// pattern makes.
func checkPattern(t testing.TB, b []byte, off int64, seed uint64) {
	t.Helper()
	for i := 0; i < len(b); i += 8 {
		if got, want := binary.LittleEndian.Uint64(b[i:]), word(off+int64(i), seed); got != want {
			t.Errorf("wrong data at byte %d (of %d bytes at %d): %#x, want %#x", off+int64(i),
				len(b), off, got, want)
			return
		}
	}
}

// aligned returns n bytes that begin at a page.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
	return b[skip : skip+n : skip+n]
}

// flush makes what was written durable.
func (d *direct) flush() error { return unix.Fdatasync(d.fd) }
