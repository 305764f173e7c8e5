// Package files says what a block of a device holds: which file, which metadata of a file system,
// or nothing.
//
// [Find] is asked about runs of blocks. It follows them through what lies on the device: partitions
// (sysfs), the targets linear, crypt and striped of device mapper (LVM, LUKS), loop devices. Where
// that ends it asks the file system:
//
//   - ext4 that is mounted: GETFSMAP tells free space and metadata; the data of files is found by
//     FIEMAP in one walk of the tree; debugfs tells the rest, such as the journal.
//   - xfs that is mounted: GETFSMAP tells all of it if the file system has a reverse map. One walk
//     of the tree finds the names of the inodes. Without a reverse map FIEMAP tells the files.
//   - btrfs that is mounted: its tree of device extents leads to the logical address, its tree of
//     extents to the extent, LOGICAL_INO to the files.
//   - ext4 and xfs that are not mounted: dumpe2fs and debugfs, and xfs_db, which only read.
//
// What cannot be told has the owner unknown and the reason. A block that belongs to two files is
// told twice.
//
// The package writes nothing. Mounts in other mount namespaces are looked into through /proc.
//
// What ext4, xfs and btrfs tell while they are mounted holds for one state of them: if they change
// meanwhile they are asked again. If they always change, a note says so. Everything else is as of
// the moment at which it was asked.
package files
