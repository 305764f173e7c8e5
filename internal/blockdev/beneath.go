package blockdev

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// Beneath lists the block devices below the file system at path, and all devices below those, by
// their names in /sys/class/block: disks of partitions, devices below device-mapper and MD, the
// devices of a btrfs, and the devices below a loop device's file. The list is empty for a file
// system without a device, and for a path that does not exist.
func Beneath(path string) []string {
	b := &beneath{seen: map[string]bool{}}
	b.fileSystem(path, 0)
	return b.names
}

// BeneathDevice lists the block device at path and all devices below it, as [Beneath] does.
func BeneathDevice(path string) []string {
	var st unix.Stat_t
	b := &beneath{seen: map[string]bool{}}
	if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		b.device(nameOf(st.Rdev), 0)
	}
	return b.names
}

type beneath struct {
	names []string
	seen  map[string]bool
}

func (b *beneath) fileSystem(path string, depth int) {
	var st unix.Stat_t
	if depth == maxBelow || unix.Stat(path, &st) != nil {
		return
	}
	if unix.Major(st.Dev) != 0 {
		b.device(nameOf(st.Dev), depth)
		return
	}
	// The number does not belong to a device, because btrfs gives each subvolume a number of its
	// own.
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return
	}
	var source, point string
	mounts, _ := mountinfo.Read(mountinfo.Self)
	for _, m := range mounts {
		// A later mount on the same point covers the earlier one.
		within := m.Point == "/" || real == m.Point || strings.HasPrefix(real, m.Point+"/")
		if within && len(m.Point) >= len(point) {
			source, point = m.Source, m.Point
		}
	}
	if unix.Stat(source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		b.device(nameOf(st.Rdev), depth)
	}
}

// nameOf returns a device's name in /sys/class/block, or the empty string.
func nameOf(rdev uint64) string {
	dir, err := filepath.EvalSymlinks(sysDir(rdev))
	if err != nil {
		return ""
	}
	return filepath.Base(dir)
}

// device adds a device and the devices below it.
func (b *beneath) device(name string, depth int) {
	if name == "" || b.seen[name] || depth == maxBelow {
		return
	}
	b.seen[name] = true
	b.names = append(b.names, name)
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/class/block", name))
	if err != nil {
		return
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		b.device(filepath.Base(filepath.Dir(dir)), depth+1)
	}
	slaves, _ := os.ReadDir(filepath.Join(dir, "slaves"))
	for _, s := range slaves {
		b.device(s.Name(), depth+1)
	}
	if rdev, ok := devOf(dir); ok {
		if file, _, ok := loopFile(rdev); ok {
			b.fileSystem(file, depth+1)
		}
	}
	// A btrfs can have other devices.
	same, _ := filepath.Glob("/sys/fs/btrfs/*/devices/" + name)
	for _, s := range same {
		all, _ := os.ReadDir(filepath.Dir(s))
		for _, d := range all {
			b.device(d.Name(), depth+1)
		}
	}
}
