package blockdev

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlUint64 is an ioctl that fills a 64-bit word, such as BLKGETSIZE64.
func ioctlUint64(fd int, req uint) (uint64, error) {
	var v uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&v))); e != 0 {
		return 0, e
	}
	return v, nil
}

// ioctlUint16 is an ioctl that fills a 16-bit word, such as BLKROTATIONAL.
func ioctlUint16(fd int, req uint) (uint16, error) {
	var v uint16
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&v))); e != 0 {
		return 0, e
	}
	return v, nil
}
