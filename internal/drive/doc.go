// Package drive limits how long a disk tries a sector that it cannot read or write.
//
// A consumer drive may try for two minutes. The kernel gives up after 30 seconds by itself, aborts
// the command and resets the link, which disturbs every request of that disk. So the drive is told
// to give up earlier, by its SCT error recovery control, which smartctl (smartmontools) sets. A
// drive that has no such control gets more time from the kernel (the timeout of the SCSI device),
// so that it ends by itself and the link is left alone. mdadm has a udev rule for the same purpose.
//
// Both belong to the whole disk, and several sets can be on its partitions. So a file in the
// runtime directory, one for each disk, says what was there before, what was set, and which sets
// want it. It is written before anything changes. The last set that ends gives the disk back what
// it had, whatever died in between. If somebody else has changed a value since, that stays.
//
// Nothing here does I/O on the disk by itself, and nothing waits for a program that hangs: smartctl
// has a time limit and is left alone after it.
package drive
