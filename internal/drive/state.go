package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// state is what is known about one disk: its old settings, its new settings, and which sets want
// them.
type state struct {
	Disk string `json:"disk"`
	// Seq tells disks apart that have had the same name. A different disk gets no settings back.
	Seq   string   `json:"seq"`
	Users []string `json:"users"` // names of sets
	Want  int      `json:"want"`  // the limit that was asked for last, in tenths of a second
	// Drive is nil if the drive has no limit that could be set.
	Drive  *change   `json:"drive,omitempty"`
	Kernel []setting `json:"kernel,omitempty"`
	Note   string    `json:"note,omitempty"` // why there is no limit
}

type change struct {
	Before limits `json:"before"`
	Set    limits `json:"set"`
	// Failed: setting the limit failed, so it is not certain whether the drive has Set.
	Failed bool `json:"failed,omitempty"`
}

// join adds a set.
func (s *state) join(name string) {
	if !slices.Contains(s.Users, name) {
		s.Users = append(s.Users, name)
	}
}

// leave removes a set, and all sets for which uses is false.
func (s *state) leave(name string, uses func(string) bool) (changed bool) {
	n := len(s.Users)
	s.Users = slices.DeleteFunc(s.Users, func(u string) bool { return u == name || !uses(u) })
	return len(s.Users) != n
}

// raised adds settings that are about to be made. If one was made before, its oldest value is kept.
func (s *state) raised(all []setting) {
	for _, n := range all {
		i := slices.IndexFunc(s.Kernel, func(k setting) bool { return k.Path == n.Path })
		if i < 0 {
			s.Kernel = append(s.Kernel, n)
		} else {
			s.Kernel[i].Set = n.Set
		}
	}
}

// prefix begins the names of the files. Files of sets cannot have such names, because theirs have
// an extension.
const prefix = ".drive-"

func (h *Host) statePath(disk string) string { return filepath.Join(h.run, prefix+disk) }

// maxState bounds how many bytes of a file are read.
const maxState = 1 << 16

func decodeState(b []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	for _, k := range s.Kernel {
		// Only these attributes may be written to.
		if base := filepath.Base(k.Path); !filepath.IsLocal(k.Path) || base != "timeout" &&
			base != "eh_deadline" {
			return nil, fmt.Errorf("%q is no timer of a disk", k.Path)
		}
	}
	return &s, nil
}

// look reads a disk's state without locking it. It returns nil if there is none.
func (h *Host) look(d disk) *state {
	f, err := os.OpenFile(h.statePath(d.name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil
	}
	s, err := decodeState(b)
	if err != nil || s.Seq != d.seq {
		return nil
	}
	return s
}

// entry is a disk's file, locked.
type entry struct {
	f *os.File
	state
}

// lockPoll is how often a lock is tried that another process has.
const lockPoll = 20 * time.Millisecond

// enter opens the file of a disk and locks it. If create is not set and there is none, the error is
// os.ErrNotExist. A process holds the lock for no longer than some calls of smartctl take.
func (h *Host) enter(ctx context.Context, name string, create bool) (*entry, error) {
	path, flags := h.statePath(name), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(ctx, f); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: somebody else sets the limits of this disk: %w", path, err)
		}
		// The process that had the lock may have removed the file. Later processes then lock a new
		// file.
		if !there(f, path) {
			f.Close()
			continue
		}
		e := &entry{f: f}
		b, err := io.ReadAll(io.LimitReader(f, maxState))
		if err == nil && len(b) > 0 {
			s, decodeErr := decodeState(b)
			if decodeErr == nil {
				e.state = *s
			} else if !create {
				err = decodeErr
			}
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return e, nil
	}
}

func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

func there(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	st, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, st)
}

// save writes the state. The state is short and fits into the page that the file has from the
// start.
func (e *entry) save() error {
	b, err := json.Marshal(e.state)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if _, err := e.f.WriteAt(b, 0); err != nil {
		return err
	}
	return e.f.Truncate(int64(len(b)))
}

func (e *entry) close() { _ = e.f.Close() }

// remove removes the file.
func (e *entry) remove() error { return os.Remove(e.f.Name()) }

// entries are the names of the disks that have a file.
func (h *Host) entries() []string {
	files, _ := os.ReadDir(h.run)
	var all []string
	for _, f := range files {
		if name, ok := strings.CutPrefix(f.Name(), prefix); ok {
			all = append(all, name)
		}
	}
	return all
}
