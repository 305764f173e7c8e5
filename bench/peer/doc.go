// Package peer makes the devices that are measured side by side: a null_blk disk in
// memory, and on such a disk each the kernel's loop driver with direct I/O,
// dm-linear, ublksrv's loop target and ublk-remap.
//
// Every device gets a disk of its own, so that none finds what another one has left in memory. All
// exist at the same time. A device without requests should cost nothing; the idle figures of its
// server's threads show whether that is so.
//
// It needs root, and changes the machine: modules, null_blk and loop devices,
// device-mapper devices whose names begin with "bench". All of it goes away with Close.
package peer
