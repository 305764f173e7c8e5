// Package host shows the command this machine: the devices that run here, and the disks that carry
// sets, with or without a living server.
//
// It finds a device by the names that people use for it ([Host.Lookup]), lists all devices
// ([Host.Running], [FindUnrecorded]), reports their state ([Host.Status], [Host.StatusOf]), ends
// one ([Host.Stop]), and opens the disks of a set that has no server ([OpenToRead], [OpenToRepair],
// [OpenToRelease]). Serving a device belongs to package server.
//
// It never prints, and it knows no flags. Progress of a long wait, and records that cannot be read,
// go to the functions of [Host]. It writes nothing to a disk. It removes devices and files of the
// runtime directory only in Stop, and devices in [Remove].
//
// # Where it looks
//
//	runtime records (control)  ─┐
//	locks of names (control)   ─┼─► who has a name, which device, which disk ─► Status, Stop
//	the server's socket        ─┤
//	the driver (ublk.Control)  ─┘   devices without a record are known by their tag
//	superblocks (host/set)     ───► which disk belongs to a tag, a name, a UUID
//
// A record says what was true when its server wrote it. The lock on the server's name says whether
// that server lives. If the lock does not decide it, the kernel is asked.
//
// # When is a server dead?
//
// The number of its process says so only in its own pid namespace. A server in a container, or one
// whose files in /run were removed, cannot be seen, but serves. What decides is whether any process
// has the server's end of the device ([ublk.Served]). A living server has it. A dead server has it
// until its last I/O has ended. That can take minutes if the disk takes minutes over a bad sector.
// A living server must be left alone. For a dead one [AwaitDead] waits: until its I/O has ended,
// neither the device nor the disk may be touched.
package host
