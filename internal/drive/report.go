package drive

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// Report is what smartctl prints of the health of a disk.
type Report struct {
	Disk   string // path
	Output []byte // JSON
	Err    error  // why there is no output
}

// reportWait is how long a drive may take over its report. It is many commands, and a drive that
// fails can be slow to answer.
const reportWait = 30 * time.Second

// Reports returns a report for each disk below these devices: below partitions, device mapper and
// MD. It returns when ctx ends.
func (h *Host) Reports(ctx context.Context, paths []string) []Report {
	disks := h.disksBelow(paths)
	all := make([]Report, len(disks))
	var ended sync.WaitGroup
	for i, d := range disks {
		ended.Go(func() { all[i] = h.reportOf(ctx, d.path()) })
	}
	ended.Wait()
	return all
}

// unknownBridge is what smartctl says of a USB disk whose bridge it does not know. Most of them
// pass ATA commands on all the same (SCSI/ATA Translation).
var unknownBridge = []byte("Unknown USB bridge")

func (h *Host) reportOf(ctx context.Context, path string) Report {
	r := Report{Disk: path}
	r.Output, r.Err = h.ask(ctx, reportWait, "--json", "-x", path)
	if r.Err == nil && bytes.Contains(r.Output, unknownBridge) {
		if out, err := h.ask(ctx, reportWait, "--json", "-x", "-d", "sat", path); err == nil {
			r.Output = out
		}
	}
	return r
}
