// Package blockdev opens backing and spare devices and says what they are.
//
// It opens a block device, or a regular file in its place, for exclusive direct I/O ([Open]). It
// reads its geometry from ioctls, statx and sysfs ([Geometry]). It looks for what may already be on
// it: file systems, partition tables, RAID and volume-manager labels ([Detect]). When somebody else
// uses the device it names the users ([UsersOf]).
//
// Exclusive means O_EXCL for block devices and flock for regular files. The kernel refuses O_EXCL
// while the device is mounted, used as swap, or held by another driver or server. Both are released
// only when the last I/O of the previous holder has ended, even if that holder was killed. That is
// why a new server can trust what it reads. Open therefore waits, for a bounded time.
//
// Exclusive use excludes only those who ask for it. It does not exclude a loop device over a disk,
// a copy of the disk that is under way, or a virtual machine on it. So Open looks for those as
// well, and refuses what they use.
//
// The package never writes by itself, never unmounts or detaches anything, and keeps no state
// besides the open file. Unaligned reads go through an aligned buffer of their own. The caller must
// align writes.
package blockdev
