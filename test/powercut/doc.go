// Package powercut cuts the power. It logs every write that reaches the disks (dm-log-writes) while
// a file system with fsync-ing writers works on a device whose disk has bad sectors. Then it makes
// the contents that the disks would have if the power had failed at some write or flush, and
// starts, mounts and checks them. It has no code of its own, only tests.
//
// # The stack
//
//	file system, writers that tell what was acknowledged
//	/dev/ublkbN
//	dm table: linear, and bad extents onto an error device  } one such stack for the
//	dm-log-writes ── log                                    } backing disk and, in some
//	loop device on a sparse file                            } tests, one for the spare device
//
// The bad extents are *above* the log: dm-log-writes logs a write that failed as if it had
// succeeded (TestFailedWritesAreLogged), so below them the log tells exactly what reached
// the medium. They are many and are first written while the log runs, so that heals, with
// their commits, are everywhere in it. Some are bad before mkfs, so that the journal and
// other metadata of the file system live in the spare region too.
//
// # Where the power is cut
//
// See test/logwrites for what a log tells. On one disk
//
//   - after any FUA write or flush, with nothing that was not flushed;
//   - right before a flush completes, with any part of what it was to flush: writes lost,
//     whole, or torn at 512 bytes (or the disk's block), in any order;
//   - in the middle of a FUA write, any of its sectors written;
//   - where a writer's fsync returned, with any part of the writes that had completed by
//     then and were not flushed: what they are is known by a stamp, a plain write to a
//     reserved block.
//
// Two disks have a log each. Both are cut where both were suspended and stamped: with
// nothing in flight, their caches in any state.
//
// # What must hold
//
// `start` serves what is left; the file system mounts, replaying its journal; every file
// whose fsync returned before the cut is there and whole; a write that was acknowledged as
// durable (O_DSYNC) is there; a file replaced by rename is the old one or the new one. The
// file system's check finds nothing after that, `stop` works, and `metadata check` exits 0.
//
// The subtest ignoredFlushes makes sure that the checks can fail: the disk is replayed as if it
// had ignored flushes.
package powercut
