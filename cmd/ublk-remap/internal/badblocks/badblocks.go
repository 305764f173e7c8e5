// Package badblocks works out what a new set must know about the bad blocks of its disks.
package badblocks

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"ublkremap/internal/lists"
	"ublkremap/metadata"
)

// ErrList is returned for a file that is not a list of block numbers.
var ErrList = lists.ErrList

// Range is a run of bytes of a device.
type Range = lists.Range

// maxUnits is the limit of a list: as many units as the largest spare region. If a list has more,
// the disk cannot be helped, or the file is no list of bad blocks.
const maxUnits = 4 << 20

// Read reads a list, which errors call name. block is the bytes of the blocks that its numbers
// count, and disk those of the disk that the list is for. Errors: ErrList, which names the line,
// and those of the reader.
func Read(in io.Reader, name string, block int, disk int64) (*lists.List, error) {
	return lists.Read(in, name, lists.Options{Format: lists.Badblocks,
		Block: cmp.Or(block, -1), Size: disk, BlockFlag: "--badblocks-size"})
}

// Entries is what a list means for a set.
type Entries struct {
	Entries  []metadata.Entry
	Blocks   uint64 // exported blocks that are pending
	Units    uint64 // units that these lie in: spare units that their first writes take
	Spares   uint64 // spare units that are retired
	Metadata uint64 // bad bytes where neither data nor spare units are
}

// Place is PlaceOn for the backing and the blocks of the list.
func Place(list []Range, l *metadata.Layout, now uint32) (Entries, error) {
	return PlaceOn(0, list, l, now, metadata.CauseImport)
}

// PlaceOn works out what bad blocks of a device mean for a set that is about to be made. Exported
// blocks become pending: reading one fails, as it would anyway, and the first write goes to the
// spare region without touching the bad block. Spare units are retired. The error is ErrList for
// blocks past the end of the device, and for more blocks than any spare region can take.
func PlaceOn(device uint8, list []Range, l *metadata.Layout, now uint32,
	cause metadata.Cause) (Entries, error) {
	p := placer{sb: l.Superblock(), l: l, now: now, cause: cause, device: device,
		masks: map[uint64]uint8{}}
	units := int64(0)
	for _, r := range list {
		if units += (r.End-1)/metadata.UnitSize - r.Start/metadata.UnitSize + 1; units > maxUnits {
			return p.out, fmt.Errorf("%w: more than %d units of %d bytes are bad", ErrList,
				maxUnits, metadata.UnitSize)
		}
		if size := p.sb.Devices[device].Size; r.End > size {
			return p.out, fmt.Errorf("%w: byte %d lies past the end of the disk, %d bytes", ErrList,
				r.Start, size)
		}
	}
	for _, r := range list {
		p.place(r)
	}
	p.out.pending(p.masks, now, cause)
	return p.out, nil
}

// placer collects what PlaceOn returns.
type placer struct {
	sb     metadata.Superblock
	l      *metadata.Layout
	now    uint32
	cause  metadata.Cause
	device uint8
	masks  map[uint64]uint8 // by unit
	out    Entries
}

func (p *placer) place(r Range) {
	covered := int64(0)
	if p.device == 0 {
		home := p.sb.ExportedBytes
		if p.sb.TailStart != 0 {
			home = p.sb.TailStart
		}
		if from, to := max(r.Start, p.sb.HeadBytes), min(r.End, home); from < to {
			p.exported(from, to)
			covered += to - from
		}
	}
	for _, region := range p.sb.Regions {
		from, to := max(r.Start, region.Start), min(r.End, region.Start+region.Length)
		if region.Device != p.device || from >= to {
			continue
		}
		switch region.Kind {
		case metadata.RegionDisplacedHead:
			p.exported(from-region.Start, to-region.Start)
			covered += to - from
		case metadata.RegionDisplacedTail:
			p.exported(p.sb.TailStart+from-region.Start, p.sb.TailStart+to-region.Start)
			covered += to - from
		case metadata.RegionSpare:
			first := uint64(from-region.Start) / metadata.UnitSize
			last := uint64(to-region.Start-1) / metadata.UnitSize
			p.out.retire(region.First+uint32(first), uint32(last-first+1), p.now, p.cause)
			covered += to - from
		}
	}
	p.out.Metadata += uint64(r.End - r.Start - covered)
}

// exported marks bytes [from, to) of the exported device.
func (p *placer) exported(from, to int64) {
	bs := int64(p.l.BlockSize())
	per := uint64(metadata.UnitSize) / uint64(bs)
	for b := uint64(from / bs); b < min(p.l.Blocks(), uint64((to+bs-1)/bs)); b++ {
		if bit := uint8(1) << (b % per); p.masks[b/per]&bit == 0 {
			p.masks[b/per] |= bit
			p.out.Blocks++
		}
	}
}

// Add returns the union of two results.
func (e *Entries) Add(o Entries) {
	e.Entries = append(e.Entries, o.Entries...)
	e.Blocks, e.Units, e.Spares, e.Metadata = e.Blocks+o.Blocks, e.Units+o.Units, e.Spares+o.Spares,
		e.Metadata+o.Metadata
}

// retire adds spare units in ascending order. Two ranges may share a unit.
func (e *Entries) retire(first, count, now uint32, cause metadata.Cause) {
	if n := len(e.Entries); n > 0 {
		if last := &e.Entries[n-1]; last.Spare+last.Count > first {
			first, count = first+1, count-1
		}
	}
	if count > 0 {
		e.Entries = append(e.Entries, metadata.Entry{
			Spare: first, Count: count, State: metadata.StateRetired, Cause: cause, Time: now,
		})
		e.Spares += uint64(count)
	}
}

// pending adds the units of masks. Neighbours with the same mask become one entry.
func (e *Entries) pending(masks map[uint64]uint8, now uint32, cause metadata.Cause) {
	units := make([]uint64, 0, len(masks))
	for u := range masks {
		units = append(units, u)
	}
	slices.Sort(units)
	e.Units = uint64(len(units))
	first := len(e.Entries)
	for _, u := range units {
		if n := len(e.Entries); n > first {
			if last := &e.Entries[n-1]; last.Unit+uint64(last.Count) == u && last.Mask == masks[u] {
				last.Count++
				continue
			}
		}
		e.Entries = append(e.Entries, metadata.Entry{
			Unit: u, Count: 1, Mask: masks[u], State: metadata.StatePending, Cause: cause,
			Time: now,
		})
	}
}
