// Package health says how a disk is doing, from what the drive says of itself (SMART, NVMe and SCSI
// logs as smartctl --json prints them) and from what the server of its set has seen.
//
// The result is a verdict in words with its reasons, never a score. The rules are in verdict.go.
// They are those by which storage engineers replace drives:
//
//   - the drive's own verdict (SMART status, NVMe critical warning) is taken for a reason to
//     replace it;
//   - sectors that are pending, reallocated or were reported as uncorrectable predict failures
//     (Pinheiro, Weber, Barroso, "Failure Trends in a Large Disk Drive Population", FAST 2007, and
//     the drive statistics that Backblaze publishes);
//   - errors of the link (UDMA CRC) are those of a cable or a backplane, not of the medium;
//   - normalized values of attributes mean something only against the drive's own threshold.
//
// The package does no I/O.
package health
