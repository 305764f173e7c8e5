package set

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"ublkremap/metadata"
)

// Identity is what a superblock says about its disk. A process that has read the superblock passes
// it to other processes, which then need not read it.
type Identity struct {
	Name    string    `json:"name"`
	UUID    uuid.UUID `json:"uuid"`
	Epoch   uint64    `json:"epoch"`
	Started uint32    `json:"started"` // as in the superblock
}

// IdentityOf returns what a superblock says about its disk.
func IdentityOf(sb *metadata.Superblock) Identity {
	return Identity{Name: sb.Name, UUID: sb.UUID, Epoch: sb.Epoch, Started: sb.Started}
}

// CheckNewest refuses a backing that is an older copy: another block device here carries the same
// set and was started later, so that this one lacks what was written since. The superblock at path
// is not read: id is what was found there. The error is a *DeviceError that wraps
// metadata.ErrStale.
//
// Copies of the same epoch cannot be told apart. Devices that do not answer within findLimit are
// ignored.
func CheckNewest(ctx context.Context, path string, id Identity) error {
	newer, _, err := search(ctx, findLimit, path, func(other *metadata.Superblock) bool {
		return other.DeviceIndex == 0 && other.UUID == id.UUID && other.Epoch > id.Epoch
	})
	if err != nil {
		return context.Cause(ctx) // without a search no copy is known
	}
	if len(newer) == 0 {
		return nil
	}
	c := newer[0]
	return &DeviceError{Path: path, Err: metadata.ErrStale,
		What: fmt.Sprintf("it is an older copy of %q (%s): it is of epoch %d (%s), and %s of "+
			"epoch %d (%s)",
			id.Name, id.UUID, id.Epoch, started(id.Started), c.path, c.sb.Epoch,
			started(c.sb.Started)),
		Do: fmt.Sprintf("start %s, or detach that if the older data is what is wanted", c.path)}
}

// started says for messages when a set was started last.
func started(seconds uint32) string {
	if seconds == 0 {
		return "never started"
	}
	return "last started " + time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
}

// describe tells devices with the same identity apart for messages. The device that was in use last
// has the largest epoch.
func describe(all []found) []string {
	ids := map[uuid.UUID]bool{}
	for _, f := range all {
		ids[f.sb.UUID] = true
	}
	var out []string
	for _, f := range all {
		text := fmt.Sprintf("%s (epoch %d, %s", f.path, f.sb.Epoch, started(f.sb.Started))
		if len(ids) > 1 {
			text += ", " + f.sb.UUID.String()
		}
		out = append(out, text+")")
	}
	return out
}
