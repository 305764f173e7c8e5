package files

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// mount is a mount of any mount namespace.
type mount struct {
	mountinfo.Mount
	dev  uint64 // of the block device; for btrfs that is not Mount.Dev
	proc string // the directory in /proc of a process of another namespace; empty: it is our own
}

// root is the path by which this process reaches the mount.
func (m *mount) root() string {
	if m.proc == "" {
		return m.Point
	}
	return filepath.Join(m.proc, "root") + m.Point
}

// said describes the file system for Fact.Filesystem.
func (m *mount) said(device string) string {
	s := fmt.Sprintf("%s on %s, mounted on %s", m.Type, device, m.Point)
	if m.proc != "" {
		s += fmt.Sprintf(" in the mount namespace of process %s (%s)", filepath.Base(m.proc),
			comm(m.proc))
	}
	return s
}

func comm(proc string) string {
	b, _ := os.ReadFile(filepath.Join(proc, "comm"))
	return strings.TrimSpace(string(b))
}

// allMounts lists the mounts of all mount namespaces that a process in /proc is in, those of this
// process first.
func allMounts() []mount {
	var all []mount
	seen := map[string]bool{}
	add := func(proc, name string) {
		ns, err := os.Readlink(filepath.Join(proc, "ns/mnt"))
		if err != nil || seen[ns] {
			return
		}
		seen[ns] = true
		list, _ := mountinfo.Read(proc)
		for _, m := range list {
			all = append(all, mount{Mount: m, dev: blockDevice(&m), proc: name})
		}
	}
	add(mountinfo.Self, "")
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		add(proc, proc)
	}
	return all
}

// blockDevice returns the device number of what is mounted. btrfs has a number of its own; its
// source is asked instead. Only paths of devices are looked at: a look at a path on a dead network
// would not return.
func blockDevice(m *mountinfo.Mount) uint64 {
	if unix.Major(m.Dev) == 0 && strings.HasPrefix(m.Source, "/dev/") {
		var st unix.Stat_t
		if unix.Stat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return st.Rdev
		}
	}
	return m.Dev
}

// mountsOf returns the mounts of a device. Those that show the whole file system come first, and of
// these our own.
func (f *finder) mountsOf(dev uint64) []*mount {
	var of []*mount
	group := btrfsGroup(dev)
	for i := range f.mounts {
		m := &f.mounts[i]
		if m.dev == dev || m.Type == "btrfs" && slices.Contains(group, m.dev) {
			of = append(of, &f.mounts[i])
		}
	}
	slices.SortStableFunc(of, func(a, b *mount) int {
		return rank(a) - rank(b)
	})
	return of
}

// btrfsGroup returns the devices that form a mounted btrfs together with a device. Only one of them
// is the source of its mount (Documentation/ABI: /sys/fs/btrfs/UUID/devices has a link for each).
func btrfsGroup(dev uint64) []uint64 {
	dirs, _ := filepath.Glob("/sys/fs/btrfs/*/devices")
	for _, dir := range dirs {
		var group []uint64
		links, _ := os.ReadDir(dir)
		for _, l := range links {
			if d, ok := devIn(filepath.Join(dir, l.Name())); ok {
				group = append(group, d)
			}
		}
		if slices.Contains(group, dev) {
			return group
		}
	}
	return nil
}

func rank(m *mount) int {
	if m.Root == "/" {
		return 0
	}
	return 1
}

// openMount opens the root directory of a mount. clone says that mounts on top of its directories
// are not in the way.
func openMount(m *mount) (fd int, clone bool, err error) {
	dir, err := unix.Open(m.root(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("%s: %w", m.root(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil || st.Dev != m.Dev &&
		m.dev == m.Dev {
		_ = unix.Close(dir)
		return -1, false, fmt.Errorf("%s: something else is mounted over it", m.root())
	}
	tree, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|
		unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return dir, false, nil // of another namespace, or not root
	}
	fd, err = unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	_ = unix.Close(tree)
	if err != nil {
		return dir, false, nil
	}
	_ = unix.Close(dir)
	return fd, true, nil
}
