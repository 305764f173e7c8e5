// Package orphan finds the devices of this program that no runtime record
// names: a server died before it could write one, or somebody emptied the runtime
// directory. They are known by the tag that the kernel keeps for them.
package orphan

import (
	"context"
	"errors"
	"time"

	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/cmd/ublk-remap/internal/set"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// settle is how long a device that was never started must stay as it is: one that
// is just being made has no record for a moment.
const settle = time.Second

// removeLimit bounds each control command: Linux 6.12 notices some deaths only
// after 30 seconds.
const removeLimit = 45 * time.Second

// Orphan is a device without a record.
type Orphan struct {
	ublk.DeviceInfo
	// Size in bytes, and that of a block.
	Size      int64
	BlockSize int
	// Name, UUID and Backing are those of the disk; empty if no block device that
	// answers is it (a regular file is not looked for).
	Name, UUID, Backing string
	// ServerPID is its server, 0 if that is dead or cannot be seen from here. A server whose
	// files are gone can be told to stop by SIGTERM only.
	ServerPID int
}

// Unseen reports whether it has a server, as far as the kernel knows, that shows nowhere: it is
// of another pid namespace, or was killed a moment ago.
func (o *Orphan) Unseen() bool { return o.ServerPID == 0 && o.State == ublk.StateLive }

// Idle reports whether nobody has to do with the device, and nobody can miss it: it was
// never started, nobody has its server's end open, and nobody has its disk for himself, as
// a server that is about to start it has.
func (o *Orphan) Idle(ctx context.Context) bool {
	if o.Waits() || o.ServerPID != 0 {
		return false
	}
	served, err := ublk.Served(ctx, o.ID)
	return err == nil && !served && (o.Backing == "" || !blockdev.Claimed(o.Backing))
}

// Waits reports whether anybody may wait for the device: it was started, and I/O
// goes on once it has a server.
func (o *Orphan) Waits() bool { return o.State != ublk.StateDead }

// Find lists the orphans, by number.
func Find(ctx context.Context, ctl *ublk.Control) ([]*Orphan, error) {
	found, err := look(ctx, ctl)
	if err != nil {
		return nil, err
	}
	for _, o := range found {
		if o.Waits() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(settle):
		}
		if found, err = look(ctx, ctl); err != nil {
			return nil, err
		}
		break
	}
	for _, o := range found {
		if err := o.identify(ctx, ctl); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// look lists tagged devices without a record.
func look(ctx context.Context, ctl *ublk.Control) ([]*Orphan, error) {
	devices, err := ctl.List(ctx)
	if err != nil {
		return nil, err
	}
	// After the devices: a record is written later than its device is made. One
	// that cannot be read is told by who asks for the records.
	records, err := control.Records()
	if errors.Is(err, control.ErrRefused) {
		return nil, err
	}
	known := map[int]bool{}
	for _, r := range records {
		known[r.ID] = true
	}
	var found []*Orphan
	for _, d := range devices {
		if server.Tagged(d.Tag) && !known[d.ID] {
			found = append(found, &Orphan{DeviceInfo: d})
		}
	}
	return found, nil
}

func (o *Orphan) identify(ctx context.Context, ctl *ublk.Control) error {
	if server.Serves(o.PID, o.CharPath()) {
		o.ServerPID = o.PID
	}
	p, err := ctl.GetParams(ctx, o.ID)
	switch {
	case err == nil:
		o.Size, o.BlockSize = p.Size, int(p.LogicalBlockSize)
	case !errors.Is(err, ublk.ErrNotFound) && o.Waits():
		return err
	}
	path, err := set.FindBy(ctx, func(sb *metadata.Superblock) bool {
		return sb.DeviceIndex == 0 && server.Tag(sb.UUID) == o.Tag
	})
	if err != nil {
		return context.Cause(ctx) // not found is no error here
	}
	sb, err := set.Identify(ctx, path)
	if err != nil {
		return context.Cause(ctx)
	}
	o.Name, o.UUID, o.Backing = sb.Name, sb.UUID.String(), path
	return nil
}

// Remove stops and deletes a device that has no server. Requests that wait for
// one fail.
func Remove(ctx context.Context, ctl *ublk.Control, id int) error {
	for _, step := range []func(context.Context, int) error{ctl.Stop, ctl.Delete} {
		limited, cancel := context.WithTimeout(ctx, removeLimit)
		err := step(limited, id)
		cancel()
		if err != nil && !errors.Is(err, ublk.ErrNotFound) {
			return err
		}
	}
	return nil
}
