// Package coordinator binds the remap.Arbiter and the metadata.Committer of a device.
//
// The Arbiter decides what changes in the remap table, and the Committer makes changes
// durable. Neither knows the other. A [Coordinator] passes the changes from the one to the
// other and the outcomes back, and it carries out what both want from the disks. The server
// drives it with threads and system calls, the simulator with simulated disks: it is the
// same code.
//
//	             Receive                           commits
//	engines  ───────────────►   ┌─────────────┐ ───────────► ┌───────────────┐
//	(queues) ◄───────────────   │ Arbiter     │              │ Committer     │
//	           Driver.Send      └─────────────┘ ◄─────────── └───────────────┘
//	                                │  outcomes, the table       │
//	                      transfers └──────────┬─────────────────┘ reads, durable writes
//	                                           ▼
//	                                      operations ──► Driver.Issue: one read, write or flush
//	                                           ▲                     │
//	                                           └──────── Done ◄──────┘ its result; Tick: the time
//
// # What it does
//
// An operation is what the Arbiter or the Committer wants from a disk: all of a read, or
// all of a write, or a write that is durable. The Coordinator makes it of single reads,
// writes and flushes, and hands these to the Driver. After a short result it goes on with
// the rest. After an error it asks metadata.Retry whether to try again, and when. A write
// that is to be durable is followed by a flush of its own, and counts only if no other
// flush of the device has failed meanwhile (see remap.Flushing).
//
// Besides, it keeps the clock by which mirrors that could not be written are tried again, and it
// knows the order of a start, a stop and a leave: see [Coordinator.Open], [Coordinator.Stop] and
// [Coordinator.Leave].
//
// # What it never does
//
// It does no I/O, starts no goroutine, reads no clock of its own and sends on no channel:
// time and results are handed in, operations are handed out. It logs nothing; what an
// operator should know it tells the Driver. It is for a single goroutine. In the steady
// state it allocates nothing, for it must get on while memory is short.
package coordinator
