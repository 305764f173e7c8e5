package set

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// CheckNewest refuses a backing that is an older copy: some other block device
// here carries the same set and was started since, so that what was written
// since is missing on this one. sb is what Identify said of the device at path.
// The error is a *DeviceError that wraps metadata.ErrStale.
//
// Copies of the same epoch cannot be told apart, and devices that do not answer
// within findLimit are not heard.
func CheckNewest(ctx context.Context, path string, sb *metadata.Superblock) error {
	copies, _, err := search(ctx, findLimit, func(other *metadata.Superblock) bool {
		return other.DeviceIndex == 0 && other.UUID == sb.UUID && other.Epoch > sb.Epoch
	})
	if err != nil {
		return context.Cause(ctx) // what cannot be looked through says nothing
	}
	for _, c := range copies {
		if blockdev.SameDisk(c.path, path) {
			continue
		}
		return &DeviceError{Path: path, Err: metadata.ErrStale,
			What: fmt.Sprintf("it is an older copy of %s: it is of epoch %d (%s), and %s of "+
				"epoch %d (%s)",
				setName(sb), sb.Epoch, started(sb), c.path, c.sb.Epoch, started(c.sb)),
			Do: fmt.Sprintf("start %s, or detach that if the older data is what is wanted", c.path)}
	}
	return nil
}

// started is when a set was started last, for messages.
func started(sb *metadata.Superblock) string {
	if sb.Started == 0 {
		return "never started"
	}
	return "last started " + time.Unix(int64(sb.Started), 0).UTC().Format(time.RFC3339)
}

// found is a device that is looked for.
type found struct {
	path string
	sb   *metadata.Superblock
	mute bool // it could not be asked
}

// describe tells devices that claim to be the same from each other, for
// messages: which of them was in use last is the one with the largest epoch.
func describe(all []found) []string {
	ids := map[uuid.UUID]bool{}
	for _, f := range all {
		ids[f.sb.UUID] = true
	}
	var out []string
	for _, f := range all {
		text := fmt.Sprintf("%s (epoch %d, %s", f.path, f.sb.Epoch, started(f.sb))
		if len(ids) > 1 {
			text += ", " + f.sb.UUID.String()
		}
		out = append(out, text+")")
	}
	return out
}
