package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// foundCopy is one place where a superblock may be.
type foundCopy struct {
	offset int64
	sb     *Superblock // nil where err says why, except for ErrUnsupported
	err    error
	// partition: it has the partition of the protective table
	partition bool
}

// readSuperblocks reads all copies on a device: the two at its start, the third
// one near it, the one at its end, and the one where its end was when it joined the
// set. There need not be a third or a fourth one. In their places only a superblock counts,
// because on most disks data lies there.
func readSuperblocks(dev Device) []foundCopy {
	b := AlignedBytes(PageSize)
	var out []foundCopy
	read := func(off int64) {
		if off < 0 || off > dev.Size()-PageSize {
			return
		}
		for _, c := range out {
			if c.offset == off {
				return
			}
		}
		c := foundCopy{offset: off}
		if _, err := dev.ReadAt(b, off); err != nil {
			c.err = fmt.Errorf("reading the superblock at %d: %w", off, err)
		} else {
			c.sb, c.err = decodeSuperblock(b)
			if c.sb != nil && !slices.Contains(c.sb.copies(c.sb.DeviceIndex), off) {
				// This is data, or the disk was copied to a larger one.
				c.sb, c.err = nil, fmt.Errorf("%w at %d: the superblock there is the copy of one "+
					"that lay elsewhere", ErrNotFound, off)
			}
			c.partition = c.sb != nil && showsPartition(b)
		}
		out = append(out, c)
	}
	optional := func(off int64) {
		named := slices.ContainsFunc(out, func(c foundCopy) bool {
			return c.sb != nil && slices.Contains(c.sb.copies(c.sb.DeviceIndex), off)
		})
		read(off)
		if last := len(out) - 1; last >= 0 && out[last].offset == off && out[last].sb == nil &&
			!named {
			out = out[:last]
		}
	}
	read(0)
	read(SuperblockStride)
	optional(thirdSuperblock(PageSize))
	optional(thirdSuperblock(SuperblockStride))
	read(tailSuperblock(dev.Size()))
	optional(tailSuperblock(dev.Size()) + fourthStride)
	for _, c := range out {
		if c.sb != nil && c.sb.DeviceIndex == 0 && c.sb.Devices[0].Size != dev.Size() {
			read(tailSuperblock(c.sb.Devices[0].Size))
			optional(tailSuperblock(c.sb.Devices[0].Size) + fourthStride)
			break
		}
	}
	return out
}

// elect picks a set and returns the newest of its copies. The set is the one with the most
// copies, or, of several with equally many, the first. Copies of another set do not count:
// they were left in a place that could neither be read nor written for a while.
func elect(copies []foundCopy) (*Superblock, error) {
	var best, first *Superblock
	firstErr := fmt.Errorf("%w: the device is too small for any", ErrNotFound)
	var bestErr error
	for _, c := range copies {
		if c.sb == nil {
			// No superblock is the weakest reason; unreadable or damaged says more.
			if errors.Is(firstErr, ErrNotFound) {
				firstErr = c.err
			}
			continue
		}
		if first == nil || count(copies, c.sb.UUID) > count(copies, first.UUID) {
			first, best = c.sb, nil
		}
		if c.sb.UUID == first.UUID && (best == nil || c.sb.Generation > best.Generation) {
			best, bestErr = c.sb, c.err
		}
	}
	if best == nil {
		return nil, firstErr
	}
	return best, bestErr
}

// count is how many copies are of a set.
func count(copies []foundCopy, set uuid.UUID) (n int) {
	for _, c := range copies {
		if c.sb != nil && c.sb.UUID == set {
			n++
		}
	}
	return n
}

// Probe says what a device is, from its superblocks alone: UUID and name of
// its set, and its role: Devices[DeviceIndex].Role. Errors: ErrNotFound,
// ErrDamaged, ErrUnsupported (the superblock is returned anyway if it
// could be read), the device's if no copy could be read, and ErrPath.
func Probe(dev Device) (sb *Superblock, err error) {
	devs := withRetries([]Device{dev})
	_, unasked := untilStable(devs, func() (struct{}, error) {
		sb, err = elect(readSuperblocks(devs[0]))
		return struct{}{}, nil
	})
	if unasked != nil {
		return nil, unasked
	}
	return sb, err
}

// HasFrontSuperblock reports whether one of the superblocks at the start of a device is
// whole. If only the one at the end is, something else may have been written
// to the device since: a new file system does not write to the end.
func HasFrontSuperblock(dev Device) bool {
	for _, c := range readSuperblocks(withRetries([]Device{dev})[0]) {
		if c.sb != nil && c.offset <= RegionStart {
			return true
		}
	}
	return false
}
