package set

import (
	"errors"
	"fmt"
	"strings"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// ErrUnfit is wrapped by a DeviceError for a device that belongs to the set and is refused anyway:
// a clone, a device that was cut off, or one that has another use now.
var ErrUnfit = errors.New("not the device that the set needs")

// DeviceError says why a device is refused, which one is wanted, and what to do.
// It wraps ErrUnfit, metadata.ErrForeign, metadata.ErrStale or
// metadata.ErrNotFound.
type DeviceError struct {
	Path string
	Err  error  // what it is
	What string // what was found, and what is wanted
	Do   string
}

// Error returns one line.
func (e *DeviceError) Error() string {
	return fmt.Sprintf("%s: %v: %s; %s", e.Path, e.Err, e.What, e.Do)
}

// Unwrap returns the kind of the error.
func (e *DeviceError) Unwrap() error { return e.Err }

// Advised reports that the text already says what to do.
func (e *DeviceError) Advised() bool { return true }

// setName names a set for messages.
func setName(sb *metadata.Superblock) string { return fmt.Sprintf("%q (%s)", sb.Name, sb.UUID) }

// wanted names a device of the set for messages.
func (s *Set) wanted(index int) string {
	d := &s.Superblock.Devices[index]
	return fmt.Sprintf("%s device %s (%s) of %s", d.Role, d.UUID, readable.Bytes(d.Size),
		setName(s.Superblock))
}

// missing names the spare devices that are not there yet, for messages.
func (s *Set) missing() string {
	var all []string
	for i := 1; i < len(s.Superblock.Devices); i++ {
		if i >= len(s.Devices) || s.Devices[i] == nil {
			all = append(all, s.wanted(i))
		}
	}
	return strings.Join(all, ", or ")
}

// fits says which spare device of the set d is, or why it is none. sb and err are the results of
// probe for d. epochs says that the set's superblock is the backing's own, so that the epochs show
// which device was absent.
func (s *Set) fits(d *blockdev.Device, sb *metadata.Superblock, err error, epochs bool) (index int,
	_ error) {
	refuse := func(kind error, do, format string, args ...any) (int, error) {
		return 0, &DeviceError{Path: d.Path(), Err: kind, What: fmt.Sprintf(format, args...),
			Do: do}
	}
	attach := "attach that one, or name it with --spare-device"
	switch {
	case err != nil:
		now := "it is blank or damaged"
		if found := Marks(d); found != "" {
			now = "there is " + found + " on it"
		}
		return refuse(err, attach+"; if it is the right one and only its superblocks are lost, "+
			"see: ublk-remap metadata repair",
			"%s, and %s is wanted", now, s.missing())
	case sb.UUID != s.Superblock.UUID:
		role := "the backing"
		if sb.DeviceIndex != 0 {
			role = "spare device " + sb.Devices[sb.DeviceIndex].UUID.String()
		}
		return refuse(metadata.ErrForeign, attach, "it is %s of %s, and %s is wanted", role,
			setName(sb), s.missing())
	case sb.DeviceIndex == 0:
		return refuse(metadata.ErrForeign, "name each device once, and no clone",
			"it is a backing of %s, as %s is, and %s is wanted",
			setName(sb), s.Devices[0].Path(), s.missing())
	}
	own := sb.Devices[sb.DeviceIndex]
	for i := 1; i < len(s.Superblock.Devices); i++ {
		if s.Superblock.Devices[i].UUID == own.UUID {
			index = i
		}
	}
	if index == 0 {
		return refuse(metadata.ErrForeign, attach, "it is spare device %s of %s, which is not in "+
			"use any more, and %s is wanted", own.UUID, setName(sb), s.missing())
	}
	if err := s.current(d.Path(), sb, epochs); err != nil {
		return 0, err
	}
	if d.Size() < s.Superblock.Devices[index].Size {
		return refuse(ErrUnfit, "attach the device itself, not a copy on a smaller one",
			"it has %s bytes, and %s has %s", readable.Number(uint64(d.Size())), s.wanted(index),
			readable.Number(uint64(s.Superblock.Devices[index].Size)))
	}
	return index, nil
}

// current refuses a device of the set that was absent from a start, and a backing that was.
func (s *Set) current(path string, sb *metadata.Superblock, epochs bool) error {
	backing := s.Superblock
	switch {
	case !epochs:
	case sb.Epoch < backing.Epoch:
		return &DeviceError{Path: path, Err: metadata.ErrStale,
			What: fmt.Sprintf("it is of epoch %d (%s), and the backing %s of epoch %d (%s): it "+
				"was absent since, or is a clone",
				sb.Epoch, started(sb.Started), s.Devices[0].Path(), backing.Epoch,
				started(backing.Started)),
			Do: fmt.Sprintf("attach the device %s that was in use last",
				sb.Devices[sb.DeviceIndex].UUID),
		}
	case sb.Epoch > backing.Epoch && sb.PrevEpoch > backing.Epoch:
		// Spare devices get a new epoch first. So a spare device may be ahead by one start that was
		// interrupted. It cannot be ahead by a start that was not.
		return &DeviceError{Path: s.Devices[0].Path(), Err: metadata.ErrStale,
			What: fmt.Sprintf("it is of epoch %d (%s), and its spare device %s of epoch %d (%s): "+
				"the backing was put back to an earlier time, or is a clone",
				backing.Epoch, started(backing.Started), path, sb.Epoch, started(sb.Started)),
			Do: fmt.Sprintf("attach the disk %s that was in use last", backing.Devices[0].UUID),
		}
	}
	return nil
}

// Marks lists other known marks at the start of a device. It is empty if there are none. Marks at
// the end are not listed, because they may belong to the data of the set.
func Marks(d *blockdev.Device) string {
	var all []string
	for _, m := range blockdev.Detect(d, d.Size()).Signatures {
		if !m.AtEnd {
			all = append(all, m.String())
		}
	}
	return strings.Join(all, ", ")
}
