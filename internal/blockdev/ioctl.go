package blockdev

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlUint64 is an ioctl that fills a 64-bit word, such as BLKGETSIZE64.
func ioctlUint64(fd int, req uint) (uint64, error) {
	var v uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req),
		uintptr(unsafe.Pointer(&v))); e != 0 {
		return 0, e
	}
	return v, nil
}

// ioctlUint16 is an ioctl that fills a 16-bit word, such as BLKROTATIONAL.
func ioctlUint16(fd int, req uint) (uint16, error) {
	var v uint16
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req),
		uintptr(unsafe.Pointer(&v))); e != 0 {
		return 0, e
	}
	return v, nil
}

// Rescan makes the kernel read the partition table of a disk again (BLKRRPART). It returns no error
// for a device that cannot have partitions. The error is that of the system call: EBUSY if a
// partition is in use.
func (d *Device) Rescan() error {
	if !d.block {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), unix.BLKRRPART, 0)
	switch errno {
	case 0, unix.EINVAL, unix.ENOTTY, unix.EOPNOTSUPP:
		return nil
	}
	return fmt.Errorf("%s: read the partition table again: %w", d.path, errno)
}
