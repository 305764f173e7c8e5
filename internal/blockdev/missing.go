package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Missing says why the device is not there any more, or no longer has need bytes, in words that
// name it. The result is empty if the device is there as far as is known. Missing does no I/O to
// the device. A disk that was removed has no size any more and no entry in sysfs, while the
// descriptor stays valid. A file is judged by its size only.
func (d *Device) Missing(need int64) string {
	size, err := d.sizeNow()
	switch {
	case err != nil:
		return fmt.Sprintf("%s is gone: its size: %v", d.path, err)
	case size == 0:
		return d.path + " is gone: it has no size any more"
	case size < need:
		return fmt.Sprintf("%s has shrunk: it has %d bytes, %d are in use", d.path, size, need)
	case d.block && unlisted(d.rdev):
		return d.path + " is gone: the kernel does not list it any more"
	}
	return ""
}

// sizeNow returns the current size in bytes, as the kernel tells it.
func (d *Device) sizeNow() (int64, error) {
	if d.block {
		n, err := ioctlUint64(d.fd, unix.BLKGETSIZE64)
		return int64(n), err
	}
	var st unix.Stat_t
	err := unix.Fstat(d.fd, &st)
	return st.Size, err
}

// unlisted reports whether sysfs is there but has no entry of the block device.
func unlisted(rdev uint64) bool {
	const all = "/sys/dev/block"
	_, err := os.Lstat(fmt.Sprintf("%s/%d:%d", all, unix.Major(rdev), unix.Minor(rdev)))
	if !errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, err = os.Stat(all)
	return err == nil
}
