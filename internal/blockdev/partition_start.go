package blockdev

import (
	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// PartitionStart returns at which byte of its disk the partition at path begins. It is 0 for what
// is no partition.
func PartitionStart(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0
	}
	return max(0, sysfs.Int(sysDir(st.Rdev), "start")) * 512
}
