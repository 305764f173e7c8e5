// Package coordinator binds the remap.Arbiter and the metadata.Committer of a device.
//
// The Arbiter decides what changes in the remap table, and the Committer makes changes durable.
// Neither knows the other. A [Coordinator] passes the changes from the one to the other and the
// outcomes back, and it carries out what both ask of the disks. The server drives it with threads
// and system calls, the simulator with simulated disks: it is the same code.
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
// An operation is one thing that the Arbiter or the Committer asks of a disk: all of a read, all of
// a write, or a write that is durable. The Coordinator builds it from single reads, writes and
// flushes, and hands these to the Driver. After a short result it continues with the rest. After an
// error it asks metadata.Retry whether to retry, and when. After a write that must be durable it
// issues a flush of its own. Such a write counts only if no other flush of the device has failed
// meanwhile (see remap.Flushing).
//
// The Coordinator also keeps the clock by which mirrors that could not be written are retried. It
// knows the order of a start, a stop and a leave: see [Coordinator.Open], [Coordinator.Stop] and
// [Coordinator.Leave].
//
// # What it never does
//
// It does no I/O, starts no goroutine, reads no clock of its own and sends on no channel. Its
// caller hands in the time and the results, and it hands out operations. It logs nothing; it tells
// the Driver what an operator should know. It is for a single goroutine. In the steady state it
// allocates nothing, because it must go on working while memory is short.
package coordinator
