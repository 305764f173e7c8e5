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
// The queue threads allocate nothing and take no lock as long as nothing fails: only requests that
// meet a bad or a busy block touch the mailboxes. The keeper is one goroutine that owns the
// Coordinator, which binds Arbiter and Committer. Everything else asks the keeper by a closure
// ([keeper.call]). The workers carry out what the Coordinator hands out, one system call each. They
// do not interpret results.
//
// Order matters at the start and at the stop. A start first opens the backing and spare devices
// exclusively, so that a dead server's last I/O has ended. Then it reads the metadata. Then it
// raises the epoch, durably. Then it makes or recovers the ublk device. Only then do requests come.
// A stop first calls STOP_DEV, which waits until every request is answered; the keeper still runs
// then. Then come a last checkpoint and a flush of the devices. Then the devices are closed. Then
// the ublk device is deleted.
//
// The package logs from the keeper and from control goroutines only, never
// from a queue thread.
package server
