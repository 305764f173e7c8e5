// Package breaker makes disks fail in every way that a kernel can make them fail, and checks what
// the program does then: which errno the user of the device sees, how many spare units are used,
// how many requests fail, whether the breaker opens and why, and whether everything is as it was
// once the fault is over. It has no code of its own, only tests; with -v they end with the table of
// docs/FAULTS.md.
//
// # Two kinds of faults
//
// TestErrno gives a few sectors each errno that a disk can answer, for writes and for reads: from a
// ublk device that the test serves, and as the sense data of a SCSI disk. Only errors that say that
// the medium is bad may use spare units.
//
// TestFault makes a whole disk fail: it vanishes, is deleted, goes offline, becomes read-only,
// flaps, loses its spare region or its metadata, fails everywhere.
//
// # The ledger
//
// All data is written by a [ledger], which remembers for every sector what was acknowledged
// and what was refused: after a refused write a sector may hold the old data or the
// new, nothing else. It is compared while the fault lasts, when it is over, and after
// a new start; every test ends with `metadata check`.
package breaker
