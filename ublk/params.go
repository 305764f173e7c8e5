package ublk

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"unsafe"

	"ublkremap/ublk/internal/uapi"
)

var pageSize = os.Getpagesize()

// Params are the properties of the block device. Sizes are in bytes; where the kernel keeps
// sectors or shifts they are converted, and what cannot be converted exactly is refused.
type Params struct {
	Size              int64  // a multiple of the logical block size, not zero
	LogicalBlockSize  uint32 // a power of two from 512 to the page size; 0 is 512
	PhysicalBlockSize uint32 // a power of two, not below the logical; 0 is the logical block size
	// preferred smallest request, a power of two, not below the physical; 0 is the physical
	// block size
	IOMin uint32
	// best request, a power of two not below the logical block size; 0 is IOMin
	IOOpt            uint32
	ChunkSize        uint32 // requests never cross a multiple of this; 0: no such boundary
	VirtBoundaryMask uint64 // gaps between segments must be aligned to this plus one; 0: none

	// the device has a cache: the kernel sends flushes. Without it the kernel never sends OpFlush
	VolatileCache bool
	FUA           bool // writes may carry FlagFUA; otherwise the kernel flushes after them
	Rotational    bool
	ReadOnly      bool

	Discard *DiscardParams // nil: neither discard nor write zeroes
	// DMAAlignment is the alignment that data must have in memory and in length, a power of
	// two; 0: the kernel's default. Kernels before 6.14 do not know it.
	DMAAlignment uint32
	// Segments limits the pieces a request is made of; nil: the kernel's default. Kernels
	// before 6.15 do not know it.
	Segments *SegmentParams
}

// DiscardParams says what OpDiscard and OpWriteZeroes the device takes.
type DiscardParams struct {
	// unit of discard, a multiple of the logical block size; 0 is the logical block size
	Granularity    uint32
	Alignment      uint32 // offset of the first unit
	MaxDiscard     int64  // longest discard; 0: no discard
	MaxWriteZeroes int64  // longest write zeroes; 0: none, the kernel writes zeroes as data
	MaxSegments    uint16 // ranges of one discard request; only 1 is possible now, 0 is 1
}

// SegmentParams limits the pieces of memory that a request is made of.
type SegmentParams struct {
	// a segment does not cross a multiple of this plus one, which is a power of two of at
	// least 4096
	BoundaryMask uint64
	MaxSize      uint32 // at least 4096
	MaxCount     uint16 // at least 1
}

func (p *Params) setDefaults() {
	if p.LogicalBlockSize == 0 {
		p.LogicalBlockSize = 512
	}
	p.PhysicalBlockSize = max(p.PhysicalBlockSize, p.LogicalBlockSize)
	p.IOMin = max(p.IOMin, p.PhysicalBlockSize)
	p.IOOpt = max(p.IOOpt, p.IOMin)
}

func isPow2(n uint64) bool { return n != 0 && n&(n-1) == 0 }

func (p Params) validate() error {
	p.setDefaults()
	for _, v := range []struct {
		name string
		n    uint32
	}{
		{"logical block size", p.LogicalBlockSize}, {"physical block size", p.PhysicalBlockSize},
		{"smallest I/O", p.IOMin}, {"best I/O", p.IOOpt},
	} {
		if !isPow2(uint64(v.n)) || v.n < SectorSize {
			return fmt.Errorf("ublk: %s of %d bytes is not a power of two of at least %d", v.name,
				v.n, SectorSize)
		}
	}
	if int(p.LogicalBlockSize) > pageSize {
		return fmt.Errorf("ublk: logical block size %d is larger than a page", p.LogicalBlockSize)
	}
	if p.Size <= 0 || p.Size%int64(p.LogicalBlockSize) != 0 {
		return fmt.Errorf("ublk: size of %d bytes is not a positive multiple of the logical "+
			"block size %d", p.Size, p.LogicalBlockSize)
	}
	if p.ChunkSize%SectorSize != 0 {
		return fmt.Errorf("ublk: chunk size %d is not a multiple of %d", p.ChunkSize, SectorSize)
	}
	if p.DMAAlignment != 0 && (!isPow2(uint64(p.DMAAlignment)) || int(p.DMAAlignment) > pageSize) {
		return fmt.Errorf("ublk: DMA alignment %d is not a power of two up to a page",
			p.DMAAlignment)
	}
	if d := p.Discard; d != nil {
		if d.MaxDiscard < 0 || d.MaxWriteZeroes < 0 || d.MaxDiscard%SectorSize != 0 ||
			d.MaxWriteZeroes%SectorSize != 0 {
			return errors.New("ublk: discard and write-zeroes limits must be multiples of 512 " +
				"bytes, not negative")
		}
		if d.MaxDiscard == 0 && d.MaxWriteZeroes == 0 {
			return errors.New("ublk: discard parameters without discard or write zeroes")
		}
		if d.MaxSegments > 1 {
			return errors.New("ublk: the driver has one range per discard")
		}
		if d.Granularity%p.LogicalBlockSize != 0 {
			return fmt.Errorf("ublk: discard granularity %d is not a multiple of the logical "+
				"block size", d.Granularity)
		}
	}
	if s := p.Segments; s != nil {
		if !isPow2(s.BoundaryMask+1) || s.BoundaryMask+1 < uint64(uapi.MinSegmentSize) ||
			s.MaxSize < uapi.MinSegmentSize || s.MaxCount == 0 {
			return errors.New("ublk: segment limits below the driver's least")
		}
	}
	return nil
}

