package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// lockBelow keeps others away from what a loop device is over, as Open keeps them away from the
// device itself. The same blocks can be reached through the file, and through every other loop
// device over it, and the kernel sees no conflict in that. It returns the descriptors that keep
// others away. For any other device it returns none. The error is ErrBusy if somebody uses the
// blocks in another way. For a partition, or a loop device over a part of a file, others can still
// use the other parts.
func lockBelow(rdev uint64, how, depth int) (held []int, err error) {
	path, part, ok := loopFile(rdev)
	if !ok || depth == maxBelow {
		return nil, nil
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil, nil // deleted, or not visible from here
	}
	block := st.Mode&unix.S_IFMT == unix.S_IFBLK
	if !block && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil
	}
	if part {
		how = unix.LOCK_SH
	}
	if err := unusedBeside(rdev, path, part, &st); err != nil {
		return nil, err
	}
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if block && !part {
		flags |= unix.O_EXCL
	}
	fd, err := unix.Open(path, flags, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %s, which it is over, is in use", ErrBusy, path)
	case err != nil:
		return nil, nil // nobody else can open it either, or they have it exclusively
	}
	if block {
		held, err = lockBelow(st.Rdev, how, depth+1)
	} else if err = lockFile(fd, how); err != nil {
		err = fmt.Errorf("%w: %s", err, path)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return append(held, fd), nil
}

// unusedBeside returns ErrBusy if another loop device over path than rdev is in use. Two loop
// devices that show one part each do not exclude each other.
func unusedBeside(rdev uint64, path string, part bool, st *unix.Stat_t) error {
	for _, other := range loopsOver(st) {
		var so unix.Stat_t
		if unix.Stat(other, &so) != nil || so.Rdev == wholeOf(rdev) {
			continue
		}
		if _, otherPart, _ := loopFile(so.Rdev); part && otherPart {
			continue
		}
		if HeldExclusively(other) {
			return fmt.Errorf("%w: its %s is also that of %s, which is in use", ErrBusy, path,
				other)
		}
	}
	return nil
}

// loopFile returns the path of what a loop device, or the disk of a partition, is over, and whether
// the loop device shows only a part of that. ok is false for any other device, and for a loop
// device over nothing.
func loopFile(rdev uint64) (path string, part, ok bool) {
	dir, err := filepath.EvalSymlinks(sysDir(rdev))
	if err != nil {
		return "", false, false
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir, part = filepath.Dir(dir), true
	}
	b, err := os.ReadFile(filepath.Join(dir, "loop/backing_file"))
	if err != nil {
		return "", false, false
	}
	loop := filepath.Join(dir, "loop")
	part = part || sysfs.Int(loop, "offset") != 0 || sysfs.Int(loop, "sizelimit") != 0
	return strings.TrimSuffix(string(b), "\n"), part, true
}

// wholeOf returns the device number of a partition's disk. It returns any other number unchanged.
func wholeOf(rdev uint64) uint64 {
	dir, err := filepath.EvalSymlinks(sysDir(rdev))
	if err != nil {
		return rdev
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil {
		return rdev
	}
	if whole, ok := devOf(filepath.Dir(dir)); ok {
		return whole
	}
	return rdev
}

// SameDisk reports whether two paths lead to one block device, through any nodes, or to one file.
func SameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil &&
		x.Mode&unix.S_IFMT == y.Mode&unix.S_IFMT && sameFile(&x, &y)
}

// sameFile reports whether two paths led to one file, or to one block device through any nodes.
func sameFile(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT == unix.S_IFBLK && b.Mode&unix.S_IFMT == unix.S_IFBLK {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// RestsOn reports whether the file system of a file or a directory lies on one of these devices: on
// the device itself, on a partition of it, or on what device mapper, MD or a loop device makes of
// it. Devices that do not exist are left out. The error is that of looking at path.
func RestsOn(path string, devices []string) (bool, error) {
	var at unix.Stat_t
	if err := unix.Stat(path, &at); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	on := map[uint64]bool{}
	for _, d := range devices {
		var st unix.Stat_t
		if unix.Stat(d, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			on[st.Rdev] = true
		}
	}
	return restsOn(at.Dev, on, 0), nil
}

// maxResting is how many devices restsOn follows below each other.
const maxResting = 16

// restsOn reports whether a device is one of those in on, or is made of one. A number that is no
// block device's, as of tmpfs or of a network file system, is not.
func restsOn(dev uint64, on map[uint64]bool, depth int) bool {
	if on[dev] {
		return true
	}
	if depth == maxResting {
		return false
	}
	if whole := wholeOf(dev); whole != dev && restsOn(whole, on, depth+1) {
		return true
	}
	if path, _, ok := loopFile(dev); ok {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			below := st.Dev
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				below = st.Rdev
			}
			if restsOn(below, on, depth+1) {
				return true
			}
		}
	}
	slaves := filepath.Join(sysDir(dev), "slaves")
	below, _ := os.ReadDir(slaves)
	for _, e := range below {
		if d, ok := devOf(filepath.Join(slaves, e.Name())); ok && restsOn(d, on, depth+1) {
			return true
		}
	}
	return false
}
