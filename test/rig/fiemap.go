package rig

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extents says where on its device the first bytes of a file lie, of its first
// 256 extents (FIEMAP, Documentation/filesystems/fiemap.rst).
func Extents(t testing.TB, f *os.File, length int64) []Extent {
	t.Helper()
	const fiemap = 0xc020660b
	var m struct {
		start, length                  uint64
		flags, mapped, count, reserved uint32
		extents                        [256]struct {
			logical, physical, length uint64
			_                         [2]uint64
			flags                     uint32
			_                         [3]uint32
		}
	}
	m.length, m.count = uint64(length), uint32(len(m.extents))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap,
		uintptr(unsafe.Pointer(&m))); errno != 0 {
		t.Fatalf("FIEMAP: %v", errno)
	}
	var out []Extent
	for _, e := range m.extents[:m.mapped] {
		out = append(out, Extent{Start: int64(e.physical), Length: int64(e.length)})
	}
	return out
}

// Reserve makes a file of that size whose blocks are allocated and not yet
// written, and says where on the device they are.
func Reserve(t testing.TB, path string, size int64) []Extent {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out := Extents(t, f, size)
	n := int64(0)
	for _, e := range out {
		n += e.Length
	}
	if n != size {
		t.Fatalf("FIEMAP tells of %d bytes of %d: %v", n, size, out)
	}
	return out
}
