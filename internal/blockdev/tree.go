package blockdev

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
	"ublkremap/internal/sysfs"
)

// tree is the device or file whose users are searched, with every device through which its blocks
// can be reached.
type tree struct {
	block   bool
	file    unix.Stat_t // of a regular file
	root    *node
	nodes   map[uint64]*node // by device number
	loops   []loopInfo       // all of this machine
	stacked []User           // the devices on top
}

// node is one device.
type node struct {
	path  string
	part  bool // a partition of the device that was asked about
	above bool // another device, on top of it or beside it
	file  bool // a regular file, not a device
}

func (n *node) user(kind UserKind, path string) User {
	return User{Kind: kind, Device: n.path, Path: path, part: n.part, above: n.above, file: n.file}
}

// newTree collects the devices. It returns nil if the path leads to neither a block device nor a
// file.
func newTree(path string, st *unix.Stat_t) *tree {
	t := &tree{nodes: map[uint64]*node{}, loops: allLoops(), root: &node{path: path}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		t.file, t.root.file = *st, true
		t.climbLoops(t.root, func(l *loopInfo) bool { return l.over(st) })
	case unix.S_IFBLK:
		t.block = true
		t.climb(st.Rdev, t.root)
		t.beside(st.Rdev)
	default:
		return nil
	}
	return t
}

// match returns the node of the device or file that st describes, or nil if it is not in the tree.
func (t *tree) match(st *unix.Stat_t) *node {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFBLK:
		return t.nodes[st.Rdev]
	case !t.block && st.Mode&unix.S_IFMT == unix.S_IFREG && sameFile(st, &t.file):
		return t.root
	}
	return nil
}

// alone reports whether the blocks of a device can be reached through the device itself and its
// partitions only.
func (t *tree) alone() bool {
	for _, n := range t.nodes {
		if n.above {
			return false
		}
	}
	return t.block
}

// climb adds a device, its partitions and everything on top of them.
func (t *tree) climb(rdev uint64, n *node) {
	if t.nodes[rdev] != nil {
		return
	}
	t.nodes[rdev] = n
	t.climbHolders(rdev, n)
	t.climbLoops(n, func(l *loopInfo) bool { return l.rdevice == rdev })
	for dev, name := range partitions(rdev) {
		part := &node{path: "/dev/" + name, part: !n.above, above: n.above}
		if t.nodes[dev] != nil {
			continue
		}
		t.nodes[dev] = part
		t.climbHolders(dev, part)
		t.climbLoops(part, func(l *loopInfo) bool { return l.rdevice == dev })
	}
}

// climbHolders adds the drivers on top of a device (Documentation/ABI: holders is a directory of
// links).
func (t *tree) climbHolders(rdev uint64, n *node) {
	holders, _ := os.ReadDir(filepath.Join(sysDir(rdev), "holders"))
	for _, h := range holders {
		path := "/dev/" + strings.ReplaceAll(h.Name(), "!", "/")
		t.stacked = append(t.stacked, n.user(UserHolder, path))
		if dev, ok := devOf(filepath.Join("/sys/class/block", h.Name())); ok {
			t.climb(dev, &node{path: path, above: true})
		}
	}
}

func (t *tree) climbLoops(n *node, over func(*loopInfo) bool) {
	for i := range t.loops {
		if l := &t.loops[i]; over(l) {
			t.stacked = append(t.stacked, n.user(UserLoop, l.path))
			t.climb(l.rdev, &node{path: l.path, above: true})
		}
	}
}

// maxBelow is how many devices may lie below each other.
const maxBelow = 8

// beside adds the loop devices through which the same blocks can be reached from below: other loop
// devices over the file of a loop device, and those over the disk of a partition or of a driver.
// Such a loop device is not a user of the blocks by itself, but its users are.
func (t *tree) beside(rdev uint64) { t.descend(rdev, wholeExtent, 0) }

func (t *tree) descend(rdev uint64, e extent, depth int) {
	if depth == maxBelow {
		return
	}
	if whole := wholeOf(rdev); whole != rdev {
		e = e.within(partExtent(rdev))
		t.neighbours(e, func(l *loopInfo) bool { return l.rdevice == whole })
		t.descend(whole, e, depth+1)
		return
	}
	for i := range t.loops {
		l := &t.loops[i]
		if l.rdev != rdev {
			continue
		}
		e = e.within(l.extent)
		t.neighbours(e, func(o *loopInfo) bool { return o.rdev != rdev && o.sameBacking(l) })
		if l.rdevice != 0 {
			t.descend(l.rdevice, e, depth+1)
		}
		return
	}
	// It is not known where in the devices below it the blocks of another driver lie.
	slaves, _ := os.ReadDir(filepath.Join(sysDir(rdev), "slaves"))
	for _, s := range slaves {
		dev, ok := devOf(filepath.Join("/sys/class/block", s.Name()))
		if !ok {
			continue
		}
		t.neighbours(wholeExtent, func(l *loopInfo) bool { return l.rdevice == dev })
		t.descend(dev, wholeExtent, depth+1)
	}
}

// neighbours adds loop devices that show blocks of an extent.
func (t *tree) neighbours(e extent, is func(*loopInfo) bool) {
	for i := range t.loops {
		l := &t.loops[i]
		if t.nodes[l.rdev] == nil && is(l) && l.extent.meets(e) {
			t.climb(l.rdev, &node{path: l.path, above: true})
		}
	}
}

// extent is a run of bytes. end 0 means the end of the device, whatever that is.
type extent struct{ start, end uint64 }

var wholeExtent = extent{}

// within returns where the bytes e of a device lie in another device, if the device is the part o
// of that.
func (e extent) within(o extent) extent {
	in := extent{o.start + e.start, o.end}
	if e.end != 0 && (o.end == 0 || o.start+e.end < o.end) {
		in.end = o.start + e.end
	}
	return in
}

func (e extent) meets(o extent) bool {
	return (e.end == 0 || o.start < e.end) && (o.end == 0 || e.start < o.end)
}

// partExtent returns where a partition lies. sysfs counts in sectors of 512 bytes.
func partExtent(rdev uint64) extent {
	start, size := sysfs.Int(sysDir(rdev), "start"), sysfs.Int(sysDir(rdev), "size")
	if start < 0 || size <= 0 {
		return wholeExtent
	}
	return extent{uint64(start) * 512, uint64(start+size) * 512}
}

// devOf reads the device number of a device in sysfs.
func devOf(dir string) (uint64, bool) {
	text, err := sysfs.Text(dir, "dev")
	if err != nil {
		return 0, false
	}
	return mountinfo.ParseDev(text)
}

// partitions returns the partitions of a disk by device number.
func partitions(rdev uint64) map[uint64]string {
	found := map[uint64]string{}
	entries, _ := os.ReadDir(sysDir(rdev))
	for _, e := range entries {
		dir := filepath.Join(sysDir(rdev), e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil {
			continue
		}
		if dev, ok := devOf(dir); ok {
			found[dev] = e.Name()
		}
	}
	return found
}
