package drive

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"sync"
	"time"

	"ublkremap/internal/sysfs"
)

// Report is what smartctl prints of the health of a disk.
type Report struct {
	Path   string // of the disk
	Disk   string // the path, and the type that smartctl was told
	Output []byte // JSON
	Err    error  // why there is no output
}

// reportWait is how long a drive may take over its report. It is many commands, and a drive that
// fails can be slow to answer.
const reportWait = 30 * time.Second

// ReportOptions says how disks are asked.
type ReportOptions struct {
	// Types are what smartctl is to take a disk for (-d), such as megaraid,3. Each gives a report.
	// Empty: it finds out by itself.
	Types []string
	// Wake also asks disks that sleep, which spins them up.
	Wake bool
}

// ErrAsleep is why there is no report of a disk that sleeps.
var ErrAsleep = errors.New("it sleeps, and was not woken")

// Reports returns a report for each disk below these devices: below partitions, device mapper and
// MD. It returns when ctx ends.
func (h *Host) Reports(ctx context.Context, paths []string, o ReportOptions) []Report {
	types := o.Types
	if len(types) == 0 {
		types = []string{""}
	}
	disks := h.disksBelow(paths)
	var ended sync.WaitGroup
	all := make([]Report, len(disks)*len(types))
	for i, d := range disks {
		ended.Go(func() {
			// One after the other, because they share a controller.
			for k, kind := range types {
				all[i*len(types)+k] = h.reportOf(ctx, d, kind, o.Wake)
			}
		})
	}
	ended.Wait()
	return all
}

// unknownBridge is what smartctl says of a USB disk whose bridge it does not know. Most of them
// pass ATA commands on all the same (SCSI/ATA Translation).
var unknownBridge = []byte("Unknown USB bridge")

// asleep is what smartctl -n standby says of a drive that sleeps: "Device is in STANDBY mode,
// exit(2)".
var asleep = regexp.MustCompile(`Device is in (STANDBY|SLEEP)[^"]* mode, exit`)

func (h *Host) reportOf(ctx context.Context, d disk, kind string, wake bool) Report {
	r := Report{Path: d.path(), Disk: d.path()}
	if kind != "" {
		r.Disk += " (" + kind + ")"
	}
	// smartctl wakes a disk that the kernel has put to sleep before it looks whether that sleeps.
	if state, _ := sysfs.Text(d.dir, "device/power/runtime_status"); !wake && state == "suspended" {
		r.Err = ErrAsleep
		return r
	}
	args := []string{"--json", "-x"}
	if !wake {
		args = append(args, "-n", "standby")
	}
	ask := func(kind string) ([]byte, error) {
		all := args
		if kind != "" {
			all = append(slices.Clone(args), "-d", kind)
		}
		return h.ask(ctx, reportWait, append(all, d.path())...)
	}
	r.Output, r.Err = ask(kind)
	if r.Err == nil && kind == "" && bytes.Contains(r.Output, unknownBridge) {
		if out, err := ask("sat"); err == nil && !bytes.Contains(out, badAnswer) {
			r.Output = out
		}
	}
	if r.Err == nil && !wake && asleep.Match(r.Output) {
		r.Output, r.Err = nil, ErrAsleep
	}
	return r
}

// badAnswer is in what smartctl prints of a bridge that does not pass ATA commands on. What it said
// before says more to people.
var badAnswer = []byte("Read Device Identity failed")
