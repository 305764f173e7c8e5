package set

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// spareOpener opens the spare devices of a set whose backing is open.
type spareOpener struct {
	set     *Set
	options blockdev.Options
	// epochs: the set's superblock is the backing's own, so that epochs tell who was absent.
	epochs bool
	// takeBare: devices without superblocks are opened too. They fill the places that no other
	// device has, in the order in which they were named.
	takeBare bool
	bare     []*blockdev.Device
}

// open opens the devices at paths, and looks for those that are not among them.
func (w *spareOpener) open(ctx context.Context, paths []string) error {
	s := w.set
	want := s.Superblock.Devices[1:]
	if len(paths) > len(want) {
		return &DeviceError{Path: paths[len(want)], Err: metadata.ErrForeign,
			What: fmt.Sprintf("%d spare devices were given, %q has %d", len(paths),
				s.Superblock.Name, len(want)),
			Do: "leave out what does not belong to it",
		}
	}
	s.Devices = append(s.Devices, make([]*blockdev.Device, len(want))...)
	// The set owns the devices without superblocks from here on, also after an error. There may
	// turn out to be more of them than places.
	defer func() { s.Devices = append(s.Devices, w.bare...) }()
	for _, path := range paths {
		if err := w.add(ctx, path); err != nil {
			return err
		}
	}
	for i := 1; i <= len(want); i++ {
		if s.Devices[i] != nil {
			continue
		}
		if len(w.bare) > 0 {
			s.Devices[i], w.bare = w.bare[0], w.bare[1:]
			continue
		}
		path, err := w.find(ctx, i)
		if err != nil {
			return err
		}
		if err := w.add(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// add opens the device at path and puts it into its place.
func (w *spareOpener) add(ctx context.Context, path string) error {
	d, err := blockdev.Open(ctx, path, w.options)
	if err != nil {
		return err
	}
	sb, err := probe(d)
	unread := errors.Is(err, metadata.ErrUnsupported) || errors.Is(err, metadata.ErrPath)
	if err != nil && !unread && w.takeBare {
		w.bare = append(w.bare, d)
		return nil
	}
	if err == nil || errors.Is(err, metadata.ErrNotFound) || errors.Is(err, metadata.ErrDamaged) {
		var at int
		if at, err = w.set.fits(d, sb, err, w.epochs); err == nil {
			err = w.put(d, at)
		}
	} else {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return nil
}

// put makes a device the spare device of its number.
func (w *spareOpener) put(d *blockdev.Device, at int) error {
	if other := w.set.Devices[at]; other != nil {
		return &DeviceError{Path: d.Path(), Err: ErrUnfit,
			What: fmt.Sprintf("it is the same as %s, or one is a clone of the other",
				other.Path()),
			Do: "name each device once, and no clone"}
	}
	w.set.Devices[at] = d
	return nil
}

// find looks for a spare device among the machine's block devices. It ignores older clones if the
// device itself is there.
func (w *spareOpener) find(ctx context.Context, index int) (string, error) {
	copies, unanswered, err := search(ctx, findLimit, "", func(sb *metadata.Superblock) bool {
		return sb.UUID == w.set.Superblock.UUID && int(sb.DeviceIndex) == index
	})
	if err != nil {
		return "", err
	}
	var fit []found
	var last error
	for _, c := range copies {
		if last = w.set.current(c.path, c.sb, w.epochs); last == nil {
			fit = append(fit, c)
		}
	}
	wanted := w.set.wanted(index)
	switch {
	case len(fit) == 1:
		return fit[0].path, nil
	case len(fit) > 1:
		return "", &DeviceError{Path: w.set.Devices[0].Path(), Err: ErrAmbiguous,
			What: fmt.Sprintf("%s all claim to be %s: all but one are clones, or other ways to "+
				"the same device", strings.Join(describe(fit), ", "), wanted),
			Do: "name it with --spare-device"}
	case last != nil:
		return "", last
	}
	where := " is on no block device here"
	if len(unanswered) > 0 {
		where += fmt.Sprintf(" that answers; %s did not, or only with errors, within %s",
			strings.Join(unanswered, ", "), findLimit)
	}
	return "", &DeviceError{Path: w.set.Devices[0].Path(), Err: metadata.ErrNotFound,
		What: wanted + where,
		Do:   "attach it, or name it with --spare-device"}
}
