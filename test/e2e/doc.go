// Package e2e tests the program as a whole, as a user meets it: the binary
// bin/ublk-remap, its verbs, exit codes and JSON, under a real kernel and over
// disks that fail. It has no code of its own, only tests; make test-vm runs
// them in guests with Debian's kernels, and plain go test where the machine
// itself has ublk.
//
// # How a test goes
//
// A [fault disk] is made: a loop device under a dm table with error extents,
// null_blk with bad sectors, or scsi_debug with medium errors. create writes
// the metadata while the disk is still good, then the disk goes bad in places
// that are chosen by the layout (data, displaced head, spare region, logs) and
// by a seed, which is logged. start serves it, fio and file systems use it, and what
// they read is compared with what was there.
//
// Every set that a test creates is stopped when the test ends, and then
// `ublk-remap metadata check` must exit 0 on it. Every wait has a limit; past it the
// watchdog prints the state of all tasks, the kernel's log and the server's.
//
// # Which combinations
//
// TestMatrix crosses disk, block size, queues, copy mode and file system. By
// itself it takes a choice in which every pair of values occurs; with
// UBLK_REMAP_FULL set (make test-vm-full) it takes all.
package e2e
