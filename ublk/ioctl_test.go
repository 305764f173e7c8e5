package ublk_test

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl passes a pair of numbers.
func ioctl(f *os.File, op uint, arg *[2]uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(op), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
