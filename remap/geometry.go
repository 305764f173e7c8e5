package remap

import (
	"math/bits"
	"sort"

	"ublkremap/metadata"
)

// SpareExtent says where spare units live.
type SpareExtent struct {
	First  uint32 // index of the extent's first spare unit
	Count  uint32 // spare units
	Device uint8
	Offset int64 // bytes on Device
}

// Geometry says where the blocks of the exported device and the spare units
// live. It does not change while the device is live.
type Geometry struct {
	BlockSize int // bytes: 512, 1024, 2048 or 4096
	// PhysicalBlock is what the disk writes and loses as one, in bytes: a power of two. 0, or
	// less than BlockSize, is BlockSize.
	PhysicalBlock int
	Blocks        uint64 // size of the exported device
	HeadBlocks    uint64 // exported blocks below this live in the displaced head
	HeadDevice    uint8
	HeadOffset    int64  // bytes on HeadDevice
	TailBlocks    uint64 // so many of the last blocks live in the displaced tail
	TailDevice    uint8
	TailOffset    int64         // bytes on TailDevice
	Spares        []SpareExtent // ordered by First
	Devices       int           // backing disk and spare devices
	// NoFUA: the device has no FUA, or it is not known to have it. The kernel would make a
	// write and a flush of a FUA write, with one result for both.
	NoFUA [MaxDevices]bool
	// TableCapacity is how many entries a checkpoint of the table holds; 0: no limit. Density is
	// the least density at which the table fits now: 0 except for sets that are nearly full. The
	// Arbiter states the table in fewer entries when that is necessary.
	TableCapacity uint64
	Density       metadata.Density
	// Known are byte offsets, by device, of 4096 bytes that could be read once, such as the
	// superblocks. Reading them shows whether a device is present. It may be empty.
	Known [][]int64
}

// BlocksPerUnit returns how many blocks make a unit.
func (g *Geometry) BlocksPerUnit() uint64 { return uint64(metadata.UnitSize / g.BlockSize) }

// unitShift is log2 of BlocksPerUnit. BlockSize is a power of two; a division would be
// most of what it costs to place a request.
func (g *Geometry) unitShift() uint {
	return (12 - uint(bits.TrailingZeros(uint(g.BlockSize)))) & 7
}

var _ [1 << 12]byte = [metadata.UnitSize]byte{}

// Units returns how many units the exported device has; the last may be cut
// short by its end.
func (g *Geometry) Units() uint64 {
	n := g.BlocksPerUnit()
	return (g.Blocks + n - 1) / n
}

// physicalBlocks returns how many blocks a physical block has. If one of them does not read, none
// of them does.
func (g *Geometry) physicalBlocks() uint64 { return uint64(max(1, g.PhysicalBlock/g.BlockSize)) }

// physical returns the blocks that lie in one physical block with a block, at home: where the
// exported blocks come from several places, each has an alignment of its own.
func (g *Geometry) physical(block uint64) (start, end uint64) {
	_, offset, limit := g.home(block)
	first := uint64(0)
	switch {
	case block >= g.Blocks-g.TailBlocks:
		first = g.Blocks - g.TailBlocks
	case block >= g.HeadBlocks:
		first = g.HeadBlocks
	}
	in := uint64(offset/int64(g.BlockSize)) % g.physicalBlocks()
	return block - min(in, block-first), block + min(g.physicalBlocks()-in, limit)
}

// home returns where an exported block lives as long as it is not remapped,
// and how many blocks follow it there at most.
func (g *Geometry) home(block uint64) (device uint8, offset int64, limit uint64) {
	if block < g.HeadBlocks {
		return g.HeadDevice, g.HeadOffset + int64(block)*int64(g.BlockSize), g.HeadBlocks - block
	}
	if tail := g.Blocks - g.TailBlocks; block < tail {
		return 0, int64(block) * int64(g.BlockSize), tail - block
	}
	in := block - (g.Blocks - g.TailBlocks)
	return g.TailDevice, g.TailOffset + int64(in)*int64(g.BlockSize), g.TailBlocks - in
}

// spare returns where a spare block (spare unit × blocks per unit + slot) lives
// and how many spare blocks follow it there at most.
func (g *Geometry) spare(block uint64) (device uint8, offset int64, limit uint64) {
	shift := g.unitShift()
	unit := uint32(block >> shift)
	e := &g.Spares[0]
	if len(g.Spares) > 1 {
		i := sort.Search(len(g.Spares), func(i int) bool { return g.Spares[i].First > unit })
		e = &g.Spares[i-1]
	}
	in := block - uint64(e.First)<<shift
	return e.Device, e.Offset + int64(in)*int64(g.BlockSize), uint64(e.Count)<<shift - in
}

// SpareOffset returns the device and the byte offset of a spare unit.
func (g *Geometry) SpareOffset(unit uint32) (device uint8, offset int64) {
	device, offset, _ = g.spare(uint64(unit) * g.BlocksPerUnit())
	return device, offset
}

// HomeOffset returns the device and the byte offset of an exported block's home.
func (g *Geometry) HomeOffset(block uint64) (device uint8, offset int64) {
	device, offset, _ = g.home(block)
	return device, offset
}
