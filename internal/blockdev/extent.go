package blockdev

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Extent says how far the thing that a signature announces reaches.
type Extent struct {
	// End is the first byte behind it.
	End int64
	// Shrink is the command that makes the thing end at a byte, or "" if there is none.
	Shrink func(path string, end int64) string
}

// extents read the size of a thing from its own superblock. The keys are the names that Detect
// gives. at is the place of the signature, size is that of the device. The offsets are those of the
// formats' documents: ext4 in the kernel's Documentation/filesystems/ext4, XFS's xfs_dsb,
// btrfs_super_block, f2fs_super_block, union swap_header, the FAT, exFAT and NTFS boot sectors,
// LVM2's pv_header, the DOS partition table.
var extents = map[string]func(p *prober, at, size int64) (Extent, bool){
	"ext2": extExtent, "ext3": extExtent, "ext4": extExtent,
	"xfs":         xfsExtent,
	"btrfs":       btrfsExtent,
	"f2fs":        f2fsExtent,
	"swap":        swapExtent,
	"vfat":        fatExtent,
	"exfat":       exfatExtent,
	"ntfs":        ntfsExtent,
	"LVM2_member": lvmExtent,
	"dos":         dosExtent,
}

// ExtentOf reads how far the thing that s announces reaches on a device of size bytes with blocks
// of block bytes. It returns false if that is not known.
func ExtentOf(r io.ReaderAt, size int64, block int, s Signature) (Extent, bool) {
	f := extents[s.Name]
	if f == nil || s.AtEnd {
		return Extent{}, false
	}
	p := newProber(r, size, block)
	e, ok := f(p, s.Offset, size)
	// An impossible size counts as unknown. The bound keeps sums from overflowing.
	return e, ok && e.End > 0 && e.End < 1<<62
}

// units multiplies. It returns false if the product makes no sense.
func units(count, unit uint64) (int64, bool) {
	if unit == 0 || count == 0 || count > (1<<62)/unit {
		return 0, false
	}
	return int64(count * unit), true
}

func end(count, unit uint64, shrink func(string, int64) string) (Extent, bool) {
	n, ok := units(count, unit)
	return Extent{End: n, Shrink: shrink}, ok
}

func extExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(1024, 1024)
	if b == nil {
		return Extent{}, false
	}
	logBlock := binary.LittleEndian.Uint32(b[24:])
	if logBlock > 6 {
		return Extent{}, false
	}
	blocks := uint64(binary.LittleEndian.Uint32(b[4:]))
	if binary.LittleEndian.Uint32(b[96:])&0x80 != 0 { // 64bit
		blocks |= uint64(binary.LittleEndian.Uint32(b[0x150:])) << 32
	}
	return end(blocks, 1024<<logBlock, func(path string, end int64) string {
		return fmt.Sprintf("e2fsck -f %s && resize2fs %s %dK", path, path, end/1024)
	})
}

func xfsExtent(p *prober, at, _ int64) (Extent, bool) {
	b := p.at(at, 512)
	if b == nil {
		return Extent{}, false
	}
	return end(binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[4:])), nil)
}

func btrfsExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(64*kib, 4096)
	if b == nil {
		return Extent{}, false
	}
	// The size of the device's own item counts, because a file system may have several devices.
	return end(binary.LittleEndian.Uint64(b[0xc9+8:]), 1, func(_ string, end int64) string {
		return fmt.Sprintf("btrfs filesystem resize %d MOUNTPOINT", end)
	})
}

func f2fsExtent(p *prober, at, _ int64) (Extent, bool) {
	b := p.at(at, 512)
	if b == nil || binary.LittleEndian.Uint32(b[16:]) > 16 {
		return Extent{}, false
	}
	return end(binary.LittleEndian.Uint64(b[36:]), 1<<binary.LittleEndian.Uint32(b[16:]), nil)
}

func swapExtent(p *prober, at, _ int64) (Extent, bool) {
	b := p.at(1024, 8)
	page := uint64(at + 10) // the mark ends the first page
	if b == nil || binary.LittleEndian.Uint32(b) != 1 {
		return Extent{}, false
	}
	return end(uint64(binary.LittleEndian.Uint32(b[4:]))+1, page,
		func(path string, end int64) string {
			return fmt.Sprintf("mkswap %s %d", path, end/1024)
		})
}

func fatExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(0, 512)
	if b == nil {
		return Extent{}, false
	}
	sectors := uint64(binary.LittleEndian.Uint16(b[19:]))
	if sectors == 0 {
		sectors = uint64(binary.LittleEndian.Uint32(b[32:]))
	}
	return end(sectors, uint64(binary.LittleEndian.Uint16(b[11:])), nil)
}

func exfatExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(0, 512)
	if b == nil || b[108] < 9 || b[108] > 12 {
		return Extent{}, false
	}
	return end(binary.LittleEndian.Uint64(b[72:]), 1<<b[108], nil)
}

func ntfsExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(0, 512)
	if b == nil {
		return Extent{}, false
	}
	// The copy of the boot sector lies behind the last sector that counts.
	return end(binary.LittleEndian.Uint64(b[0x28:])+1, uint64(binary.LittleEndian.Uint16(b[11:])),
		func(path string, end int64) string {
			return fmt.Sprintf("ntfsresize --size %d %s", end, path)
		})
}

func lvmExtent(p *prober, at, _ int64) (Extent, bool) {
	label := p.at(at, 32)
	if label == nil {
		return Extent{}, false
	}
	b := p.at(at+int64(binary.LittleEndian.Uint32(label[20:])), 40)
	if b == nil {
		return Extent{}, false
	}
	return end(binary.LittleEndian.Uint64(b[32:]), 1, func(path string, end int64) string {
		return fmt.Sprintf("pvresize --setphysicalvolumesize %db %s", end, path)
	})
}

// dosExtent returns the end of the last primary partition. An extended partition contains its
// logical ones.
func dosExtent(p *prober, _, _ int64) (Extent, bool) {
	b := p.at(0, 512)
	if b == nil {
		return Extent{}, false
	}
	last := uint64(1)
	for i := range 4 {
		e := b[446+16*i : 462+16*i]
		if e[4] == 0 {
			continue
		}
		last = max(last, uint64(binary.LittleEndian.Uint32(e[8:]))+
			uint64(binary.LittleEndian.Uint32(e[12:])))
	}
	return end(last, uint64(p.block), nil)
}
