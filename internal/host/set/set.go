// Package set finds and opens the disks that belong together: a backing disk and its spare
// devices, as the superblocks name them.
//
// [Open] opens a set that is whole, [Gather] one that is to be repaired. Disks that the caller
// does not name are looked for among the machine's block devices, by their UUID ([Find]).
// [Identify] says what a disk is without exclusive use.
//
// It writes nothing, prints nothing, and knows no servers: package host says whether a set is being
// served. A disk that is not the one that was in use last is refused with a [DeviceError]. The
// error says what the disk is, and which disk is wanted.
package set

import (
	"context"
	"errors"
	"fmt"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// ErrAmbiguous is returned when several disks claim to be the one that is searched for: a disk and
// its copy, or one disk by two paths.
var ErrAmbiguous = errors.New("several disks claim it")

// Set is an open set.
type Set struct {
	Superblock *metadata.Superblock
	Devices    []*blockdev.Device // as in Superblock.Devices: the backing first
}

// Close closes the devices.
func (s *Set) Close() error {
	var errs []error
	for _, d := range s.Devices {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	s.Devices = nil
	return errors.Join(errs...)
}

// Metadata returns the devices in the form that package metadata takes.
func (s *Set) Metadata() []metadata.Device {
	devs := make([]metadata.Device, len(s.Devices))
	for i, d := range s.Devices {
		devs[i] = d
	}
	return devs
}

// Identify reads the superblock of the device at path, without exclusive use.
// Errors: those of blockdev.Open and metadata.Probe, with the path.
func Identify(ctx context.Context, path string) (*metadata.Superblock, error) {
	d, err := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: true, Brief: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	sb, err := probe(d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sb, nil
}

// probe is metadata.Probe, but it also accepts devices without contents, such as a loop device
// without a file.
func probe(d *blockdev.Device) (*metadata.Superblock, error) {
	if d.Size() < metadata.RegionStart {
		return nil, metadata.ErrNotFound
	}
	return metadata.Probe(d)
}

// Open opens the backing at path and the spare devices that its superblock names. It looks for them
// in spares first, then among the machine's devices. Every device must be the one that was in use
// last. Otherwise the error is a *DeviceError that says which device is wanted.
func Open(ctx context.Context, path string, spares []string, o blockdev.Options) (*Set, error) {
	d, err := blockdev.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Set{Devices: []*blockdev.Device{d}}
	if s.Superblock, err = probe(d); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	}
	if err := s.checkBacking(ctx, spares); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	w := spareOpener{set: s, options: o, epochs: true}
	if err := w.open(ctx, spares); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Gather opens the devices of a set for a repair or a restore. Devices that are named may have lost
// their superblocks. hint is a superblock of the set's backing from another place, or nil. The
// result's Superblock is the newest that is known, or nil if there is none. Devices that carry
// another superblock than they should are refused as in Open.
func Gather(ctx context.Context, path string, spares []string, hint *metadata.Superblock,
	o blockdev.Options) (*Set, error) {
	d, err := blockdev.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Set{Devices: []*blockdev.Device{d}}
	own, err := probe(d)
	switch {
	case errors.Is(err, metadata.ErrUnsupported), errors.Is(err, metadata.ErrPath):
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	case err == nil && own.DeviceIndex != 0:
		s.Superblock = own
		return nil, errors.Join(s.checkBacking(ctx, spares), s.Close())
	case err == nil && hint != nil && own.UUID != hint.UUID:
		return nil, errors.Join(&DeviceError{Path: path, Err: metadata.ErrForeign,
			What: fmt.Sprintf("it is the backing of %s, and the backing of %s is wanted",
				setName(own), setName(hint)),
			Do: "name the disk that the backup was made of",
		}, s.Close())
	case err == nil:
		s.Superblock = own
	default:
		own = nil
		s.Superblock = hint
	}
	if s.Superblock == nil {
		// The spare devices say which set it is.
		for _, spare := range spares {
			if sb, err := Identify(ctx, spare); err == nil &&
				(s.Superblock == nil || sb.Generation > s.Superblock.Generation) {
				s.Superblock = sb
			}
		}
	}
	if s.Superblock == nil {
		for _, spare := range spares {
			d, err := blockdev.Open(ctx, spare, o)
			if err != nil {
				return nil, errors.Join(err, s.Close())
			}
			s.Devices = append(s.Devices, d)
		}
		return s, nil
	}
	w := spareOpener{set: s, options: o, epochs: own != nil, takeBare: true}
	if err := w.open(ctx, spares); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkBacking refuses a device that is not the backing, or is no longer the backing.
func (s *Set) checkBacking(ctx context.Context, spares []string) error {
	d, sb := s.Devices[0], s.Superblock
	if sb.DeviceIndex != 0 {
		do := "name the backing disk"
		for _, path := range spares {
			if other, err := Identify(ctx, path); err == nil && other.UUID == sb.UUID &&
				other.DeviceIndex == 0 {
				do += ", which is " + path
			}
		}
		return &DeviceError{Path: d.Path(), Err: metadata.ErrForeign,
			What: fmt.Sprintf("it is a spare device of %q", sb.Name), Do: do}
	}
	if sb.Transition != metadata.TransitionNone || metadata.HasFrontSuperblock(d) {
		return nil
	}
	// Only the superblock at the end is left of the set. A disk on which a file system was made
	// since would look like this too.
	if found := Marks(d); found != "" {
		return &DeviceError{Path: d.Path(), Err: ErrUnfit,
			What: fmt.Sprintf("only the superblock at its end is left of %q, and there is %s on "+
				"it: it may have been put to another use since", sb.Name, found),
			Do: "erase what should not be there (wipefs), and then: ublk-remap metadata repair",
		}
	}
	return nil
}