const maxSectors = 1<<32 - 1

func log2(n uint32) uint8 { return uint8(bits.TrailingZeros32(n)) }

// encode makes the kernel's form. maxIO is the largest read or write in bytes.
func (p Params) encode(maxIO int) uapi.Params {
	p.setDefaults()
	k := uapi.Params{Len: uint32(unsafe.Sizeof(uapi.Params{})), Types: uapi.ParamTypeBasic}
	k.Basic = uapi.ParamBasic{
		LogicalBSShift:   log2(p.LogicalBlockSize),
		PhysicalBSShift:  log2(p.PhysicalBlockSize),
		IOOptShift:       log2(p.IOOpt),
		IOMinShift:       log2(p.IOMin),
		MaxSectors:       uint32(maxIO / SectorSize),
		ChunkSectors:     p.ChunkSize / SectorSize,
		DevSectors:       uint64(p.Size) / SectorSize,
		VirtBoundaryMask: p.VirtBoundaryMask,
	}
	for _, a := range []struct {
		on  bool
		bit uint32
	}{
		{p.ReadOnly, uapi.AttrReadOnly}, {p.Rotational, uapi.AttrRotational},
		{p.VolatileCache, uapi.AttrVolatileCache}, {p.FUA, uapi.AttrFUA},
	} {
		if a.on {
			k.Basic.Attrs |= a.bit
		}
	}
	if d := p.Discard; d != nil {
		k.Types |= uapi.ParamTypeDiscard
		k.Discard = uapi.ParamDiscard{
			Alignment:             d.Alignment,
			Granularity:           max(d.Granularity, p.LogicalBlockSize),
			MaxDiscardSectors:     uint32(min(d.MaxDiscard/SectorSize, maxSectors)),
			MaxWriteZeroesSectors: uint32(min(d.MaxWriteZeroes/SectorSize, maxSectors)),
			MaxDiscardSegments:    1,
		}
	}
	if p.DMAAlignment != 0 {
		k.Types |= uapi.ParamTypeDMAAlign
		k.DMA.Alignment = p.DMAAlignment - 1
	}
	if s := p.Segments; s != nil {
		k.Types |= uapi.ParamTypeSegment
		k.Seg = uapi.ParamSegment{SegBoundaryMask: s.BoundaryMask, MaxSegmentSize: s.MaxSize,
			MaxSegments: s.MaxCount}
	}
	return k
}

// decodeParams is the inverse of encode.
func decodeParams(k *uapi.Params) Params {
	b := &k.Basic
	p := Params{
		Size:              int64(b.DevSectors) * SectorSize,
		LogicalBlockSize:  1 << b.LogicalBSShift,
		PhysicalBlockSize: 1 << b.PhysicalBSShift,
		IOMin:             1 << b.IOMinShift,
		IOOpt:             1 << b.IOOptShift,
		ChunkSize:         b.ChunkSectors * SectorSize,
		VirtBoundaryMask:  b.VirtBoundaryMask,
		VolatileCache:     b.Attrs&uapi.AttrVolatileCache != 0,
		FUA:               b.Attrs&uapi.AttrFUA != 0,
		Rotational:        b.Attrs&uapi.AttrRotational != 0,
		ReadOnly:          b.Attrs&uapi.AttrReadOnly != 0,
	}
	if k.Types&uapi.ParamTypeDiscard != 0 {
		d := &k.Discard
		p.Discard = &DiscardParams{
			Granularity:    d.Granularity,
			Alignment:      d.Alignment,
			MaxDiscard:     int64(d.MaxDiscardSectors) * SectorSize,
			MaxWriteZeroes: int64(d.MaxWriteZeroesSectors) * SectorSize,
			MaxSegments:    d.MaxDiscardSegments,
		}
	}
	if k.Types&uapi.ParamTypeDMAAlign != 0 {
		p.DMAAlignment = k.DMA.Alignment + 1
	}
	if k.Types&uapi.ParamTypeSegment != 0 {
		p.Segments = &SegmentParams{BoundaryMask: k.Seg.SegBoundaryMask,
			MaxSize: k.Seg.MaxSegmentSize, MaxCount: k.Seg.MaxSegments}
	}
	return p
}
