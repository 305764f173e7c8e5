package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// Geometry is what a device says about itself. Sizes and limits are in bytes. 0 means that the
// device did not say.
type Geometry struct {
	Size          int64
	LogicalBlock  int // 512 … 4096: the granularity of direct I/O
	PhysicalBlock int // at least LogicalBlock
	IOMin         int // preferred smallest I/O
	IOOpt         int // preferred I/O size, 0 if there is none
	MemoryAlign   int // alignment that direct I/O buffers need, at least 4
	Rotational    bool
	ReadOnly      bool
	// FUA: the device, and each device that it is made of, writes through its cache if asked to.
	// Otherwise the kernel replaces such a write with a write and a flush, with one result for
	// both.
	FUA bool

	DiscardGranularity int64 // 0: cannot discard
	DiscardMax         int64 // largest single discard
	DiscardAlignment   int64
	WriteZeroesMax     int64 // 0: the device has no write-zeroes of its own
	ZeroRange          bool  // fallocate(2) can zero a range, if necessary by writing zeroes
	VirtBoundary       uint64
	MaxSegments        int
	MaxSegmentSize     int64
}

// defaultFileBlock is the block size for a regular file whose file system does not tell its
// alignment of direct I/O. It is large enough for every disk.
const defaultFileBlock = 4096

// maxBlock is the largest block size that the remap units allow.
const maxBlock = 4096

// geometryOf returns the geometry of an open device or file. brief is as in Options.
func geometryOf(f *os.File, st *unix.Stat_t, brief bool) (Geometry, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fileGeometry(f, st)
	}
	g, err := blockGeometry(f)
	if err == nil && !brief {
		g.limits(f, st.Rdev)
	}
	if err != nil {
		return g, err
	}
	return g, g.check()
}

// blockGeometry asks the device by ioctl (include/uapi/linux/fs.h).
func blockGeometry(f *os.File) (Geometry, error) {
	fd := int(f.Fd())
	var g Geometry
	size, err := ioctlUint64(fd, unix.BLKGETSIZE64)
	if err != nil {
		return g, fmt.Errorf("ask for the size: %w", err)
	}
	g.Size = int64(size)
	for _, ask := range []struct {
		name string
		req  uint
		to   *int
	}{
		{"logical block size", unix.BLKSSZGET, &g.LogicalBlock},
		{"physical block size", unix.BLKPBSZGET, &g.PhysicalBlock},
		{"minimum I/O size", unix.BLKIOMIN, &g.IOMin},
		{"optimal I/O size", unix.BLKIOOPT, &g.IOOpt},
	} {
		v, err := unix.IoctlGetUint32(fd, ask.req)
		if err != nil {
			return g, fmt.Errorf("ask for the %s: %w", ask.name, err)
		}
		*ask.to = int(v)
	}
	if v, err := unix.IoctlGetUint32(fd, unix.BLKROGET); err == nil {
		g.ReadOnly = v != 0
	}
	if v, err := ioctlUint16(fd, unix.BLKROTATIONAL); err == nil {
		g.Rotational = v != 0
	}
	// Kernels before 6.x that do not tell a mask require 511.
	g.MemoryAlign = g.LogicalBlock
	return g, nil
}

// limits reads the rest from sysfs (Documentation/ABI/stable/sysfs-block).
func (g *Geometry) limits(f *os.File, rdev uint64) {
	q := queueDir(rdev)
	g.FUA = hasFUA(q, maxStack)
	g.DiscardGranularity = sysfs.Int(q, "discard_granularity")
	g.DiscardMax = sysfs.Int(q, "discard_max_bytes")
	if g.DiscardMax == 0 {
		g.DiscardGranularity = 0
	}
	g.WriteZeroesMax = sysfs.Int(q, "write_zeroes_max_bytes")
	g.ZeroRange = true // blkdev_issue_zeroout writes zeroes where the device has no command for it
	g.VirtBoundary = uint64(sysfs.Int(q, "virt_boundary_mask"))
	g.MaxSegments = int(sysfs.Int(q, "max_segments"))
	g.MaxSegmentSize = sysfs.Int(q, "max_segment_size")
	if v := sysfs.Int(sysDir(rdev), "discard_alignment"); v > 0 {
		g.DiscardAlignment = v
	}
	// It is a mask.
	if v, ok := sysfs.Lookup(q, "dma_alignment"); ok && v >= 0 && v < 1<<16 {
		g.MemoryAlign = int(v) + 1
	} else if mem, _, ok := directAlign(int(f.Fd())); ok {
		g.MemoryAlign = mem
	}
}

