package prepare

import (
	"errors"
	"fmt"
	"strings"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// Inspect says what on a device would be destroyed. The error is exit.ErrRefused if there is
// something, or might be.
func Inspect(d *blockdev.Device) ([]string, error) {
	var found []string
	var atEnd bool
	sb, err := metadata.Probe(d)
	switch {
	case errors.Is(err, metadata.ErrPath):
		return nil, err // whatever is on it
	case err == nil:
		found = append(found, fmt.Sprintf("ublk-remap's %s of %q on %s",
			sb.Devices[sb.DeviceIndex].Role, sb.Name, d.Path()))
	case errors.Is(err, metadata.ErrDamaged), errors.Is(err, metadata.ErrUnsupported):
		found = append(found, fmt.Sprintf("ublk-remap's format on %s (%v)", d.Path(), err))
	}
	f := blockdev.Detect(d, d.Size())
	for _, s := range f.Signatures {
		found = append(found, fmt.Sprintf("%s on %s", s, d.Path()))
		atEnd = atEnd || s.AtEnd
	}
	switch {
	case len(found) > 0:
		do := "use another disk, or add --force if all of it may go"
		if atEnd {
			do += "; what is at the end of the disk would stay visible there if only the " +
				"metadata were written"
		}
		return found, fmt.Errorf("%s: %w: there is %s; %s", d.Path(), exit.ErrRefused,
			strings.Join(found, ", and "), do)
	case len(f.Unread) > 0 && !f.Blank:
		// There can be a file system whose only mark is in the bad place.
		return []string{"what cannot be told on " + d.Path()},
			fmt.Errorf("%s: %w: byte %d cannot be read and the disk is not blank, so it may hold "+
				"data; add --force if it may go",
				d.Path(), exit.ErrRefused, f.Unread[0])
	}
	return nil, nil
}

// Kept decides whether a disk can be converted in place: whether all of its contents are in the
// part that will be exported. It returns what the contents are, and the offset of the page that
// identifies them. The error is exit.ErrRefused. With force, a disk with unknown contents is
// accepted.
func Kept(d *blockdev.Device, plan *metadata.Layout, force bool) (kept []string, mark int64,
	err error) {
	k := keepCheck{disk: d, exported: plan.Superblock().ExportedBytes,
		whole: len(plan.Superblock().Devices) > 1, force: force}
	if err := k.noSet(); err != nil {
		return nil, 0, err
	}
	f := blockdev.Detect(d, d.Size())
	kept = []string{}
	for _, s := range f.Signatures {
		kept = append(kept, s.String())
		if err := k.fits(s); err != nil {
			return nil, 0, err
		}
	}
	if len(kept) == 0 && !f.Blank && !force {
		return nil, 0, k.refuse("what is on it is not recognized; add --force if nothing but the "+
			"bytes below %d matters", k.exported)
	}
	if len(f.Unread) > 0 && !force {
		return nil, 0, k.refuse("byte %d cannot be read, so that what is on it may not have been "+
			"recognized; add --force if nothing but the bytes below %d matters", f.Unread[0],
			k.exported)
	}
	return kept, MarkOf(f.Signatures), nil
}

// keepCheck is the check of a disk that is to be converted in place.
type keepCheck struct {
	disk     *blockdev.Device
	exported int64 // bytes of it that will be exported
	whole    bool  // the exported device has the disk's full size
	force    bool
}

func (k *keepCheck) refuse(format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", k.disk.Path(), exit.ErrRefused, fmt.Sprintf(format, args...))
}

// noSet refuses a disk that already belongs to a set.
func (k *keepCheck) noSet() error {
	sb, err := metadata.Probe(k.disk)
	switch {
	case errors.Is(err, metadata.ErrPath):
		return err // whatever is on it
	case err == nil:
		return k.refuse("it is ublk-remap's %s of %q already", sb.Devices[sb.DeviceIndex].Role,
			sb.Name)
	case errors.Is(err, metadata.ErrDamaged), errors.Is(err, metadata.ErrUnsupported):
		return k.refuse("ublk-remap's format is on it (%v)", err)
	}
	return nil
}

// fits refuses a signature of something that would be exported only in part.
func (k *keepCheck) fits(s blockdev.Signature) error {
	switch {
	case s.Kind == blockdev.KindRemap:
		return k.refuse("there is %s, which another driver serves", s)
	case s.AtEnd && s.Kind != blockdev.KindPartitions:
		return k.refuse("there is %s at the end of the disk, where it would be cut off, or be "+
			"found while the disk is half converted; take the disk out of that first", s)
	case k.whole:
		return nil
	case s.Kind == blockdev.KindPartitions && s.Name != "dos":
		return k.refuse("there is %s, which has a copy at the end of the disk; add "+
			"--spare-device", s)
	}
	e, known := blockdev.ExtentOf(k.disk, k.disk.Size(), k.disk.Geometry().LogicalBlock, s)
	switch {
	case !known && !k.force:
		return k.refuse("there is %s, and how far it reaches is not known; add --spare-device, "+
			"or --force if nothing lies behind byte %d", s, k.exported)
	case known && e.End > k.exported:
		do := "it cannot be made smaller, add --spare-device"
		if e.Shrink != nil {
			do = "make it smaller first, with: " + e.Shrink(k.disk.Path(), k.exported) +
				"; or add --spare-device"
		}
		return k.refuse("there is %s, which ends at byte %d, %s too far: the bytes from %d on "+
			"are needed; %s", s, e.End, readable.Bytes(e.End-k.exported), k.exported, do)
	}
	return nil
}

// MarkOf returns the offset of the page that identifies a disk with these signatures: 0 or 64 KiB.
func MarkOf(signatures []blockdev.Signature) int64 {
	mark := int64(0)
	for _, s := range signatures {
		switch {
		case s.Offset < metadata.PageSize:
			return 0
		case s.Offset >= metadata.SuperblockStride &&
			s.Offset < metadata.SuperblockStride+metadata.PageSize:
			mark = metadata.SuperblockStride
		}
	}
	return mark
}
