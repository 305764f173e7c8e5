// Package host is this machine as the command sees it: the devices that run here and the disks
// that carry sets, with or without a living server.
//
// It finds a device by what people call it ([Host.Lookup]), lists them all ([Host.Running],
// [FindUnrecorded]), says how each of them is doing ([Host.Status], [Host.StatusOf]), ends one
// ([Host.Stop]), and opens the disks of a set that nobody serves ([OpenToRead], [OpenToRepair],
// [OpenToRelease]). What serves a device is the server's business, not this package's.
//
// It never prints, and it knows no flags: what a person should know while something takes long,
// or what could not be looked at, goes to the functions of [Host]. It writes nothing to a disk.
// It removes devices and files of the runtime directory only in Stop, and devices in
// [Remove].
//
// # Where it looks
//
//	runtime records (control)  ─┐
//	locks of names (control)   ─┼─► who has a name, which device, which disk ─► Status, Stop
//	the server's socket        ─┤
//	the driver (ublk.Control)  ─┘   devices without a record are known by their tag
//	superblocks (host/set)     ───► which disk belongs to a tag, a name, a UUID
//
// A record says what was true when its server wrote it. Whether that server lives is asked of
// the lock of its name, and where that does not tell, of the kernel.
//
// # When is a server dead?
//
// Its process number says so in its own pid namespace only: a server in a container, or one
// whose files in /run were removed, cannot be seen and serves anyway. What counts is
// whether anybody has the server's end of the device ([ublk.Served]). A living server has it.
// So has a dead one until its last I/O has ended, which can take minutes on a disk that takes as
// long over a bad sector. The first must be left alone. The second is waited for ([AwaitDead]):
// until its I/O has ended, neither the device nor the disk may be touched.
package host
