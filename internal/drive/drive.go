package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/sysfs"
)

// Host says where disks and files are. Tests replace it.
type Host struct {
	number func(path string) string
	sys    string        // /sys
	run    string        // the runtime directory
	smart  string        // name of the program smartctl, or its path
	wait   time.Duration // for one call of it
	// uses reports whether a set is served here, or its device waits for a server.
	uses func(name string) bool
}

// New returns the host that this process runs on. run is the runtime directory, which only root may
// write to. uses reports whether a set is served here, or its device waits for a server.
func New(run string, uses func(name string) bool) *Host {
	return &Host{sys: "/sys", run: run, smart: "smartctl", wait: wait, uses: uses,
		number: number}
}

// wait is how long one call of smartctl may take. A drive that spins up takes some seconds.
const wait = 10 * time.Second

// The limits of the control: smartctl takes no longer time, and drives take no shorter one.
const (
	Least = time.Second
	Most  = 99 * time.Second
)

// Set makes the disks below these devices spend at most so much time on one sector, for a set. It
// returns the result for each disk. If nothing could be done for a disk, its result has a Note that
// says why. Set returns when ctx ends.
func (h *Host) Set(ctx context.Context, name string, paths []string,
	want time.Duration) []control.Drive {
	disks := h.disksBelow(paths)
	all := make([]control.Drive, len(disks))
	var ended sync.WaitGroup
	for i, d := range disks {
		ended.Go(func() { all[i] = h.setOne(ctx, name, d, int(want/(time.Second/10))) })
	}
	ended.Wait()
	return all
}

func (h *Host) setOne(ctx context.Context, name string, d disk, want int) control.Drive {
	if why := d.why(); why != "" {
		return control.Drive{Disk: d.path(), Note: why}
	}
	e, err := h.enter(ctx, d.name, true)
	if err == nil {
		defer e.close()
		err = h.limit(ctx, e, d, name, want)
	}
	if err != nil {
		// A change that is not noted could not be undone. So nothing was changed.
		r := control.Drive{Disk: d.path(), Note: err.Error()}
		r.KernelS = float64(h.timeout(d))
		return r
	}
	return h.report(d, &e.state)
}

// limit sets a disk's limit, or else the kernel's time limit. It saves the state before it changes
// anything. So if the process is killed in between, the saved state is enough to undo all changes.
func (h *Host) limit(ctx context.Context, e *entry, d disk, name string, want int) error {
	if e.Disk != d.name || e.Seq != d.seq {
		e.state = state{Disk: d.name, Seq: d.seq}
	}
	e.leave("", h.uses)
	e.join(name)
	e.Want, e.Note = want, ""
	now, err := h.get(ctx, d.path())
	if err == nil {
		target := now.atMost(want)
		if e.Drive == nil {
			e.Drive = &change{Before: now}
		}
		e.Drive.Set = target
		if err := e.save(); err != nil {
			return err
		}
		if target != now {
			_, err = h.set(ctx, d.path(), target)
		}
		if e.Drive.Failed = err != nil; err != nil {
			if now, getErr := h.get(ctx, d.path()); getErr == nil {
				e.Drive.Set = now // how far the change got
			}
		}
	}
	if err != nil {
		e.Note = err.Error()
	}
	if err != nil || want*2 > h.timeout(d)*10 {
		// The limit of the drive is not known, or is not well below the kernel's.
		more := h.raises(d)
		e.raised(more)
		if err := e.save(); err != nil {
			return err
		}
		if err := h.apply(more); err != nil {
			e.Note = strings.TrimPrefix(e.Note+"; "+err.Error(), "; ")
		}
	}
	return e.save()
}

// Again sets the limits of a set once more, because a drive forgets them when it loses power. It
// does nothing for disks that have no limits from this program.
func (h *Host) Again(ctx context.Context, name string, paths []string) []control.Drive {
	var all []control.Drive
	for _, d := range h.disksBelow(paths) {
		if s := h.look(d); s != nil && slices.Contains(s.Users, name) {
			all = append(all, h.setOne(ctx, name, d, s.Want))
		}
	}
	return all
}

// Release says that a set no longer needs its limits. Disks that no set needs get their old
// settings back. That includes disks of sets whose server died. A setting that could not be
// restored stays noted for the next time, and is in the error.
func (h *Host) Release(ctx context.Context, name string) error {
	var errs []error
	for _, disk := range h.entries() {
		if err := h.releaseOne(ctx, name, disk); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("the error recovery limit of %s was not restored: %w",
				disk, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) releaseOne(ctx context.Context, name, diskName string) error {
	e, err := h.enter(ctx, diskName, false)
	if err != nil {
		return err
	}
	defer e.close()
	changed := e.leave(name, h.uses)
	if len(e.Users) > 0 {
		if changed {
			err = e.save()
		}
		return err
	}
	if err := h.restore(ctx, e); err != nil {
		return errors.Join(err, e.save())
	}
	return e.remove()
}

// restore gives a disk its old settings back, if it is still the same disk and still has the new
// ones.
func (h *Host) restore(ctx context.Context, e *entry) error {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "block", e.Disk))
	if err != nil {
		return nil // the disk is gone
	}
	d := disk{name: e.Disk, dir: dir}
	if d.seq, _ = sysfs.Text(dir, "diskseq"); d.seq != e.Seq {
		return nil
	}
	err = h.undo(e.Kernel)
	if c := e.Drive; c != nil && c.Set != c.Before {
		now, getErr := h.get(ctx, d.path())
		if getErr == nil && now == c.Set {
			_, getErr = h.set(ctx, d.path(), c.Before)
		}
		err = errors.Join(err, getErr)
	}
	return err
}

// Report says what is set for the disks of a set, without asking the disks.
func (h *Host) Report(name string, paths []string) []control.Drive {
	all := []control.Drive{}
	for _, d := range h.disksBelow(paths) {
		why := d.why()
		s := h.look(d)
		switch {
		case why != "":
			all = append(all, control.Drive{Disk: d.path(), Note: why})
		case s == nil || !slices.Contains(s.Users, name):
			all = append(all, control.Drive{Disk: d.path(), KernelS: float64(h.timeout(d)),
				Note: "left as it is"})
		default:
			all = append(all, h.report(d, s))
		}
	}
	return all
}

// report converts a state for other packages.
func (h *Host) report(d disk, s *state) control.Drive {
	r := control.Drive{Disk: d.path(), KernelS: float64(h.timeout(d)), Note: s.Note}
	if c := s.Drive; c != nil {
		before := seconds(c.Before)
		r.BeforeS = &before
		if now := seconds(c.Set); now > 0 && !c.Failed {
			r.LimitS = &now
		}
	}
	for _, k := range s.Kernel {
		if filepath.Base(k.Path) == "timeout" {
			var before float64
			if _, err := fmt.Sscan(k.Before, &before); err == nil {
				r.KernelBeforeS = &before
			}
		}
	}
	return r
}

// seconds is the longer of both limits; 0: one of them is none.
func seconds(l limits) float64 {
	if l.Read == 0 || l.Write == 0 {
		return 0
	}
	return float64(max(l.Read, l.Write)) / 10
}
