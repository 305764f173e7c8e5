package lists

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// The metadata of dm-remap, version 4: five copies on its spare device, little-endian, each with a
// checksum. Numbers of sectors are of 512 bytes.
const (
	dmMagic      = 0x444d5234
	dmVersion    = 4
	dmSize       = 84288 // bytes of a copy
	dmStride     = 131072
	dmCopies     = DMRemapCopies
	dmSector     = 512
	dmCRCAt      = 24
	dmEntriesAt  = 312
	dmEntrySize  = 40
	dmMaxEntries = 2048
	dmPending    = 1 // flags of an entry
	dmActive     = 2
	// DMRemapCopies is how many copies there are.
	DMRemapCopies = 5
	// DMRemapArea is the bytes at the start of the spare device in which copies may lie. dm-remap
	// hands out spare sectors from 0 on, so what it wrote there and its metadata overwrite each
	// other.
	DMRemapArea = 1280 * dmSector
)

// DMRemapEntry is a sector that dm-remap redirected.
type DMRemapEntry struct {
	Original int64 // byte of the main device
	Spare    int64 // byte of the spare device
	// Trusted: the spare sector does not lie where the metadata does, and no other entry has it.
	Trusted bool
}

// DMRemapTable is what dm-remap knows of its devices.
type DMRemapTable struct {
	Sequence uint64
	Main     int64 // bytes of the main device, 0 if it is not known
	Spare    int64 // bytes of the spare device, 0 if it is not known
	Entries  []DMRemapEntry
	// Copies is how many of the five copies are whole. One that is not may have been the newest.
	Copies int
}

// ReadDMRemap reads the metadata of dm-remap from its spare device: the valid copy with the highest
// sequence, then the latest time. Errors: ErrList if there is none, if two that are equally new
// differ, or if it is not that of the structure that is known.
func ReadDMRemap(dev io.ReaderAt) (*DMRemapTable, error) {
	var newest []byte
	var readErr error
	valid, unlike := 0, false
	for i := range int64(dmCopies) {
		b := make([]byte, dmSize)
		if n, err := dev.ReadAt(b, i*dmStride); n < dmSize {
			if err != io.EOF {
				readErr = err
			}
			continue
		}
		if !dmValid(b) {
			continue
		}
		valid++
		switch {
		case newest == nil || dmNewer(b, newest):
			newest, unlike = b, false
		case !dmNewer(newest, b):
			// All but the checksum and the number of the copy is the same.
			unlike = unlike || !bytes.Equal(b[32:], newest[32:])
		}
	}
	if newest == nil && readErr != nil {
		return nil, fmt.Errorf("%w: no copy of dm-remap's metadata reads: %w", ErrList, readErr)
	}
	if newest == nil {
		return nil, fmt.Errorf("%w: no valid copy of dm-remap's metadata, version 4, at bytes 0, "+
			"131072, 262144, 393216 and 524288", ErrList)
	}
	switch sector := binary.LittleEndian.Uint32(newest[136:]); {
	case unlike:
		return nil, fmt.Errorf("%w: copies of dm-remap's metadata of one sequence differ; "+
			"nothing tells which is right", ErrList)
	case sector != dmSector:
		return nil, fmt.Errorf("%w: dm-remap's metadata counts sectors of %d bytes, not of %d",
			ErrList, sector, dmSector)
	}
	t := dmTable(newest)
	t.Copies = valid
	return t, nil
}

// dmValid checks a copy by its checksum: the kernel's crc32(0, …), without the inversion at the
// start and the end that others have, over everything but itself.
func dmValid(b []byte) bool {
	le := binary.LittleEndian
	if le.Uint32(b) != dmMagic || le.Uint32(b[4:]) != dmVersion {
		return false
	}
	sum := dmCRC(dmCRC(0, b[:dmCRCAt]), b[dmCRCAt+4:])
	return sum == le.Uint32(b[dmCRCAt:])
}

func dmCRC(sum uint32, b []byte) uint32 { return ^crc32.Update(^sum, crc32.IEEETable, b) }

// dmNewer reports whether copy a is newer than copy b.
func dmNewer(a, b []byte) bool {
	le := binary.LittleEndian
	if x, y := le.Uint64(a[8:]), le.Uint64(b[8:]); x != y {
		return x > y
	}
	return le.Uint64(a[16:]) > le.Uint64(b[16:])
}

// dmTable reads a valid copy. Of several entries of one sector the first counts. Entries that are
// pending count as well: dm-remap makes them active with its next start.
func dmTable(b []byte) *DMRemapTable {
	le := binary.LittleEndian
	t := &DMRemapTable{Sequence: le.Uint64(b[8:]), Main: dmBytes(le.Uint64(b[120:])),
		Spare: dmBytes(le.Uint64(b[128:]))}
	seen := map[int64]bool{}
	spares := map[int64]int{}
	for i := range dmMaxEntries {
		e := b[dmEntriesAt+i*dmEntrySize:][:dmEntrySize]
		original, spare := dmBytes(le.Uint64(e)), dmBytes(le.Uint64(e[8:]))
		if le.Uint16(e[34:])&(dmPending|dmActive) == 0 || seen[original] {
			continue
		}
		seen[original] = true
		spares[spare]++
		t.Entries = append(t.Entries, DMRemapEntry{Original: original, Spare: spare,
			Trusted: spare >= DMRemapArea})
	}
	for i := range t.Entries {
		e := &t.Entries[i]
		e.Trusted = e.Trusted && spares[e.Spare] == 1
	}
	return t
}

// dmBytes turns sectors into bytes. A number that is too large for a disk becomes the largest one.
func dmBytes(sectors uint64) int64 {
	if sectors > math.MaxInt64/dmSector {
		return math.MaxInt64 / dmSector * dmSector
	}
	return int64(sectors) * dmSector
}

// dmRemap reads the sectors that dm-remap redirected, from its spare device or an image of that.
func (r *reader) dmRemap(in io.Reader) error {
	at, ok := in.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("%w: dm-remap's metadata is read from its spare device, or a copy of "+
			"that in a file, not from a pipe", ErrList)
	}
	t, err := ReadDMRemap(at)
	if err != nil {
		return err
	}
	if r.Whole && r.Offset == 0 && t.Main != 0 && t.Main != r.Size {
		return fmt.Errorf("%w: it is about a main device of %d bytes, and the disk has %d", ErrList,
			t.Main, r.Size)
	}
	r.Block, r.BlockFlag = dmSector, ""
	for _, e := range t.Entries {
		if err := r.bytes(e.Original, min(e.Original, math.MaxInt64-dmSector)+dmSector,
			func() string { return fmt.Sprintf("sector %d", e.Original/dmSector) }); err != nil {
			return err
		}
	}
	return nil
}
