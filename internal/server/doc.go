// Package server serves one device: it has the threads and the system calls.
//
//	                queue thread, one per hardware queue          keeper, one per device
//	kernel ─ ublk.Queue ─► queue ─► remap.Engine ──mailbox──► coordinator.Coordinator
//	             ▲                       │       ◄──mailbox──       │       ▲
//	             └──── ring: I/O ◄───────┘        + Wakeup          ▼       │
//	                                                              workers: pread, pwrite,
//	                                                              fdatasync, each on a
//	                                                              thread of its own
//
// The queue threads allocate nothing and take no lock as long as nothing fails: mailboxes are
// touched only by requests that meet a bad or a busy block. The keeper is one goroutine that
// owns the Coordinator, which binds Arbiter and Committer; everything else asks it by a closure
// ([keeper.call]). The workers carry out what the Coordinator hands out, one system call each, and
// judge nothing.
//
// Order matters at both ends. Start: the backing and spare devices exclusively,
// so that a dead server's last I/O has ended; then the metadata; then the epoch
// is raised, durably; then the ublk device is made, or recovered; only then do
// requests come. Stop: STOP_DEV, which waits for every request to be answered,
// while the keeper still runs; then a last checkpoint, and a flush of the devices; then the
// devices are closed; then the ublk device is deleted.
//
// The package logs from the keeper and from control goroutines only, never
// from a queue thread.
package server
