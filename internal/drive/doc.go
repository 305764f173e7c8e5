// Package drive limits how long a disk tries a sector that it cannot read or write.
//
// A consumer drive may try for two minutes. The kernel gives up after 30 seconds, aborts the
// command and resets the link, which disturbs every request of that disk. So the drive is told to
// give up earlier, by its SCT error recovery control, which smartctl (smartmontools) sets. For a
// drive without that control, the kernel's limit is raised (the timeout of the SCSI device). The
// drive then gives up first, and the link is not reset. mdadm has a udev rule for the same purpose.
//
// Both settings belong to the whole disk, and several sets can be on its partitions. So there is
// one file for each disk in the runtime directory. It says what was there before, what was set, and
// which sets want it. It is written before anything changes. When the last set ends, the disk gets
// its old settings back, even if a server or a command died in between. A value that somebody else
// has changed since stays.
//
// The package does no I/O on the disk itself, and does not wait for a program that hangs: smartctl
// has a time limit, and the package goes on without it after that.
package drive
