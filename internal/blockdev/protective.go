package blockdev

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// remapMagic is what a superblock of this program begins with (metadata/FORMAT.md). Its first 512
// bytes end like a partition table with one partition, from the second block of the disk on.
var remapMagic = []byte("BLKRMPS4")

// protectiveType is the type of that partition in the table: it holds no file system.
const protectiveType = 0xda

// protectiveOf returns the path of the disk if a device is the partition by which that disk shows
// that it carries metadata of this program, and "" for any other device. Other partitions of such
// a disk do not exist, unless somebody wrote a new table there.
func protectiveOf(rdev uint64) string {
	start := sysfs.Int(sysDir(rdev), "start") * 512
	if whole := wholeOf(rdev); whole == rdev || start <= 0 || start > maxBlock {
		return ""
	}
	dir, err := filepath.EvalSymlinks(sysDir(rdev))
	if err != nil {
		return ""
	}
	disk := filepath.Join("/dev", strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "!", "/"))
	b, err := readFirst(disk)
	if err != nil || !protects(b) {
		return ""
	}
	return disk
}

// protects reports whether the first bytes of a disk are a superblock whose partition table has the
// partition.
func protects(b []byte) bool {
	return bytes.HasPrefix(b, remapMagic) && b[510] == 0x55 && b[511] == 0xaa &&
		b[446+4] == protectiveType && binary.LittleEndian.Uint32(b[446+8:]) == 1
}

// readFirst reads the first 4096 bytes of a disk from the disk itself: the page cache may hold what
// was there before.
func readFirst(disk string) (_ []byte, err error) {
	fd, err := unix.Open(disk, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), disk)
	defer func() { _ = f.Close() }()
	buf, err := Aligned(maxBlock)
	if err != nil {
		return nil, err
	}
	defer func() { _ = Free(buf) }()
	if _, err := f.ReadAt(buf, 0); err != nil {
		return nil, err
	}
	return bytes.Clone(buf), nil
}
