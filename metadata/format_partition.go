package metadata

import "math"

// A superblock ends its first 512 bytes like the partition table of a disk that is in use, so
// that no other tool takes the disk of a stopped set for an empty one. Only the copy at byte 0
// is ever looked at as a partition table; the others are alike because they are copies.

// Offsets of a DOS partition table in the first 512 bytes of a disk, as every tool knows them.
const (
	ptDiskIDAt    = 440 // u32, identifier of the disk; 0: none
	ptEntriesAt   = 446 // four entries of 16 bytes
	ptEntry       = 16
	ptSignatureAt = 510 // 55 AA

	ptFirstCHSAt = 1 // in an entry: cylinder, head and sector of the first block
	ptTypeAt     = 4
	ptLastCHSAt  = 5
	ptStartAt    = 8  // u32, in logical blocks
	ptLengthAt   = 12 // u32, in logical blocks
)

// ptNonFS is the type of a partition that holds no file system ("non-FS data").
const ptNonFS = 0xda

// compatSignature is the feature bit of a set whose superblocks end their first 512 bytes like
// a partition table. A version that does not know the bit leaves the two bytes out.
const compatSignature uint32 = 4

// compatPartition is the feature bit of a set whose superblocks have one partition in that
// table, which takes up the disk. A version that does not know the bit leaves the partition out
// of what it writes; the next start of one that knows it puts it there again.
const compatPartition uint32 = 8

// incompatFarDevices is the feature bit of a set whose device table leaves room for the
// partition table: the rows from nearDevices on lie behind the region table. A version that
// does not know it would read them where they are not.
const incompatFarDevices uint32 = 8

const (
	// nearDevices is how many rows the device table has before it gets in the way of the
	// partition table.
	nearDevices  = 4
	farDevicesAt = regionTableAt + MaxRegions*regionEntry // 3584
	farDevice    = 40                                     // bytes of such a row
)

// deviceRow is a row of the device table in a superblock.
func (sb *Superblock) deviceRow(b []byte, i int) []byte {
	if i >= nearDevices && sb.Incompat&incompatFarDevices != 0 {
		return b[farDevicesAt+(i-nearDevices)*farDevice:][:farDevice]
	}
	return b[deviceTableAt+i*deviceEntry:][:deviceEntry]
}

// partitionTableFits reports whether nothing else lies where the partition table is to be.
func (sb *Superblock) partitionTableFits() bool {
	return len(sb.Devices) <= nearDevices || sb.Incompat&incompatFarDevices != 0
}

// addPartition gives the superblocks of a set their partition. Those of an old set with so many
// devices that its device table is in the way stay as they are.
func (sb *Superblock) addPartition() {
	if sb.partitionTableFits() {
		sb.Compat |= compatSignature | compatPartition
	}
}

// hasPartition reports whether the superblocks of a set have the partition. While a disk is
// converted or reverted they do not have it: a version that does not know the partition may have to
// recognize by each byte what was torn there.
func (sb *Superblock) hasPartition() bool {
	return sb.Compat&compatPartition != 0 && sb.Transition == TransitionNone &&
		sb.partitionTableFits()
}

// putPartitionTable puts into a superblock what the feature bits say of the partition table.
func (sb *Superblock) putPartitionTable(b []byte, device uint8) {
	if sb.Compat&compatSignature == 0 || !sb.partitionTableFits() {
		return
	}
	b[ptSignatureAt], b[ptSignatureAt+1] = 0x55, 0xaa
	if !sb.hasPartition() {
		return
	}
	start, length := sb.partition(device)
	e := b[ptEntriesAt:][:ptEntry]
	e[0] = 0 // not active
	putCHS(e[ptFirstCHSAt:], start)
	e[ptTypeAt] = ptNonFS
	putCHS(e[ptLastCHSAt:], start+length-1)
	le.PutUint32(e[ptStartAt:], uint32(start))
	le.PutUint32(e[ptLengthAt:], uint32(length))
	// Without an identifier some systems write one of their own there.
	copy(b[ptDiskIDAt:ptDiskIDAt+4], sb.Devices[device].UUID[:4])
}

// partition is where the partition of a device lies, in its logical blocks.
//
// It begins with the second block: what lies at an offset of the partition then lies one
// block farther on the disk. It must show no file system. In the head of the backing and at
// the start of a spare device nothing but metadata lies, and the marks that tools look for
// farther from the start are aligned to more than a block. It ends one block before the disk
// does, because tools, and versions that do not know it, look for marks and superblocks at a
// distance from the end, too.
func (sb *Superblock) partition(device uint8) (start, length int64) {
	d := &sb.Devices[device]
	block := int64(sb.BlockSize)
	if d.BlockSize != 0 {
		block = int64(d.BlockSize)
	}
	return 1, min(d.Size/block-2, math.MaxUint32)
}

// putCHS writes the old address of a block, for a disk with 255 heads and 63 sectors. A block
// beyond the last of the 1024 cylinders has the last address.
func putCHS(b []byte, block int64) {
	const heads, sectors, cylinders = 255, 63, 1024
	c, h, s := block/(heads*sectors), block/sectors%heads, block%sectors+1
	if c >= cylinders {
		c, h, s = cylinders-1, heads-1, sectors
	}
	b[0], b[1], b[2] = byte(h), byte(s|c>>8<<6), byte(c)
}

// showsPartition reports whether a superblock, as it is on a disk, has the partition.
func showsPartition(b []byte) bool {
	return b[ptSignatureAt] == 0x55 && b[ptSignatureAt+1] == 0xaa &&
		b[ptEntriesAt+ptTypeAt] == ptNonFS
}

// clearPartition changes a superblock to what versions that do not know the partition write. Its
// checksum does not match any more.
func (sb *Superblock) clearPartition(b []byte) {
	if !sb.hasPartition() {
		return
	}
	clear(b[ptEntriesAt : ptEntriesAt+ptEntry])
	clear(b[ptDiskIDAt : ptDiskIDAt+4])
}
