package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/control"
	"ublkremap/ublk"
)

const (
	// askAll is how long each of several servers may take to answer: whoever asks about all
	// of them wants to see those that do.
	askAll = 5 * time.Second
	// askOne is that of a server that is asked for by name.
	askOne = 10 * time.Second
)

// statusesOf asks the servers of several devices at once. Whatever one of them does, there
// is a status of each, in the order of the records. The error is that of ctx.
func statusesOf(ctx context.Context, records []*control.Record,
	limit time.Duration) ([]*control.Status, error) {
	all := make([]*control.Status, len(records))
	var asked sync.WaitGroup
	for i, r := range records {
		asked.Go(func() { all[i] = statusOf(ctx, r, limit) })
	}
	asked.Wait()
	return all, context.Cause(ctx)
}

// statusOf asks a device's server, or says what is known without one, and why that is all.
func statusOf(ctx context.Context, r *control.Record, limit time.Duration) *control.Status {
	if control.Owned(r.Name) {
		st, err := control.NewClient(r.Name).StatusWithin(ctx, limit)
		switch {
		case err == nil:
			return st
		case !errors.Is(err, control.ErrNotRunning):
			return unreachable(r, err, limit)
		}
	}
	st := recorded(r)
	char := fmt.Sprintf("/dev/ublkc%d", r.ID)
	switch {
	case control.Owned(r.Name):
		st.State, st.ServerPID = control.StateRecovering, r.PID
		st.Reason = "a server has the name and does not listen: it starts, or it ends"
		st.Action = "wait a minute; if it stays so, see the end of " + control.LogPath(r.Name)
		if server.Died(r) {
			st.ServerPID = 0
			st.Reason = server.LastIO(r)
			st.Action = "wait; then, if no server is starting by then: " + shell.Command("start",
				r.Name)
		}
	case !server.Died(r) && server.Serves(r.PID, char):
		st.State, st.ServerPID = control.StateUnreachable, r.PID
		st.Reason = fmt.Sprintf("process %d serves it, but some of its files in %s are gone", r.PID,
			control.Dir())
		st.Action = fmt.Sprintf(
			"when nothing uses it, stop it in order: kill %d; then start it again", r.PID)
	default:
		st.State = control.StateFailed
		st.Reason = "its server is dead; I/O waits for the next one"
		st.Action = "to go on: " + shell.Command("start", r.Name)
		unseen(ctx, r, st)
	}
	return st
}

// unseen corrects the status of a device that the kernel says has a server, though its
// record's is dead: another one has it, or the last I/O of that one has not ended.
func unseen(ctx context.Context, r *control.Record, st *control.Status) {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return
	}
	defer ctl.Close()
	info, err := ctl.Info(ctx, r.ID)
	switch {
	case err != nil || info.State != ublk.StateLive:
	case info.PID == r.PID:
		st.Reason = "its server is dead, and the last I/O of that has not ended; then I/O waits " +
			"for the next one"
	default:
		st.State = control.StateUnreachable
		st.Reason = "it has a server that cannot be seen from here, such as one in a container"
		st.Action = "look where that runs"
	}
}

// unreachable is the status of a device whose server has given none.
func unreachable(r *control.Record, err error, limit time.Duration) *control.Status {
	st := recorded(r)
	st.State, st.ServerPID = control.StateUnreachable, r.PID
	st.Reason, st.Action = "its server gives no status: "+err.Error(), silentAdvice(r)
	if errors.Is(err, control.ErrSilent) {
		st.Reason = fmt.Sprintf("its server, process %d, has not answered for %s; whether I/O "+
			"goes on is not known", r.PID, limit)
	}
	return st
}

// recorded is what a record tells of a device.
func recorded(r *control.Record) *control.Status {
	return &control.Status{
		Device: r.Device, ID: r.ID, Name: r.Name, UUID: r.UUID, Backing: r.Backing,
		BlockSize: r.BlockSize, SizeBlocks: r.Blocks,
		Spare:    control.Spare{Devices: []control.SpareDevice{}},
		Metadata: control.Metadata{Mirrors: []control.Mirror{}},
		Scrub:    control.Scrub{State: "idle", Total: r.Blocks},
		Breaker:  control.Breaker{State: "closed"},
		Features: control.Features{ZeroCopy: r.ZeroCopy, AutoBufReg: r.ZeroCopy, BatchIO: r.BatchIO,
			Recovery: r.Recovery},
	}
}
