package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/ublk"
)

const (
	// hiddenWait is how long to wait for the end of a device's server that cannot be seen: it may
	// be dying.
	hiddenWait = 10 * time.Second
	deadPoll   = 50 * time.Millisecond
	// SayEvery is how often a Waiter says what is waited for. sayFirst is when it does so first.
	SayEvery = 10 * time.Second
	sayFirst = 2 * time.Second
)

// A Waiter says from time to time what is waited for. The zero value says nothing.
type Waiter struct {
	Tell  func(what string)
	since time.Time
	last  time.Time
}

// Say must be called again and again as long as the wait goes on.
func (w *Waiter) Say(what func() string) {
	now := time.Now()
	if w.since.IsZero() {
		w.since, w.last = now, now.Add(sayFirst-SayEvery)
	}
	if w.Tell == nil || now.Sub(w.last) < SayEvery {
		return
	}
	w.last = now
	w.Tell(fmt.Sprintf("%s (for %s now)", what(), now.Sub(w.since).Round(time.Second)))
}

// Died reports whether the server of a record is known to be dead or dying: its number belongs to
// this pid namespace, and that process does not exist, or is about to end.
func Died(r *control.Record) bool {
	return r != nil && (r.PIDNamespace == 0 || r.PIDNamespace == PIDNamespace()) && dying(r.PID)
}

// PIDNamespace is the number of this process's pid namespace, or 0 if it cannot be found out.
func PIDNamespace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// AwaitDead returns when no server has the device any more, and no I/O of one is under way. r is
// the record of the device's last server, or nil if there is none. While a dead server's I/O has
// not ended, it waits until ctx ends. If a server lives or may live, the error is ErrServed.
func AwaitDead(ctx context.Context, ctl *ublk.Control, id int, r *control.Record, w *Waiter) error {
	hang := newStuck(id)
	defer hang.close()
	for began := time.Now(); ; {
		served, err := ublk.Served(ctx, id)
		switch {
		case errors.Is(err, ublk.ErrNotFound):
			return nil
		case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
			// The node is not in this mount namespace. The state that the kernel reports is enough.
			info, infoErr := ctl.Info(ctx, id)
			if infoErr != nil || info.State != ublk.StateLive {
				return noDevice(infoErr)
			}
		case err != nil:
			return err
		case !served:
			return nil
		}
		info, err := ctl.Info(ctx, id)
		if err != nil {
			return noDevice(err)
		}
		switch {
		case Died(r):
			w.Say(func() string { return LastIO(r) })
		case time.Since(began) < hiddenWait:
		case hang.holds(info):
			// Whether it lives or not, that server answers nothing before the disk does.
			w.Say(func() string {
				return fmt.Sprintf("waiting for the I/O of a server that cannot be seen from "+
					"here to end: of %d requests none comes back", hang.last.InFlight)
			})
		case serves(info.PID, info.CharPath()):
			return &ServedError{fmt.Sprintf("%s: %v by process %d, whose files are not in %s (it "+
				"is in a container, or they were removed); when nothing uses it, stop it in "+
				"order: kill %d",
				info.BlockPath(), ErrServed, info.PID, control.Dir(), info.PID)}
		default:
			return &ServedError{fmt.Sprintf("%s: %v by a server that cannot be seen from here, "+
				"such as one in a container; stop it where it runs; if it was killed, its last "+
				"I/O has not ended: try again then",
				info.BlockPath(), ErrServed)}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(deadPoll):
		}
	}
}

// stuck finds out whether the requests of a device come back.
type stuck struct {
	file *blockdev.ActivityFile // nil: not known
	last blockdev.Activity
}

func newStuck(id int) *stuck {
	s := &stuck{}
	if f, err := blockdev.OpenActivity(ublk.DeviceInfo{ID: id}.BlockPath()); err == nil {
		s.file = f
		s.last, _ = f.Read()
	}
	return s
}

// holds reports whether there were requests before and there are some now, and none has come back
// since it was asked first.
func (s *stuck) holds(info ublk.DeviceInfo) bool {
	if s.file == nil || info.State != ublk.StateLive || s.last.InFlight == 0 {
		return false
	}
	now, err := s.file.Read()
	return err == nil && now.InFlight > 0 && now.Done == s.last.Done
}

func (s *stuck) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

func noDevice(err error) error {
	if errors.Is(err, ublk.ErrNotFound) {
		return nil
	}
	return err
}

// LastIO says what I/O of a dead server is waited for.
func LastIO(r *control.Record) string {
	text := fmt.Sprintf("waiting for the last I/O of the dead server, process %d, to end", r.PID)
	for _, path := range append([]string{r.Backing}, r.Spares...) {
		if n := blockdev.InFlight(path); n > 0 {
			text += fmt.Sprintf(": %d requests are under way on %s", n, path)
		}
	}
	return text
}
