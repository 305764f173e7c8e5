package drive

import (
	"fmt"
	"strings"
	"time"

	"ublkremap/internal/control"
)

// Says puts into words what a disk does with a bad sector, such as "/dev/sda gives up after 7s (had
// no limit before)".
func Says(d control.Drive) string {
	var parts []string
	switch {
	case d.LimitS != nil && d.BeforeS != nil && *d.BeforeS != *d.LimitS:
		was := "had no limit before"
		if *d.BeforeS > 0 {
			was = "was " + span(*d.BeforeS)
		}
		parts = append(parts, fmt.Sprintf("gives up after %s (%s)", span(*d.LimitS), was))
	case d.LimitS != nil:
		parts = append(parts, "gives up after "+span(*d.LimitS))
	case d.KernelS == 0:
		return d.Disk + ": " + d.Note
	default:
		parts = append(parts, "no limit is set: "+d.Note)
	}
	switch {
	case d.KernelBeforeS != nil:
		parts = append(parts, fmt.Sprintf("the kernel waits %s for it (was %s)", span(d.KernelS),
			span(*d.KernelBeforeS)))
	case d.LimitS == nil:
		parts = append(parts, fmt.Sprintf("the kernel waits %s for it", span(d.KernelS)))
	}
	sep := " "
	if d.LimitS == nil {
		sep = ": "
	}
	return d.Disk + sep + strings.Join(parts, "; ")
}

func span(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}
