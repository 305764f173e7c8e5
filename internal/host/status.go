package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

const (
	// answerOfEach is how long each of several servers may take to answer. A server that does not
	// answer must not keep the others from being listed.
	answerOfEach = 5 * time.Second
	// answerOfOne is the same limit for a server that is asked for by name.
	answerOfOne = 10 * time.Second
)

// Status returns the status of all devices here, also of those without a record. There is a status
// for each device, whatever its server does.
//
// If no process may ask the driver (*ublk.RingForbiddenError), the list has only the devices that
// have records, and comes with that error.
func (h *Host) Status(ctx context.Context) ([]*control.Status, error) {
	records, err := h.Running()
	if err != nil {
		return nil, err
	}
	all := make([]*control.Status, len(records))
	control.Each(len(records), func(i int) {
		all[i] = withDisks(statusOf(ctx, records[i], answerOfEach), records[i])
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	more, err := FindUnrecorded(ctx)
	for _, u := range more {
		all = append(all, u.Status())
	}
	return all, err
}

// StatusOf returns the status of one device. what is as for Lookup.
func (h *Host) StatusOf(ctx context.Context, what string) (*control.Status, error) {
	r, err := h.Lookup(what)
	if err == nil {
		st := withDisks(statusOf(ctx, r, answerOfOne), r)
		return st, context.Cause(ctx)
	}
	if errors.Is(err, ErrNotFound) {
		if u, findErr := findUnrecorded(ctx, what); findErr == nil && u != nil {
			return u.Status(), nil
		}
	}
	return nil, err
}

// StatusNamed is StatusOf by the name of a record. It reads no other record, so who asks for each
// of many devices reads as many records as there are devices, and not the square of that.
func (h *Host) StatusNamed(ctx context.Context, name string) (*control.Status, error) {
	r, err := control.ReadRecord(name)
	if err != nil {
		return h.StatusOf(ctx, name)
	}
	return withDisks(statusOf(ctx, r, answerOfOne), r), context.Cause(ctx)
}

// statusOf asks a device's server. Without an answer it says what is known otherwise, and why that
// is all.
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
	st := fromRecord(r)
	switch {
	case control.Owned(r.Name):
		st.State, st.ServerPID = control.StateRecovering, r.PID
		st.Reason = "a server has the name and does not listen: it starts, or it ends"
		st.Action = "wait a minute; if it stays so, see the end of " + control.LogPath(r.Name)
		if Died(r) {
			st.ServerPID = 0
			st.Reason = LastIO(r)
			st.Action = "wait; then, if no server is starting by then: " + shell.Command("start",
				r.Name)
		}
	case !Died(r) && serves(r.PID, ublk.DeviceInfo{ID: r.ID}.CharPath()):
		st.State, st.ServerPID = control.StateUnreachable, r.PID
		st.Reason = fmt.Sprintf("process %d serves it, but some of its files in %s are gone", r.PID,
			control.Dir())
		st.Action = fmt.Sprintf(
			"when nothing uses it, stop it in order: kill %d; then start it again", r.PID)
	default:
		st.State = control.StateFailed
		st.Reason = "its server is dead; I/O waits for the next one"
		st.Action = "to go on: " + shell.Command("start", r.Name)
		askKernel(ctx, r, st)
	}
	return st
}

// askKernel corrects the status of a device if the kernel says that it has a server and its record
// names a dead one: another server has it, or the last I/O of the dead one has not ended.
func askKernel(ctx context.Context, r *control.Record, st *control.Status) {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return
	}
	defer ctl.Close()
	info, err := ctl.Info(ctx, r.ID)
	switch {
	case err != nil || info.State != ublk.StateLive:
	case info.PID == r.PID:
		st.Reason = "its server is dead, and its last I/O has not ended; then I/O waits for the " +
			"next one"
	default:
		st.State = control.StateUnreachable
		st.Reason = "it has a server that cannot be seen from here, such as one in a container"
		st.Action = "look where that runs"
	}
}

// unreachable is the status of a device whose server has sent no status.
func unreachable(r *control.Record, err error, limit time.Duration) *control.Status {
	st := fromRecord(r)
	st.State, st.ServerPID = control.StateUnreachable, r.PID
	st.Reason, st.Action = "its server gives no status: "+err.Error(), noAnswerAdvice(r)
	if errors.Is(err, control.ErrSilent) {
		st.Reason = fmt.Sprintf("its server, process %d, has not answered for %s; whether I/O "+
			"goes on is not known", r.PID, limit)
	}
	return st
}

// fromRecord is the status that a record gives.
func fromRecord(r *control.Record) *control.Status {
	return &control.Status{
		Device: r.Device, ID: r.ID, Name: r.Name, UUID: r.UUID, Backing: r.Backing,
		Missing: []string{}, BlockSize: r.BlockSize, SizeBlocks: r.Blocks,
		Spare:    control.Spare{Devices: []control.SpareDevice{}},
		Metadata: control.Metadata{Mirrors: []control.Mirror{}},
		Scrub:    control.Scrub{State: "idle", Total: r.Blocks},

		ErrorRecovery: []control.Drive{},
		Breaker:       control.Breaker{State: "closed"},
		Features: control.Features{ZeroCopy: r.ZeroCopy, AutoBufReg: r.ZeroCopy, BatchIO: r.BatchIO,
			Recovery: r.Recovery},
	}
}
