// Package badblocks reads lists of bad blocks as badblocks(8) writes them, one
// number a line, and works out what a new set has to know about them.
package badblocks

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"ublkremap/metadata"
)

// ErrList is returned for a file that is not a list of block numbers.
var ErrList = errors.New("not a list of block numbers")

// Range is a run of bytes of the backing.
type Range struct{ Start, End int64 }

// maxBlock keeps products with any block size in range.
const maxBlock = 1 << 46

// What a list may have at most: as many units as the largest spare region. Who
// has more bad blocks has another problem, or another file.
const maxLines, maxUnits = 4 << 20, 4 << 20

// Read reads the list in the file at path, of blocks of size bytes, and returns
// it sorted and merged. Empty lines and lines that begin with # do not count.
// Errors: ErrList, and those of the file.
func Read(path string, size int) ([]Range, error) {
	if size < 512 || size > 1<<16 || size&(size-1) != 0 {
		return nil, fmt.Errorf("%w: blocks of %d bytes", ErrList, size)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Range
	line := 0
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line++
		text := strings.TrimSpace(sc.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > maxBlock {
			return nil, fmt.Errorf("%s:%d: %w: %.40q", path, line, ErrList, text)
		}
		if len(list) == maxLines {
			return nil, fmt.Errorf("%s:%d: %w: more than %d blocks", path, line, ErrList, maxLines)
		}
		list = append(list, Range{n * int64(size), (n + 1) * int64(size)})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w: %w", path, line+1, ErrList, err)
	}
	slices.SortFunc(list, func(a, b Range) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	merged := list[:0]
	for _, r := range list {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return merged, nil
}

// Entries is what a list means for a set.
type Entries struct {
	Entries  []metadata.Entry
	Blocks   uint64 // exported blocks that are pending
	Units    uint64 // units that these lie in: spare units that their first writes take
	Spares   uint64 // spare units that are retired
	Metadata uint64 // bad bytes that lie in the metadata, where nothing can be done about them here
}

// Place works out what the list, of the backing, means for a set about to be
// made. Exported blocks become pending: reading one fails, as it would
// anyway, and the first write goes to the spare region without touching the
// bad block. Spare units are retired. The error is ErrList for blocks past the
// end of the backing.
func Place(list []Range, l *metadata.Layout, now uint32) (Entries, error) {
	var out Entries
	sb := l.Superblock()
	bs := int64(l.BlockSize())
	per := uint64(metadata.UnitSize) / uint64(bs)
	masks := map[uint64]uint8{}
	// exported marks bytes [from, to) of the exported device.
	exported := func(from, to int64) {
		for b := uint64(from / bs); b < min(l.Blocks(), uint64((to+bs-1)/bs)); b++ {
			if bit := uint8(1) << (b % per); masks[b/per]&bit == 0 {
				masks[b/per] |= bit
				out.Blocks++
			}
		}
	}
	units := int64(0)
	for _, r := range list {
		if units += (r.End-1)/metadata.UnitSize - r.Start/metadata.UnitSize + 1; units > maxUnits {
			return out, fmt.Errorf("%w: more than %d units of %d bytes are bad", ErrList, maxUnits, metadata.UnitSize)
		}
	}
	for _, r := range list {
		if r.End > sb.Devices[0].Size {
			return out, fmt.Errorf("%w: byte %d lies past the end of the disk, %d bytes", ErrList, r.Start, sb.Devices[0].Size)
		}
		covered := int64(0)
		if from, to := max(r.Start, sb.HeadBytes), min(r.End, sb.ExportedBytes); from < to {
			exported(from, to)
			covered += to - from
		}
		for _, region := range sb.Regions {
			from, to := max(r.Start, region.Start), min(r.End, region.Start+region.Length)
			if region.Device != 0 || from >= to {
				continue
			}
			switch region.Kind {
			case metadata.RegionDisplacedHead:
				exported(from-region.Start, to-region.Start)
				covered += to - from
			case metadata.RegionSpare:
				first := uint64(from-region.Start) / metadata.UnitSize
				last := uint64(to-region.Start-1) / metadata.UnitSize
				out.retire(region.First+uint32(first), uint32(last-first+1), now)
				covered += to - from
			}
		}
		out.Metadata += uint64(r.End - r.Start - covered)
	}
	out.pending(masks, now)
	return out, nil
}

// retire adds spare units, in ascending order; two ranges may meet in one unit.
func (e *Entries) retire(first, count, now uint32) {
	if n := len(e.Entries); n > 0 {
		if last := &e.Entries[n-1]; last.Spare+last.Count > first {
			first, count = first+1, count-1
		}
	}
	if count > 0 {
		e.Entries = append(e.Entries, metadata.Entry{
			Spare: first, Count: count, State: metadata.StateRetired, Cause: metadata.CauseImport, Time: now,
		})
		e.Spares += uint64(count)
	}
}

// pending adds the units of masks, alike neighbours as one entry.
func (e *Entries) pending(masks map[uint64]uint8, now uint32) {
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
			Unit: u, Count: 1, Mask: masks[u], State: metadata.StatePending, Cause: metadata.CauseImport, Time: now,
		})
	}
}
