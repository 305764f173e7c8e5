package prepare

import (
	"errors"
	"fmt"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// blankEnds is how much of each end of a device is zeroed if the device was in use. Every mark that
// Detect knows is within it.
const blankEnds = 4 << 20

// Blank zeroes places that must not look like a file system. The displaced head shows at the start
// of the exported device, and a displaced tail at its end. The end of the backing is not written
// later. If a device was in use (used), its ends are zeroed as well, so that no old mark stays
// behind.
//
// Blocks that cannot be written stay as they are. They cannot be read either, or they are healed at
// their first write. Known bad places of the displaced head and tail are not tried, because they
// are pending.
func (p *Preparation) Blank(used bool) (err error) {
	buf, err := blockdev.Aligned(1 << 20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blockdev.Free(buf)) }()
	if used {
		for _, d := range p.devs {
			zeroEnds(d, buf)
		}
	}
	bad := p.badRanges()
	for i, part := range p.plan.Displaced() {
		for _, r := range badblocks.Subtract([]badblocks.Range{{Start: part.Offset,
			End: part.Offset + part.Length}}, badOn(bad, part.Device, int64(p.plan.BlockSize()))) {
			zero(p.devs[part.Device], buf, r.Start, r.End)
		}
		if i > 0 {
			zero(p.devs[0], buf, part.Start, part.Start+part.Length)
		}
	}
	for _, d := range p.devs {
		if err := d.Sync(); err != nil {
			return fmt.Errorf("before anything was written that counts: %w", err)
		}
	}
	return nil
}

// ZeroEnds zeroes both ends of a device whose old contents may be destroyed.
func ZeroEnds(d *blockdev.Device) { zeroEnds(d, metadata.AlignedBytes(1<<20)) }

// badOn returns the bad ranges of a device, in whole blocks. The set has all of these blocks as
// pending.
func badOn(bad []metadata.BadRange, device uint8, block int64) []badblocks.Range {
	var on []badblocks.Range
	for _, b := range bad {
		if b.Device == device {
			on = append(on, badblocks.Range{Start: b.Start / block * block,
				End: (b.End + block - 1) / block * block})
		}
	}
	return badblocks.Merge(on)
}

// zeroEnds is ZeroEnds, from a buffer of zeroes.
func zeroEnds(d *blockdev.Device, buf []byte) {
	end := d.Size() / int64(d.Geometry().LogicalBlock) * int64(d.Geometry().LogicalBlock)
	zero(d, buf, 0, min(blankEnds, end))
	zero(d, buf, max(0, end-blankEnds), end)
}

// zero writes zeroes to [from, to), and goes around places that cannot be written.
func zero(d *blockdev.Device, buf []byte, from, to int64) {
	block := int64(d.Geometry().LogicalBlock)
	for from < to {
		n := min(int64(len(buf)), to-from)
		if _, err := d.WriteAt(buf[:n], from); err != nil {
			for off := from; off < from+n; off += metadata.UnitSize {
				zeroUnit(d, buf[:min(metadata.UnitSize, from+n-off)], off, block)
			}
		}
		from += n
	}
}

// zeroUnit writes zeroes to a unit. If that fails, it writes to the unit's blocks, unless the disk
// took long to fail.
func zeroUnit(d *blockdev.Device, zeroes []byte, off, block int64) {
	begun := time.Now()
	if _, err := d.WriteAt(zeroes, off); err == nil || time.Since(begun) > time.Second {
		return
	}
	for at := int64(0); at < int64(len(zeroes)); at += block {
		_, _ = d.WriteAt(zeroes[at:at+block], off+at)
	}
}
