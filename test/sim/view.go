package sim

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"

	"ublkremap/metadata"
)

// view is a device as a load with a bug sees it: some atoms are hidden, and superblocks are
// changed.
type view struct {
	metadata.Device
	hidden func(off int64) bool
	patch  func(page []byte)
}

func (v view) ReadAt(b []byte, off int64) (int, error) {
	n, err := v.Device.ReadAt(b, off)
	if err != nil {
		return n, err
	}
	for at := 0; at < len(b); at += pageSize {
		page := b[at : at+pageSize]
		if v.hidden != nil && v.hidden(off+int64(at)) {
			clear(page)
		}
		if v.patch != nil && off+int64(at) <= metadata.SuperblockStride {
			v.patch(page)
		}
	}
	return n, nil
}

// loads gives a load the devices as a bug would show them.
func (b Bug) loads(s *sim, devs []metadata.Device) []metadata.Device {
	switch b {
	case BugFirstBad, BugReadsOneMirror:
		return s.oneMirror(devs, b == BugFirstBad)
	case BugStaleMirror, BugStaleSpare:
		out := make([]metadata.Device, len(devs))
		for i, d := range devs {
			v := view{Device: d, patch: func(page []byte) { clearStale(page, 0) }}
			if b == BugStaleSpare {
				v.patch = s.sameEpoch(devs)
			}
			out[i] = v
		}
		return out
	}
	return devs
}

// oneMirror hides all mirrors but the first. If asked to, it also hides what follows the first bad
// record in its log.
func (s *sim) oneMirror(devs []metadata.Device, upToBad bool) []metadata.Device {
	sb := s.plan.Superblock()
	mirrors := s.mirrors()
	end := mirrors[0].Start + mirrors[0].Length
	out := slices.Clone(devs)
	for i, d := range devs {
		own, err := metadata.Probe(d)
		if err != nil {
			continue
		}
		index := own.DeviceIndex
		if index == 0 && upToBad {
			end = firstBad(d, sb, mirrors[0])
		}
		out[i] = view{Device: d, hidden: func(off int64) bool {
			for _, r := range sb.Regions {
				if r.Kind != metadata.RegionMirror || r.Device != index || off < r.Start ||
					off >= r.Start+r.Length {
					continue
				}
				if log := r.Start + 2*sb.SlotBytes; off < log && upToBad {
					return false
				}
				return index != 0 || r.Start != mirrors[0].Start || off >= end
			}
			return false
		}}
	}
	return out
}

// firstBad returns where the first atom of a log lies that cannot be read, or holds a torn
// record.
func firstBad(d metadata.Device, sb metadata.Superblock, m metadata.Region) int64 {
	buf := metadata.AlignedBytes(pageSize)
	for off := m.Start + 2*sb.SlotBytes; off < m.Start+m.Length; off += int64(sb.AtomSize) {
		if _, err := d.ReadAt(buf, off); err != nil {
			return off
		}
		if string(buf[:8]) == "BLKRMPR4" && sum(buf) != binary.LittleEndian.Uint64(buf[16:]) {
			return off
		}
	}
	return m.Start + m.Length
}

const superblockMagic = "BLKRMPS4"

// sum is the checksum of a structure of the metadata: FORMAT.md, "Every structure".
func sum(page []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	h.Write(page[:16])
	h.Write(make([]byte, 8))
	h.Write(page[24:])
	return h.Sum64()
}

// changed corrects the checksum of a superblock.
func changed(page []byte) { binary.LittleEndian.PutUint64(page[16:], sum(page)) }

// valid reports whether a page is a superblock.
func valid(page []byte) bool {
	return string(page[:8]) == superblockMagic && sum(page) == binary.LittleEndian.Uint64(page[16:])
}

// hasLargerSlots reports whether a superblock has the feature bit of larger slots.
func hasLargerSlots(page []byte) bool { return page[104]&4 != 0 }

// clearStale removes the marks of stale mirrors that are longer than so many bytes from a
// superblock.
func clearStale(page []byte, longer int64) {
	if !valid(page) {
		return
	}
	for at := 1024; at < 1024+64*int(binary.LittleEndian.Uint32(page[156:])); at += 64 {
		if int64(binary.LittleEndian.Uint64(page[at+16:])) <= longer {
			continue
		}
		page[at+4] &^= 1
		clear(page[at+40 : at+56])
	}
	changed(page)
}

// sameEpoch gives the superblocks of spare devices the backing's epoch.
func (s *sim) sameEpoch(devs []metadata.Device) func(page []byte) {
	var epoch uint64
	for _, d := range devs {
		if sb, err := metadata.Probe(d); err == nil && sb.DeviceIndex == 0 {
			epoch = sb.Epoch
		}
	}
	return func(page []byte) {
		if valid(page) {
			binary.LittleEndian.PutUint64(page[64:], epoch)
			changed(page)
		}
	}
}
