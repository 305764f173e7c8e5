package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// node is a block device.
type node struct {
	dev  uint64
	path string
	size int64 // bytes
}

func sysDir(dev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
}

// nodeAt returns the block device at a path.
func nodeAt(path string) (node, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return node{}, fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return node{}, fmt.Errorf("%s: %w", path, unix.ENOTBLK)
	}
	n := nodeOf(st.Rdev)
	n.path = path
	return n, nil
}

// nodeOf returns the block device of a number, with the path that people know it by.
func nodeOf(dev uint64) node {
	dir := sysDir(dev)
	n := node{dev: dev, size: number(dir, "size") * 512}
	if name := text(dir, "dm/name"); name != "" {
		// udev escapes what it does not like in names; the kernel's own name is there always.
		if path := "/dev/mapper/" + name; sameDevice(path, dev) {
			n.path = path
			return n
		}
	}
	if target, err := filepath.EvalSymlinks(dir); err == nil {
		n.path = "/dev/" + strings.ReplaceAll(filepath.Base(target), "!", "/")
	}
	return n
}

func sameDevice(path string, dev uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == dev
}

// text reads an attribute of sysfs; it is empty if there is none.
func text(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b))
}

// number reads an attribute of sysfs that is a number; it is 0 if there is none.
func number(dir, name string) int64 {
	n, err := strconv.ParseInt(text(dir, name), 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		return 0
	}
	return n
}

// devIn reads the device number of a directory of sysfs.
func devIn(dir string) (uint64, bool) { return mountinfo.ParseDev(text(dir, "dev")) }

// part is a partition: its device, and where it lies on its disk, in bytes.
type part struct {
	node
	start int64
}

// partsOf returns the partitions of a disk.
func partsOf(dev uint64) (parts []part) {
	dir := sysDir(dev)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		if number(sub, "partition") == 0 {
			continue
		}
		if d, ok := devIn(sub); ok {
			parts = append(parts, part{nodeOf(d), number(sub, "start") * 512})
		}
	}
	return parts
}

// holdersOf returns the devices that drivers have made on top of a device.
func holdersOf(dev uint64) (on []node) {
	dir := filepath.Join(sysDir(dev), "holders")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if d, ok := devIn(filepath.Join(dir, e.Name())); ok {
			on = append(on, nodeOf(d))
		}
	}
	return on
}

// loop is a loop device over a block device: which bytes of it it shows.
type loop struct {
	node
	start int64
}

// loopsOver returns the loop devices over a block device.
func loopsOver(dev uint64) (loops []loop) {
	dirs, _ := filepath.Glob("/sys/block/loop*/loop")
	for _, dir := range dirs {
		if !sameDevice(text(dir, "backing_file"), dev) {
			continue
		}
		if d, ok := devIn(filepath.Dir(dir)); ok {
			loops = append(loops, loop{nodeOf(d), number(dir, "offset")})
		}
	}
	return loops
}
