// Package blockdev opens backing and spare devices and says what they are.
//
// It opens a block device, or a regular file in its place, for exclusive
// direct I/O ([Open]), reads its geometry from ioctls, statx and sysfs
// ([Geometry]), and looks for what may already live on it: file systems,
// partition tables, RAID and volume-manager labels ([Detect]). When somebody
// else uses the device it names who does ([Users]).
//
// Exclusive means O_EXCL for block devices, which the kernel refuses while
// the device is mounted, swapped to, or held by another driver or server, and
// flock for regular files. Both are let go only once the last I/O of the
// previous holder has ended, even if that holder was killed: that is what lets
// a new server trust what it reads (DESIGN §3, promise 9). Open therefore
// waits, for a bounded time.
//
// Exclusive use keeps away only who asks for it. A loop device over a disk, a copy of it under way,
// or a virtual machine on it do not; so Open looks for those as well, and refuses what they use.
//
// The package never writes by itself, never unmounts or detaches anything, and
// keeps no state besides the open file. Unaligned reads go through an aligned
// buffer of their own; writes must be aligned by the caller.
package blockdev
