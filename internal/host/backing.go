package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// Backing is a disk that a caller means to serve, as it was found.
type Backing struct {
	Path       string // absolute
	Superblock *metadata.Superblock
	// Newest: as far as the other disks here answer, none of them carries the set.
	Newest bool
}

// FindBacking finds the disk that the user means. An argument with a slash is a path. Any other
// argument is the name or the UUID of a set. Only if there is no such set, it is a file in the
// working directory. id is a UUID: if it is not empty, the set of that name must have it. The
// superblock is read once.
func FindBacking(ctx context.Context, what, id string) (*Backing, error) {
	if what == "" {
		return nil, fmt.Errorf("\"\": %w: name a disk or a set; see: ublk-remap scan", ErrNotFound)
	}
	if strings.Contains(what, "/") {
		return BackingAt(ctx, what)
	}
	// Try the path that the name had last. If the set is not there any more, look at all disks.
	if r, err := control.ReadRecord(what); err == nil && (id == "" || r.UUID == id) {
		if sb, err := set.Identify(ctx, r.Backing); err == nil && sb.Name == what &&
			sb.UUID.String() == r.UUID {
			return &Backing{Path: r.Backing, Superblock: sb}, nil
		}
	}
	path, sb, err := set.Find(ctx, cmp.Or(id, what))
	if err == nil {
		return &Backing{Path: path, Superblock: sb, Newest: true}, nil
	}
	if errors.Is(err, metadata.ErrNotFound) && id == "" {
		if _, statErr := os.Stat(what); statErr == nil {
			return BackingAt(ctx, what)
		}
	}
	return nil, fmt.Errorf("%s: %w", what, err)
}

// BackingAt finds the disk at a path.
func BackingAt(ctx context.Context, path string) (*Backing, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	sb, err := set.Identify(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Backing{Path: path, Superblock: sb}, nil
}

// Active reports whether the set of that name has a device, or a server.
func Active(name string) bool {
	r, err := control.ReadRecord(name)
	return err == nil && (control.Owned(name) || Present(r))
}

// DeviceOfSet reports whether the kernel has a device of a set that was ever live, and returns the
// record of that device, if there is one. If the kernel cannot be asked, there is no such device.
func DeviceOfSet(ctx context.Context, id set.Identity) (r *control.Record, has bool) {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return nil, false
	}
	defer ctl.Close()
	devices, err := ctl.List(ctx)
	if err != nil {
		return nil, false
	}
	r, err = control.ReadRecord(id.Name)
	if err != nil || r.UUID != id.UUID.String() {
		r = nil
	}
	for _, d := range devices {
		mine := d.Tag == Tag(id.UUID)
		recorded := r != nil && d.ID == r.ID && (mine || d.Tag == 0)
		switch {
		case d.State == ublk.StateDead || !mine && !recorded:
		case recorded:
			return r, true
		default:
			has = true
		}
	}
	return nil, has
}
