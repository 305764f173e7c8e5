package server

import (
	"math/bits"

	"ublkremap/internal/blockdev"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// params describes the exported device. It is like its backing, and where the spare devices need
// more, it follows them. It always has a volatile cache and FUA, because without them the kernel
// never sends a flush.
func params(devices []*blockdev.Device, geo *remap.Geometry, maxIO int) ublk.Params {
	p := ublk.Params{
		Size: int64(geo.Blocks) * int64(geo.BlockSize), LogicalBlockSize: uint32(geo.BlockSize),
		VolatileCache: true, FUA: true,
		Discard: &ublk.DiscardParams{Granularity: uint32(geo.BlockSize), MaxDiscard: 1 << 62,
			MaxWriteZeroes: int64(maxIO)},
	}
	p.PhysicalBlockSize = uint32(max(geo.PhysicalBlock, physicalBlock(devices)))
	for _, d := range devices {
		g := d.Geometry()
		p.IOMin = max(p.IOMin, powerOfTwo(int64(g.IOMin)))
		p.DMAAlignment = max(p.DMAAlignment, powerOfTwo(int64(g.MemoryAlign)))
		p.VirtBoundaryMask |= g.VirtBoundary
		p.Rotational = p.Rotational || g.Rotational
		p.Discard.MaxDiscard = min(p.Discard.MaxDiscard, g.DiscardMax)
		switch {
		case !d.Punches():
			p.Discard.MaxDiscard = 0
		case d.IsBlock() && ublk.DiscardsByZeroing():
			p.Discard.MaxDiscard = min(p.Discard.MaxDiscard, g.WriteZeroesMax)
		}
		p.Discard.Granularity = max(p.Discard.Granularity, uint32(min(g.DiscardGranularity, 1<<31)))
		if !g.ZeroRange {
			// Without it the kernel writes zeroes itself, as it does for a disk that has no command
			// for it.
			p.Discard.MaxWriteZeroes = 0
		}
	}
	// Home blocks keep their offsets, so the backing's own figures apply.
	backing := devices[0].Geometry()
	p.IOOpt = powerOfTwo(int64(backing.IOOpt))
	p.IOMin = max(p.IOMin, p.PhysicalBlockSize)
	if p.IOOpt < p.IOMin {
		p.IOOpt = 0
	}
	p.Discard.Alignment = uint32(backing.DiscardAlignment)
	if p.Discard.MaxDiscard < int64(p.Discard.Granularity) {
		// One of the devices cannot discard. Then the exported device cannot either, but zeroes can
		// be written.
		p.Discard.MaxDiscard, p.Discard.Granularity, p.Discard.Alignment = 0, uint32(geo.BlockSize),
			0
	}
	p.Discard.MaxDiscard = min(p.Discard.MaxDiscard, maxDiscard)
	if p.Discard.MaxDiscard == 0 && p.Discard.MaxWriteZeroes == 0 {
		p.Discard = nil
	}
	return p
}

// physicalBlock is the largest physical block of the devices, in bytes. The largest counts because
// a block of the exported device may live on any of them.
func physicalBlock(devices []*blockdev.Device) int {
	size := 0
	for _, d := range devices {
		size = max(size, int(powerOfTwo(int64(d.Geometry().PhysicalBlock))))
	}
	return size
}

// maxDiscard bounds one discard. The map is searched for all that a discard covers at once, and no
// request should block a device for long.
const maxDiscard = 1 << 30

// powerOfTwo returns n if it is a power of two, else 0, because ublk stores shifts.
func powerOfTwo(n int64) uint32 {
	if n <= 0 || n > 1<<31 || bits.OnesCount64(uint64(n)) != 1 {
		return 0
	}
	return uint32(n)
}
