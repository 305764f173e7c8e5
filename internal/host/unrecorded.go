package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// settle is how long a device that was never started must stay as it is, because a device that is
// just being made has no record for a moment.
const settle = time.Second

// removeLimit bounds each control command that ends a device without a server: Linux 6.12
// notices some deaths only after 30 seconds.
const removeLimit = 45 * time.Second

// Unrecorded is a device of this program without a runtime record: its server died before it could
// write one, or the runtime directory was emptied. The device is identified by its tag.
type Unrecorded struct {
	ublk.DeviceInfo
	// Size and BlockSize are in bytes, or 0 if the kernel does not report them.
	Size      int64
	BlockSize int
	// Name, UUID and Backing are those of the disk. They are empty if no block device answers with
	// that identity (regular files are not searched).
	Name, UUID, Backing string
	// ServerPID is its server, or 0 if the server is dead or cannot be seen from here. If the files
	// of a server are gone, only SIGTERM can ask it to stop.
	ServerPID int
}

// Hidden reports whether it has a server, as far as the kernel knows, that cannot be seen from
// here: the server is of another pid namespace, or was killed a moment ago.
func (u *Unrecorded) Hidden() bool { return u.ServerPID == 0 && u.State == ublk.StateLive }

// Idle reports whether nothing uses the device, and it is safe to remove: it was never started, no
// process has its server's end open, and no process has its disk exclusively, as a server that is
// about to start it has.
func (u *Unrecorded) Idle(ctx context.Context) bool {
	if u.Waits() || u.ServerPID != 0 {
		return false
	}
	served, err := ublk.Served(ctx, u.ID)
	return err == nil && !served && (u.Backing == "" || !blockdev.HeldExclusively(u.Backing))
}

// Waits reports whether I/O may wait for the device: it was started, and its I/O goes on once it
// has a server.
func (u *Unrecorded) Waits() bool { return u.State != ublk.StateDead }

// Named reports whether the text that a user typed means this device.
func (u *Unrecorded) Named(what string) bool {
	number := strconv.Itoa(u.ID)
	return slices.Contains([]string{u.BlockPath(), "ublkb" + number, number}, what) ||
		u.Name != "" && (u.Name == what || u.UUID == what || u.Backing == what ||
			blockdev.SameDisk(u.Backing, what))
}

// Status is what the kernel and the disk say about the device.
func (u *Unrecorded) Status() *control.Status {
	r := &control.Record{Device: u.BlockPath(), ID: u.ID, Name: u.Name, UUID: u.UUID,
		Backing: u.Backing, BlockSize: u.BlockSize, ZeroCopy: u.ZeroCopy(), BatchIO: u.BatchIO(),
		Recovery: u.Recoverable()}
	if u.BlockSize > 0 {
		r.Blocks = uint64(u.Size) / uint64(u.BlockSize)
	}
	st := fromRecord(r)
	st.Missing = missing([]string{r.Backing})
	st.State, st.ServerPID = control.StateFailed, u.ServerPID
	switch {
	case u.ServerPID != 0:
		st.State = control.StateUnreachable // it cannot be asked
		st.Reason = fmt.Sprintf("process %d serves it, but its files are not in %s (it is in a "+
			"container, or they were removed): it cannot be asked", u.ServerPID, control.Dir())
		st.Action = fmt.Sprintf(
			"when nothing uses it, stop it in order: kill %d; then start it again", u.ServerPID)
	case u.Hidden():
		st.State = control.StateUnreachable
		st.Reason = "it has a server that cannot be seen from here, such as one in a container"
		st.Action = "look where that runs"
	case u.Backing != "":
		st.Reason = "its server is dead, and no record tells of it; I/O waits for the next one"
		st.Action = "to go on: " + shell.Command("start", u.Backing)
	default:
		st.Reason = "its server is dead, no record tells of it, and its disk is not to be found; " +
			"I/O waits for the next one"
		st.Action = "attach its disk and start that"
	}
	return st
}

// FindUnrecorded lists the devices of this program that have no record, by number. If there is no
// driver, or this user may not ask it, the list is empty. The error is a *ublk.RingForbiddenError
// if no process may ask it.
func FindUnrecorded(ctx context.Context) ([]*Unrecorded, error) {
	ctl, err := ublk.OpenControl()
	if errors.Is(err, ublk.ErrNoDriver) || errors.Is(err, os.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	return UnrecordedOf(ctx, ctl)
}

// findUnrecorded finds the device among them that the user means, or nil.
func findUnrecorded(ctx context.Context, what string) (*Unrecorded, error) {
	all, err := FindUnrecorded(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(u *Unrecorded) bool { return u.Named(what) })
	if at < 0 {
		return nil, nil
	}
	return all[at], nil
}

// UnrecordedOf is FindUnrecorded for a caller that has the driver's control device open.
func UnrecordedOf(ctx context.Context, ctl *ublk.Control) ([]*Unrecorded, error) {
	found, err := taggedOnly(ctx, ctl)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(found, func(u *Unrecorded) bool { return !u.Waits() }) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(settle):
		}
		if found, err = taggedOnly(ctx, ctl); err != nil {
			return nil, err
		}
	}
	for _, u := range found {
		if err := u.identify(ctx, ctl); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// taggedOnly lists devices that are identified by their tag only.
func taggedOnly(ctx context.Context, ctl *ublk.Control) ([]*Unrecorded, error) {
	devices, err := ctl.List(ctx)
	if err != nil {
		return nil, err
	}
	// After the devices: a record is written later than its device is made. Records that cannot
	// be read are reported by Lookup and Running.
	records, err := control.Records()
	if errors.Is(err, control.ErrRefused) {
		return nil, err
	}
	recorded := map[int]bool{}
	for _, r := range records {
		recorded[r.ID] = true
	}
	var found []*Unrecorded
	for _, d := range devices {
		if Tagged(d.Tag) && !recorded[d.ID] {
			found = append(found, &Unrecorded{DeviceInfo: d})
		}
	}
	return found, nil
}

// identify finds the device's server and its disk.
func (u *Unrecorded) identify(ctx context.Context, ctl *ublk.Control) error {
	if serves(u.PID, u.CharPath()) {
		u.ServerPID = u.PID
	}
	p, err := ctl.GetParams(ctx, u.ID)
	switch {
	case err == nil:
		u.Size, u.BlockSize = p.Size, int(p.LogicalBlockSize)
	case !errors.Is(err, ublk.ErrNotFound) && u.Waits():
		return err
	}
	path, sb, err := set.FindBy(ctx, func(sb *metadata.Superblock) bool {
		return sb.DeviceIndex == 0 && Tag(sb.UUID) == u.Tag
	})
	if err != nil {
		return context.Cause(ctx) // not found is no error here
	}
	u.Name, u.UUID, u.Backing = sb.Name, sb.UUID.String(), path
	return nil
}

// Remove stops and deletes a device that has no server. Requests that wait for a server fail.
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
