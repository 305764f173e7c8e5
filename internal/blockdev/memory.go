package blockdev

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Aligned returns n zeroed bytes at a page boundary. They are fit for direct I/O with every device.
// The memory is mapped, so it does not move, and the garbage collector does not own it. It lives
// until Free.
func Aligned(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", n, err)
	}
	return b, nil
}

// Free gives back memory from Aligned. Nothing may use it afterwards.
func Free(b []byte) error { return unix.Munmap(b) }

func aligned(p []byte, off int64, block int) bool {
	return off%int64(block) == 0 && len(p)%block == 0 &&
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))%4096 == 0
}
