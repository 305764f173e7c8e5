// Package logwrites reads the logs of the device mapper's log-writes target and replays them onto
// an image up to any point. The image then holds what a disk holds whose power was cut at that
// point.
//
// # The format
//
// (drivers/md/dm-log-writes.c, Documentation/admin-guide/device-mapper/log-writes.rst.)
// A log counts in sectors, whose size its superblock tells: the logical block size of
// the device that was logged. All numbers are little-endian.
//
//	sector 0: superblock         then, one after another, the entries
//	 0 u64 magic "jsfwshr"       | header, 1 sector | data, nr_sectors sectors |
//	 8 u64 version, 1             0 u64 sector
//	16 u64 number of entries      8 u64 nr_sectors
//	24 u32 sector size           16 u64 flags: 1 FLUSH, 2 FUA, 4 DISCARD, 8 MARK, 16 METADATA
//	                             24 u64 length of the mark
//	                             32     the mark
//
// A discard has nr_sectors and no data. A mark lies in the header's own sector.
//
// # What the order of the entries means
//
// The target logs a FUA write and a flush when they have completed, and a mark at once. Any other
// write or discard is held back when it has completed, and gets into the log right before
// the next flush that was *submitted* after that. So:
//
//   - All that stands before entry n had completed when n completed, and whatever
//     stands before a flush, but for FUA writes, was flushed by it.
//   - The run of plain writes right before a flush, its splice, may have been in the disk's
//     volatile cache until that flush completed, in any part: [Log.Splice].
//   - Where plain writes stand among the FUA writes of the same time is not known: a
//     plain write is logged later than the FUA writes that completed after it did.
//     To cut there, write a *stamp*: a plain write to a reserved place on the logged
//     device, followed by a mark. Plain writes logged before the stamp had completed when
//     it completed, [Log.Before].
//
// A write that fails is logged as if it had succeeded: the target's end_io does
// not look at the status. So bad sectors have to be above the target, not below
// it, for the log to tell what reached the medium.
package logwrites
