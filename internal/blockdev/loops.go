package blockdev

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// loopInfo is a loop device that is over something.
type loopInfo struct {
	path string // of its node
	rdev uint64
	// What it is over, as the driver knows it. A path can lead elsewhere, because it is one of
	// another mount namespace or the file was renamed. rdevice is 0 if that is a regular file.
	device, inode, rdevice uint64
	extent                 extent // that it shows
}

// allLoops lists the machine's loop devices.
func allLoops() []loopInfo {
	dirs, _ := filepath.Glob("/sys/block/loop*/loop")
	var all []loopInfo
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		l := loopInfo{path: "/dev/" + name}
		rdev, ok := devOf(filepath.Dir(dir))
		if !ok {
			continue
		}
		l.rdev = rdev
		if l.ask() || l.read(dir) {
			all = append(all, l)
		}
	}
	return all
}

// ask asks the driver (LOOP_GET_STATUS64, include/uapi/linux/loop.h).
func (l *loopInfo) ask() bool {
	fd, err := unix.Open(l.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Rdev != l.rdev {
		return false
	}
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return false
	}
	l.device, l.inode, l.rdevice = info.Device, info.Inode, info.Rdevice
	l.shows(info.Offset, info.Sizelimit)
	return true
}

// read reads what sysfs tells, for a loop device without a node.
func (l *loopInfo) read(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "backing_file"))
	if err != nil {
		return false
	}
	var st unix.Stat_t
	if unix.Stat(strings.TrimSuffix(string(b), "\n"), &st) != nil {
		return false
	}
	l.device, l.inode = st.Dev, st.Ino
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		l.rdevice = st.Rdev
	}
	l.shows(uint64(sysfs.Int(dir, "offset")), uint64(sysfs.Int(dir, "sizelimit")))
	return true
}

func (l *loopInfo) shows(offset, limit uint64) {
	l.extent = extent{start: offset}
	if limit != 0 {
		l.extent.end = offset + limit
	}
}

// over reports whether the loop device is over the file or block device that st describes.
func (l *loopInfo) over(st *unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return l.rdevice == st.Rdev
	}
	return l.rdevice == 0 && l.device == st.Dev && l.inode == st.Ino
}

// sameBacking reports whether both loop devices are over the same file or device.
func (l *loopInfo) sameBacking(o *loopInfo) bool {
	if l.rdevice != 0 || o.rdevice != 0 {
		return l.rdevice == o.rdevice
	}
	return l.device == o.device && l.inode == o.inode
}

// loopsOver returns the paths of the loop devices over a file or block device.
func loopsOver(file *unix.Stat_t) []string {
	var paths []string
	for _, l := range allLoops() {
		if l.over(file) {
			paths = append(paths, l.path)
		}
	}
	return paths
}
