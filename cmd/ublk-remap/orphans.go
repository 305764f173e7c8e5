package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/orphan"
	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/ublk"
)

// findOrphans lists devices of this program that no record names. Where there is no driver,
// or this user may not ask it, there are none to tell of. The error is a
// ublk.RingForbiddenError if nobody may ask it.
func findOrphans(ctx context.Context) ([]*orphan.Orphan, error) {
	ctl, err := ublk.OpenControl()
	if errors.Is(err, ublk.ErrNoDriver) || errors.Is(err, os.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	return orphan.Find(ctx, ctl)
}

// itemOf is an orphan as list shows it.
func itemOf(o *orphan.Orphan) control.Item {
	it := control.Item{Device: o.BlockPath(), ID: o.ID, Name: o.Name, UUID: o.UUID,
		State: control.StateFailed, Backing: o.Backing, ServerPID: o.ServerPID}
	if o.ServerPID != 0 || o.Unseen() {
		it.State = control.StateUnreachable // it cannot be asked
	}
	return it
}

// orphanStatus is an orphan as status shows it: what the kernel and its disk tell.
func orphanStatus(o *orphan.Orphan) *control.Status {
	it := itemOf(o)
	r := &control.Record{Device: it.Device, ID: it.ID, Name: it.Name, UUID: it.UUID,
		Backing: it.Backing, BlockSize: o.BlockSize, ZeroCopy: o.ZeroCopy(), BatchIO: o.BatchIO(),
		Recovery: o.Recoverable()}
	if o.BlockSize > 0 {
		r.Blocks = uint64(o.Size) / uint64(o.BlockSize)
	}
	st := recorded(r)
	st.State, st.ServerPID = it.State, it.ServerPID
	switch {
	case o.ServerPID != 0:
		st.Reason = fmt.Sprintf("process %d serves it, but its files are not in %s (it is in a "+
			"container, or they were removed): it cannot be asked", o.ServerPID, control.Dir())
		st.Action = fmt.Sprintf(
			"when nothing uses it, stop it in order: kill %d; then start it again", o.ServerPID)
	case o.Unseen():
		st.Reason = "it has a server that cannot be seen from here, such as one in a container"
		st.Action = "look where that runs"
	case o.Backing != "":
		st.Reason = "its server is dead, and no record tells of it; I/O waits for the next one"
		st.Action = "to go on: " + shell.Command("start", o.Backing)
	default:
		st.Reason = "its server is dead, no record tells of it, and its disk is not to be found; " +
			"I/O waits for the next one"
		st.Action = "attach its disk and start that"
	}
	return st
}

// named reports whether somebody means this orphan.
func named(o *orphan.Orphan, what string) bool {
	return slices.Contains([]string{o.BlockPath(), "ublkb" + strconv.Itoa(o.ID),
		strconv.Itoa(o.ID)}, what) ||
		o.Name != "" && (o.Name == what || o.UUID == what || o.Backing == what ||
			blockdev.SameDisk(o.Backing, what))
}

// stopOrphan removes a device that no record names. Its disk is not touched.
// notFound is the error if there is none.
func (a *app) stopOrphan(ctx context.Context, what string, force bool, notFound error) error {
	orphans, err := findOrphans(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(orphans, func(o *orphan.Orphan) bool { return named(o, what) })
	if at < 0 {
		return notFound
	}
	o := orphans[at]
	if o.ServerPID != 0 {
		return fmt.Errorf("%s: %w: its server lives, but its files are not in %s (it is in a "+
			"container, or they were removed); when nothing uses it, stop it in order: kill %d",
			o.BlockPath(), exit.ErrRefused, control.Dir(), o.ServerPID)
	}
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	if !force {
		if err := server.AwaitDead(ctx, ctl, o.ID, nil, a.waiter(o.BlockPath())); err != nil {
			return err
		}
	}
	if err := orphan.Remove(ctx, ctl, o.ID); err != nil {
		return fmt.Errorf("%s: %w", o.BlockPath(), err)
	}
	if a.json {
		return a.printJSON(stopped{Device: o.BlockPath(), Name: o.Name})
	}
	a.tell("ublk-remap: %s: its server was dead and no record told of it; the device was removed\n",
		o.BlockPath())
	return nil
}
