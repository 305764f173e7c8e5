package drive

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// disk is a whole disk. The kernel knows of no devices that it is made of.
type disk struct {
	name string // as in /sys/block
	dir  string // in sysfs
	seq  string // which of the disks of this name since boot; empty if the kernel does not tell
}

func (d disk) path() string { return "/dev/" + strings.ReplaceAll(d.name, "!", "/") }

// maxBelow is how many devices may lie below each other.
const maxBelow = 8

// disksBelow returns the disks that the block devices at these paths are made of: below partitions,
// device mapper and MD. It leaves out paths that are not block devices, and loop devices, because
// the disk below a file also serves other files.
func (h *Host) disksBelow(paths []string) []disk {
	var all []disk
	for _, path := range paths {
		if dev := h.number(path); dev != "" {
			all = append(all, below(filepath.Join(h.sys, "dev/block", dev), maxBelow)...)
		}
	}
	slices.SortFunc(all, func(a, b disk) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(all, func(a, b disk) bool { return a.name == b.name })
}

// number returns the device number of a block device as sysfs writes it, or "" if the path is not a
// block device.
func number(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

func below(link string, depth int) []disk {
	dir, err := filepath.EvalSymlinks(link)
	if err != nil || depth == 0 {
		return nil
	}
	if exists(filepath.Join(dir, "partition")) {
		dir = filepath.Dir(dir)
	}
	if exists(filepath.Join(dir, "loop/backing_file")) {
		return nil
	}
	slaves, _ := os.ReadDir(filepath.Join(dir, "slaves"))
	if len(slaves) == 0 {
		d := disk{name: filepath.Base(dir), dir: dir}
		d.seq, _ = sysfs.Text(dir, "diskseq")
		return []disk{d}
	}
	var all []disk
	for _, s := range slaves {
		all = append(all, below(filepath.Join(dir, "slaves", s.Name()), depth-1)...)
	}
	return all
}

// why says why nothing can be set for a disk. It is empty for a SCSI disk. For the kernel all SATA,
// SAS and USB disks are SCSI disks.
func (d disk) why() string {
	switch {
	case exists(filepath.Join(d.dir, "device/timeout")):
		return ""
	case strings.HasPrefix(d.name, "nvme"):
		return "NVMe has no such limit"
	case strings.HasPrefix(d.name, "vd"):
		return "a virtual disk has no such limit"
	}
	return "this kind of disk has no such limit"
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
