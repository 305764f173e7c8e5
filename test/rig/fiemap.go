package rig

import (
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
