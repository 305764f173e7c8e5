// Package sim runs the machines that decide about data — remap.Engine, remap.Arbiter and
// metadata.Committer, the very code of the server — over simulated disks, with faults, reorderings,
// power cuts and SIGKILLs, and compares all that can be seen with a model.
//
// # A run
//
// One seed is one run, and determines all of it: the layout (with or without a spare device, blocks
// of 512 to 4096 bytes, spare regions of 3 to 200 units, tables that are nearly full), queues and
// depth, the policy, which faults there are and when, and the order of events. A run creates a set,
// perhaps after tries that a power cut ended. Then it goes through a few rounds. A round begins
// with a start, which may be cut too. Then comes a workload of reads, writes, write-zeroes,
// discards and flushes that meet in few units. Meanwhile an operator moves blocks, fills bad ones
// from a backup, asks for checkpoints and closes the breaker. A round ends with a power cut,
// SIGKILL, an orderly stop, or a leave: the server gives the device to the next one, as in an
// upgrade. After the last round everything is read once more, and at the end metadata.Check judges
// the disks.
//
// Everything that may happen next — a step of an operation on a disk, its completion, a message
// between an engine and the arbiter, a write of the committer — is an event in one pool, and the
// seed picks from that pool. Only messages between the same two keep their order. Some classes of
// events are put off for a while from time to time, so that rare interleavings occur. Nothing reads
// a clock: time is a number that events advance. It jumps to the next deadline when nothing else is
// left.
//
// # The disks
//
// A disk has a volatile cache: what was written without FUA is durable only when a flush that began
// later has ended. A flush that fails may drop what is cached. Then each sector may hold anything
// that a power cut could leave, and only the failed flush tells of it. Half of the disks have no
// FUA. For them a FUA write is what the kernel makes of it: a write and a flush, and the result of
// the flush is the answer to the write. After a flush has failed, a flush of the user may be
// answered as good only if it began after one was answered as failed (promise 15). A FUA write that
// was answered as good must be there, whatever was dropped while it was under way. A power cut
// leaves, of each sector of 512 bytes, what was durable or any version cached since. Of each write
// under way, also with FUA, it leaves any of the sectors. Faults are of the kinds that null_blk,
// dm-error, scsi_debug and real disks show. There are errors on read, on write, and on both. They
// last for ever, a number of times, or until the sector is written. There are writes that succeed
// and do not read, also of a whole physical block of a disk that shows smaller ones, and of spare
// units. There are errors that take up to two minutes. A write that fails has taken effect in some
// of its sectors. In addition, operations fail on their path, fail for lack of resources, or end
// short; flushes fail, or are not carried out for lack of resources; whole disks vanish and return;
// most of the spare region is bad; spare units in use go bad block by block while users read them;
// mirrors of the metadata have latent errors or refuse writes.
//
// # The model
//
// Each sector of user data names itself and the write that it comes from. So data in the wrong
// place, stale spare units and buffers that nobody filled are recognized. For every exported sector
// the model knows what a read may return and what a power cut may leave (see model). An answer must
// fit this. What is found on the disks after each load, past all faults, must fit it too.
//
// Errors are judged too. A read fails only if one of its operations failed, or a block is lost, or
// a block is pending and failed a moment ago. After such a failure every block of the read was
// read, or is pending or lost. No heal is committed whose data was not read back. A write whose
// medium fails must not fail as long as the breaker is closed and a spare unit is free. No block is
// ever lost that was not lost from the beginning. Blocks become pending, and spare units are
// retired, only if their medium failed: the answers of a spare device that was away do not count.
// Where one spare unit in eight is good, one is found. What an operator moves was read at its new
// place. While the backing is missing, no commit becomes durable, and so no spare unit is used up.
// Nothing hangs. After a leave the Committer has nothing under way, and the disks hold the live
// table. At quiet moments the allocator agrees with the map, no claim, operation or deferred free
// is left over, and a load finds the live table on the disks.
//
// Metadata must survive more than that. Before a start, copies of the disks are damaged and
// exchanged. A load must then say the same as before, or refuse; probe.go has the exact rules.
// While a run goes on, one mirror may have sectors that cannot be read for a while. Or it may lose
// or misdirect writes that it reports as good.
//
// In a third of the runs a background reader reads blocks by internal requests, as a scrub will.
// The results are judged like the answers to users; reader.go has the rules.
//
// # Scenarios
//
// Random runs seldom cut the power at the one write that matters. Scenarios are short sequences of
// actions about one thing: a heal, a mirror that fails and comes back, a relocation, a start.
// Exhaust interrupts them at every write, in several ways, and interrupts their recoveries again.
// The scenario runs once: each interruption is a fork of disks, model and users.
//
// # A focus
//
// Ordinary runs meet some things only rarely, and among others. A Focus makes all runs be about one
// of them: fills, imports, or mirrors that fail. Some planted bugs need such runs; TestFocus makes
// them without a bug.
//
// # To repeat a failure
//
// A failure names its seed:
//
// go test ./test/sim -run 'TestSim$' -v -seed=N
//
// This prints each step. -start and -seeds choose a range of seeds; make sim SEEDS=N is the long
// run. Shrink makes a failing run smaller; -set repeats what it has found.
//
// Bug plants bugs, to show that the checks can fail: in the drivers around the machines, or in what
// a load sees of the disks. A few bugs can only be inside of the machines. They need the build tag
// planted; without it there is no trace of them.
package sim