// fileGeometry describes a regular file. Its block size is the alignment that its file system
// requires for direct I/O (statx, STATX_DIOALIGN, Linux 6.1).
func fileGeometry(f *os.File, st *unix.Stat_t) (Geometry, error) {
	g := Geometry{Size: st.Size, LogicalBlock: defaultFileBlock, MemoryAlign: defaultFileBlock}
	if mem, off, ok := directAlign(int(f.Fd())); ok {
		g.LogicalBlock = max(off, 512)
		g.MemoryAlign = max(mem, 4)
	}
	g.PhysicalBlock = max(g.LogicalBlock, 4096)
	g.IOMin = g.PhysicalBlock
	// Holes are punched in blocks of the file system.
	g.DiscardGranularity = max(int64(st.Blksize), int64(g.LogicalBlock))
	g.DiscardMax = 1 << 30
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil && slices.Contains(zeroRangeTypes,
		int64(fs.Type)) {
		g.ZeroRange, g.WriteZeroesMax = true, 1<<30
	}
	return g, g.check()
}

// zeroRangeTypes are the file systems that are known to have FALLOC_FL_ZERO_RANGE. A test of it
// would change the file. On other file systems, such as tmpfs and NFS, zeroes are written.
var zeroRangeTypes = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC}

// Punches reports whether holes can be punched in the device, if it is a file. It tries that behind
// the end of the file, where there is no data. A file system that cannot punch holes says so only
// then.
func (d *Device) Punches() bool {
	const page = 1 << 16
	if d.block {
		return true
	}
	err := unix.Fallocate(d.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		(d.geo.Size+page-1)/page*page, page)
	return !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS)
}

func (g *Geometry) check() error {
	if g.LogicalBlock < 512 || g.LogicalBlock > maxBlock || g.LogicalBlock&(g.LogicalBlock-1) != 0 {
		return fmt.Errorf("%w: block size %d, supported are 512 to %d", ErrAlignment,
			g.LogicalBlock, maxBlock)
	}
	g.PhysicalBlock = max(g.PhysicalBlock, g.LogicalBlock)
	g.IOMin = max(g.IOMin, g.PhysicalBlock)
	return nil
}

// directAlign asks for the alignment of direct I/O. ok is false if neither the kernel nor the file
// system tells it.
func directAlign(fd int) (mem, off int, ok bool) {
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx); err != nil {
		return 0, 0, false
	}
	if sx.Mask&unix.STATX_DIOALIGN == 0 || sx.Dio_offset_align == 0 {
		return 0, 0, false
	}
	return int(sx.Dio_mem_align), int(sx.Dio_offset_align), true
}

// sysDir is the sysfs directory of a block device.
func sysDir(rdev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// queueDir is the directory of a block device's queue limits. A partition has the limits of its
// disk.
func queueDir(rdev uint64) string {
	d, err := filepath.EvalSymlinks(sysDir(rdev))
	if err != nil {
		return ""
	}
	return queueOf(d)
}

// queueOf is queueDir for the sysfs directory of a disk or a partition.
func queueOf(dir string) string {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, "queue")
}

// maxStack is how many stacked devices (device mapper, MD) are examined at most.
const maxStack = 8

// hasFUA reports whether all devices of a stack have FUA. FUA of the top device is not enough:
// device mapper says that it has FUA if any device below has it, and the kernel then splits the
// write in two operations at the device that lacks it. It also does not count that the cache is
// written through now (queue/write_cache), because that can be changed at any time.
func hasFUA(queue string, depth int) bool {
	if sysfs.Int(queue, "fua") != 1 || depth == 0 {
		return false
	}
	below, _ := filepath.Glob(filepath.Join(filepath.Dir(queue), "slaves", "*"))
	for _, link := range below {
		d, err := filepath.EvalSymlinks(link)
		if err != nil || !hasFUA(queueOf(d), depth-1) {
			return false
		}
	}
	return true
}
