package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/ublk"
)

// left is a file of the runtime directory that no device or server needs.
type left struct {
	name string // of the device
	path string
	why  string
	// harmless: it takes only a little memory, and says how a start or a stop went
	harmless bool
	// device is the number of the device that the file belongs to, or -1
	device int
}

// leftFiles lists records and sockets whose server is dead and whose device does not exist any
// more, or was never live.
func leftFiles(ctx context.Context, ctl *ublk.Control, records []*control.Record) []left {
	var found []left
	for _, rec := range records {
		if control.Owned(rec.Name) {
			continue
		}
		if l, ok := leftRecord(ctx, ctl, rec); ok {
			found = append(found, l)
		}
	}
	for _, kind := range []struct{ suffix, why string }{
		{".sock", "a socket without a server"},
		{".lock", "the lock of a name that nothing is called"},
		{".log", "the log of a name that nothing is called"},
	} {
		paths, _ := filepath.Glob(filepath.Join(control.Dir(), "*"+kind.suffix))
		for _, path := range paths {
			name := strings.TrimSuffix(filepath.Base(path), kind.suffix)
			if path == control.AlertsPath() || control.Owned(name) {
				continue // the monitor makes its socket anew when it starts
			}
			if _, err := control.ReadRecord(name); errors.Is(err, control.ErrNotRunning) {
				found = append(found, left{name: name, path: path, why: kind.why, device: -1,
					harmless: kind.suffix != ".sock"})
			}
		}
	}
	return found
}

// leftRecord examines the record of a dead server. If its device waits, or cannot be asked about,
// the record is still needed.
func leftRecord(ctx context.Context, ctl *ublk.Control, rec *control.Record) (left, bool) {
	l := left{name: rec.Name, path: control.RecordPath(rec.Name), device: -1}
	info, err := host.DeviceOf(ctx, ctl, rec)
	switch {
	case errors.Is(err, ublk.ErrNotFound):
		l.why = fmt.Sprintf("the record of %s, which is gone", rec.Device)
		return l, true
	case err == nil && info.State == ublk.StateDead && unserved(ctx, info.ID):
		l.why, l.device = fmt.Sprintf("the record of %s, which is not started", rec.Device), info.ID
		return l, true
	}
	return l, false
}

// unserved reports whether it is certain that no process has the server's end of a device.
func unserved(ctx context.Context, id int) bool {
	served, err := ublk.Served(ctx, id)
	return err == nil && !served
}

// Fix removes what is left over: devices that were added and never started, records of devices that
// do not exist any more, and sockets without a server. It leaves a device that was live alone,
// because I/O may wait for it. It returns what it did, one line each.
func Fix(ctx context.Context) ([]string, error) {
	ctl, err := ublk.OpenControl()
	if errors.Is(err, ublk.ErrNoDriver) {
		return nil, nil // and without a driver no devices
	}
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	var done []string
	var errs []error
	unrecorded, err := host.UnrecordedOf(ctx, ctl)
	if err != nil {
		return nil, err
	}
	for _, u := range unrecorded {
		if !u.Idle(ctx) {
			continue
		}
		if err := host.Remove(ctx, ctl, u.ID); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.BlockPath(), err))
			continue
		}
		done = append(done, fmt.Sprintf("removed device %d, which was not started", u.ID))
	}
	records, err := control.Records()
	if err != nil {
		errs = append(errs, err)
	}
	for _, l := range leftFiles(ctx, ctl, records) {
		if err := l.remove(ctx, ctl); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.path, err))
			continue
		}
		done = append(done, fmt.Sprintf("removed %s: %s", l.path, l.why))
	}
	// Drives can still have a limit that was set for a set without a server.
	errs = append(errs, host.Drives().Release(ctx, ""))
	return done, errors.Join(errs...)
}

// remove removes the files of a device, unless a server has come meanwhile.
func (l left) remove(ctx context.Context, ctl *ublk.Control) (err error) {
	owner, err := control.Own(l.name)
	if errors.Is(err, control.ErrOwned) {
		return nil
	}
	if err != nil {
		return err
	}
	kept := true
	defer func() {
		if kept {
			err = errors.Join(err, owner.Release())
		} else {
			err = errors.Join(err, owner.Forget(true))
		}
	}()
	// Look again: from here on no server can start it.
	rec, err := control.ReadRecord(l.name)
	switch {
	case errors.Is(err, control.ErrNotRunning):
	case err != nil:
		return err
	default:
		now, ok := leftRecord(ctx, ctl, rec)
		if !ok {
			return nil
		}
		if now.device >= 0 {
			if err := host.Remove(ctx, ctl, now.device); err != nil {
				return err
			}
		}
	}
	for _, path := range []string{control.RecordPath(l.name), control.SocketPath(l.name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	kept = false
	return nil
}
