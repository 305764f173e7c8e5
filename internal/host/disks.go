package host

import (
	"context"
	"errors"
	"fmt"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// NotServed refuses a disk whose set has a device. This disk, or another disk or path with the same
// set, is being served, or I/O waits for a server. The caller has the disk exclusively.
func NotServed(d *blockdev.Device) error {
	sb, err := metadata.Probe(d)
	if errors.Is(err, metadata.ErrPath) {
		return err // it is not known which set is on it
	}
	if sb == nil || err != nil {
		return nil
	}
	r, err := control.ReadRecord(sb.Name)
	if err != nil && control.Owned(sb.Name) {
		return fmt.Errorf("%s: %w: a server of a set called %q lives, and does not say which "+
			"disk it has; stop it first", d.Path(), ErrRefused, sb.Name)
	}
	if err != nil || r.UUID != sb.UUID.String() || !control.Owned(sb.Name) && !Present(r) {
		return nil
	}
	return fmt.Errorf("%s: %w: its set %q is that of %s over %s; if this is the same disk by "+
		"another path, data would be lost; first: %s",
		d.Path(), ErrRefused, sb.Name, r.Device, r.Backing, shell.Command("stop", r.Name))
}

// NotAwaited refuses a backing whose device waits for a server. path is the name that the caller
// uses for it. The caller has the backing exclusively, so no server has it.
func NotAwaited(path string, backing *blockdev.Device) error {
	r := deviceOver(backing.Path())
	if r == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: its server is dead, but I/O of %s waits for it; start it, or "+
		"give it up with: %s", path, ErrRefused, r.Device, shell.Command("stop", r.Name))
}

// OpenToRead opens a set for reading. With shared the set may be live. Without it the set must not
// be live, because records that are being written look damaged.
func OpenToRead(ctx context.Context, path string, spares []string, shared bool) (*set.Set, error) {
	s, err := set.Open(ctx, path, spares, blockdev.Options{ReadOnly: true, Shared: shared})
	if errors.Is(err, metadata.ErrDamaged) || errors.Is(err, metadata.ErrUnsupported) || shared &&
		len(spares) == 0 && errors.Is(err, metadata.ErrNotFound) {
		// There is no superblock to use, or a spare device is missing. Then show what the backing
		// alone has.
		d, openErr := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: shared})
		if openErr != nil {
			return nil, openErr
		}
		return &set.Set{Devices: []*blockdev.Device{d}}, nil
	}
	return s, sayServed(ctx, path, err)
}

// sayServed makes an error that says that the disk is being served from the error of opening it.
func sayServed(ctx context.Context, path string, err error) error {
	if !errors.Is(err, blockdev.ErrBusy) {
		return err
	}
	if sb, idErr := set.Identify(ctx, path); idErr == nil && control.Owned(sb.Name) {
		return fmt.Errorf("%s: %w: it is being served as %q; stop it first (%w)", path,
			ErrRefused, sb.Name, err)
	}
	return err
}

// OpenToRepair opens a set whose superblocks may be damaged, to write to it or, with readOnly, to
// look at it. hint is a superblock of its backing from another place, or nil.
func OpenToRepair(ctx context.Context, path string, spares []string, hint *metadata.Superblock,
	readOnly bool) (*set.Set, error) {
	s, err := set.Gather(ctx, path, spares, hint, blockdev.Options{ReadOnly: readOnly})
	if err != nil {
		return nil, sayServed(ctx, path, err)
	}
	for _, d := range s.Devices {
		sb, err := metadata.Probe(d)
		if errors.Is(err, metadata.ErrPath) {
			return nil, errors.Join(err, s.Close())
		}
		if err != nil {
			sb = hint // the disk is to become this set
		}
		if err := notServedElsewhere(ctx, d, sb); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// notServedElsewhere refuses a disk whose set is being served over another path, or by a server
// that has not opened it yet.
//
// If a device waits for a server, its own disk may be repaired, because start may need that. A copy
// of the disk must not be repaired, because it would then be the newer one.
func notServedElsewhere(ctx context.Context, d *blockdev.Device, sb *metadata.Superblock) error {
	if sb == nil {
		return nil
	}
	r, err := control.ReadRecord(sb.Name)
	if err == nil && r.UUID != sb.UUID.String() {
		return nil // another set of that name
	}
	if control.Owned(sb.Name) {
		return fmt.Errorf("%s: %w: its set %q is being served; stop it first", d.Path(),
			ErrRefused, sb.Name)
	}
	if err != nil || !Present(r) {
		return nil
	}
	for _, p := range append([]string{r.Backing}, r.Spares...) {
		if p == d.Path() || blockdev.SameDisk(p, d.Path()) {
			return nil
		}
	}
	if now, err := set.Identify(ctx, r.Backing); err != nil || now.UUID != sb.UUID {
		return nil // it is not there any more
	}
	return fmt.Errorf("%s: %w: its set %q is that of %s over %s, which waits for a server, "+
		"and this is another disk; first: %s",
		d.Path(), ErrRefused, sb.Name, r.Device, r.Backing, shell.Command("stop", sb.Name))
}

// OpenToMark opens a stopped set whose table is to change. The error is ErrRefused if the set has a
// device or a server, and that of set.CheckNewest if another disk is the newer copy: a change
// would make the older one the newer.
func OpenToMark(ctx context.Context, path string, spares []string, readOnly bool) (*set.Set,
	error) {
	s, err := set.Open(ctx, path, spares, blockdev.Options{ReadOnly: readOnly})
	if err != nil {
		return nil, sayServed(ctx, path, err)
	}
	err = NotAwaited(path, s.Devices[0])
	for _, d := range s.Devices {
		if err == nil {
			err = NotServed(d)
		}
	}
	if err == nil {
		err = set.CheckNewest(ctx, path, set.IdentityOf(s.Superblock))
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenToRelease opens a set that will become a plain disk. It also opens one whose backing does not
// say that it is a set, because a create --in-place or a release was interrupted. In that case the
// spare device that says so must be named, and the set has no Superblock.
func OpenToRelease(ctx context.Context, path string, spares []string,
	readOnly bool) (*set.Set, error) {
	opts := blockdev.Options{ReadOnly: readOnly}
	s, err := set.Open(ctx, path, spares, opts)
	if err == nil {
		return s, nil
	}
	if !errors.Is(err, metadata.ErrNotFound) || len(spares) == 0 {
		return nil, sayServed(ctx, path, err)
	}
	s = &set.Set{}
	for _, p := range append([]string{path}, spares...) {
		d, openErr := blockdev.Open(ctx, p, opts)
		if openErr != nil {
			return nil, errors.Join(openErr, s.Close())
		}
		s.Devices = append(s.Devices, d)
	}
	all := s.Metadata()
	if sb, _, why := metadata.Interrupted(all[0], all[1:]); sb == nil && why == nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}
