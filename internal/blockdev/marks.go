package blockdev

import (
	"encoding/binary"
	"slices"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// The marks, grouped by what they announce. Places are in bytes.
var table = slices.Concat(filesystems, volumes, []mark{
	{kind: KindPartitions, name: "gpt", at: []int64{512, 1024, 2048, 4096},
		magic: []byte("EFI PART")},
	// The backup header is in the last block. A mark does not know the size of that block.
	{kind: KindPartitions, name: "gpt backup", magic: []byte("EFI PART"),
		atEnd: func(size int64) []int64 {
			return []int64{size - 512, size - 1024, size - 2048, size - 4096}
		}},
	{kind: KindPartitions, name: "mac", at: []int64{0}, magic: []byte("ER"), around: 1024,
		more: func(w, _ []byte) bool { return string(w[512:514]) == "PM" }},
	{kind: KindRemap, name: "dm-remap", at: []int64{0}, magic: []byte{0x34, 0x52, 0x4d, 0x44}},
})

var filesystems = []mark{
	// ext: superblock at 1024, magic at 56 of it; compat features at 92,
	// incompat at 96.
	{kind: KindFilesystem, name: "ext", at: []int64{1024 + 56}, magic: []byte{0x53, 0xef},
		before: 56, around: 256,
		more: func(w, _ []byte) bool {
			return binary.LittleEndian.Uint32(w[24:]) <= 6 // log2 of the block size over 1 KiB
		},
		naming: func(w []byte) string {
			compat, incompat := binary.LittleEndian.Uint32(w[92:]),
				binary.LittleEndian.Uint32(w[96:])
			switch {
			case incompat&0x8 != 0:
				return "jbd"
			case incompat&^0x16 != 0: // more than filetype, recover, meta_bg
				return "ext4"
			case compat&0x4 != 0: // has a journal
				return "ext3"
			}
			return "ext2"
		}},
	{kind: KindFilesystem, name: "xfs", at: []int64{0}, magic: []byte("XFSB")},
	{kind: KindFilesystem, name: "btrfs", at: []int64{64*kib + 64}, magic: []byte("_BHRfS_M")},
	{kind: KindFilesystem, name: "f2fs", at: []int64{1024}, magic: []byte{0x10, 0x20, 0xf5, 0xf2}},
	{kind: KindFilesystem, name: "vfat", at: []int64{0x52}, magic: []byte("FAT32   "), before: 0x52,
		around: 512, more: bootSector},
	{kind: KindFilesystem, name: "vfat", at: []int64{0x36}, magic: []byte("FAT1"), before: 0x36,
		around: 512, more: bootSector},
	{kind: KindFilesystem, name: "vfat", at: []int64{0x36}, magic: []byte("FAT  "), before: 0x36,
		around: 512, more: bootSector},
	{kind: KindFilesystem, name: "exfat", at: []int64{3}, magic: []byte("EXFAT   ")},
	{kind: KindFilesystem, name: "ntfs", at: []int64{3}, magic: []byte("NTFS    ")},
	{kind: KindFilesystem, name: "refs", at: []int64{3}, magic: []byte("ReFS\x00")},
	{kind: KindFilesystem, name: "iso9660", at: []int64{32*kib + 1}, magic: []byte("CD001")},
	{kind: KindFilesystem, name: "udf", at: []int64{32*kib + 1, 34*kib + 1},
		magic: []byte("BEA01")},
	{kind: KindFilesystem, name: "udf", at: []int64{32*kib + 1, 34*kib + 1}, magic: []byte("NSR0")},
	{kind: KindFilesystem, name: "jfs", at: []int64{32 * kib}, magic: []byte("JFS1")},
	{kind: KindFilesystem, name: "reiserfs", at: []int64{64*kib + 52, 8*kib + 52},
		magic: []byte("ReIsEr")},
	{kind: KindFilesystem, name: "nilfs2", at: []int64{1024 + 6}, magic: []byte{0x34, 0x34},
		before: 6, around: 32,
		more: func(w, _ []byte) bool { return binary.LittleEndian.Uint32(w) == 2 }}, // revision
	{kind: KindFilesystem, name: "hfsplus", at: []int64{1024}, magic: []byte("H+\x00\x04")},
	{kind: KindFilesystem, name: "hfsplus", at: []int64{1024}, magic: []byte("HX\x00\x05")},
	{kind: KindFilesystem, name: "apfs", at: []int64{32}, magic: []byte("NXSB")},
	{kind: KindFilesystem, name: "gfs2", at: []int64{64 * kib}, magic: []byte{0x01, 0x16, 0x19,
		0x70}},
	{kind: KindFilesystem, name: "ocfs2", at: []int64{1 * kib, 2 * kib, 4 * kib, 8 * kib},
		magic: []byte("OCFSV2")},
	{kind: KindFilesystem, name: "squashfs", at: []int64{0}, magic: []byte("hsqs")},
	{kind: KindFilesystem, name: "erofs", at: []int64{1024}, magic: []byte{0xe2, 0xe1, 0xf5, 0xe0}},
	{kind: KindFilesystem, name: "ufs", at: []int64{8*kib + 1372, 64*kib + 1372},
		magic: []byte{0x19, 0x01, 0x54, 0x19}},
	{kind: KindFilesystem, name: "bcachefs", at: []int64{4*kib + 24, 2*mib + 24},
		atEnd: func(size int64) []int64 { return []int64{size - mib + 24} },
		magic: []byte{0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80,
			0x3d, 0xf7, 0xef}},
	// ZFS: four labels of 256 KiB, two at each end. The uberblocks fill the second half of each
	// label, in slots of at least 1 KiB, in the byte order of the writer.
	{kind: KindFilesystem, name: "zfs_member", at: uberblocks(0, 256*kib), magic: []byte{0x0c, 0xb1,
		0xba, 0, 0, 0, 0, 0}},
	{kind: KindFilesystem, name: "zfs_member", at: uberblocks(0, 256*kib), magic: []byte{0, 0, 0, 0,
		0, 0xba, 0xb1, 0x0c}},
	{kind: KindFilesystem, name: "zfs_member", atEnd: zfsEnd, magic: []byte{0x0c, 0xb1, 0xba, 0, 0,
		0, 0, 0}},
	{kind: KindFilesystem, name: "zfs_member", atEnd: zfsEnd, magic: []byte{0, 0, 0, 0, 0, 0xba,
		0xb1, 0x0c}},
	{kind: KindSwap, name: "swap", at: pageEnds, magic: []byte("SWAPSPACE2")},
	{kind: KindSwap, name: "swap", at: pageEnds, magic: []byte("SWAP-SPACE")},
	{kind: KindSwap, name: "swsuspend", at: pageEnds, magic: []byte("S1SUSPEND\x00")},
}

var volumes = []mark{
	{kind: KindVolume, name: "LVM2_member", at: []int64{0, 512, 1024, 1536},
		magic: []byte("LABELONE"), around: 32,
		more: func(w, _ []byte) bool { return string(w[24:32]) == "LVM2 001" }},
	{kind: KindVolume, name: "stratis", at: []int64{512 + 4, 4608 + 4},
		magic: []byte("!Stra0tis\x86\xff\x02^\x41rh")},
	{kind: KindVolume, name: "vdo", at: []int64{0}, magic: []byte("dmvdo001")},
	{kind: KindVolume, name: "ceph_bluestore", at: []int64{0},
		magic: []byte("bluestore block device")},
	// MD: 1.1 at the start, 1.2 4 KiB behind it, 1.0 at least 8 KiB before the end, 0.90 at least
	// 64 KiB before the end and in the byte order of the writer.
	{kind: KindRAID, name: "linux_raid_member 1.1", at: []int64{0}, magic: mdMagic, around: 8,
		more: mdVersion1},
	{kind: KindRAID, name: "linux_raid_member 1.2", at: []int64{4 * kib}, magic: mdMagic, around: 8,
		more: mdVersion1},
	{kind: KindRAID, name: "linux_raid_member 1.0", magic: mdMagic, around: 8, more: mdVersion1,
		atEnd: func(size int64) []int64 { return []int64{((size/512 - 16) &^ 7) * 512} }},
	{kind: KindRAID, name: "linux_raid_member 0.90", magic: mdMagic, atEnd: md090},
	{kind: KindRAID, name: "linux_raid_member 0.90", magic: []byte{0xa9, 0x2b, 0x4e, 0xfc},
		atEnd: md090},
	{kind: KindRAID, name: "isw_raid_member", magic: []byte("Intel Raid ISM Cfg Sig. "),
		atEnd: func(size int64) []int64 { return []int64{size - 1024, size - 2*4096} }},
	{kind: KindRAID, name: "ddf_raid_member", magic: []byte{0xde, 0x11, 0xde, 0x11},
		atEnd: func(size int64) []int64 { return []int64{size - 512, size - 257*512} }},
	{kind: KindRAID, name: "promise_fasttrack_raid_member",
		magic: []byte("Promise Technology, Inc."), atEnd: promiseEnd},
	{kind: KindRAID, name: "lsi_mega_raid_member", magic: []byte("$XIDE$"),
		atEnd: lastSector(1, 0)},
	{kind: KindRAID, name: "nvidia_raid_member", magic: []byte("NVIDIA"), atEnd: lastSector(2, 0)},
	{kind: KindRAID, name: "hpt45x_raid_member", magic: []byte{0xf3, 0x16, 0x78, 0x5a},
		atEnd: lastSector(11, 0)},
	{kind: KindRAID, name: "hpt45x_raid_member", magic: []byte{0xfd, 0x16, 0x78, 0x5a},
		atEnd: lastSector(11, 0)},
	{kind: KindRAID, name: "adaptec_raid_member", magic: []byte{0x37, 0xfc, 0x4d, 0x1e},
		around: 512, atEnd: lastSector(1, 0),
		more: func(w, _ []byte) bool { return string(w[256:260]) == "DPTM" }},
	{kind: KindRAID, name: "silicon_medley_raid_member", magic: []byte{0, 0, 0, 0x2f}, before: 0x60,
		around: 512, atEnd: lastSector(1, 0x60), more: siliconSum},
	{kind: KindRAID, name: "drbd", magic: []byte{0x83, 0x74, 0x02, 0x6b},
		atEnd: func(size int64) []int64 { return []int64{size - 4*kib + 60} }},
	{kind: KindRAID, name: "drbd", magic: []byte{0x83, 0x74, 0x02, 0x6c},
		atEnd: func(size int64) []int64 { return []int64{size - 4*kib + 60} }},
	{kind: KindCrypto, name: "crypto_LUKS", at: []int64{0}, magic: []byte("LUKS\xba\xbe")},
	{kind: KindCrypto, name: "crypto_LUKS", at: []int64{16 * kib, 32 * kib, 64 * kib, 128 * kib,
		256 * kib, 512 * kib, 1 * mib, 2 * mib, 4 * mib},
		magic: []byte("SKUL\xba\xbe")},
	{kind: KindCrypto, name: "BitLocker", at: []int64{3}, magic: []byte("-FVE-FS-")},
	{kind: KindCrypto, name: "dm_integrity", at: []int64{0}, magic: []byte("integrt\x00")},
	{kind: KindCrypto, name: "dm_verity", at: []int64{0}, magic: []byte("verity\x00\x00")},
	{kind: KindCache, name: "bcache", at: []int64{4*kib + 24},
		magic: []byte{0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48,
			0xba, 0x6d, 0x81}},
}

var mdMagic = []byte{0xfc, 0x4e, 0x2b, 0xa9}

func mdVersion1(w, _ []byte) bool { return binary.LittleEndian.Uint32(w[4:]) == 1 }

func md090(size int64) []int64 { return []int64{size&^(64*kib-1) - 64*kib} }

// lastSector is a place in one of the last sectors of 512 bytes. n counts from the end: 1 is the
// last.
func lastSector(n, in int64) func(int64) []int64 {
	return func(size int64) []int64 { return []int64{(size/512-n)*512 + in} }
}

// promiseEnd returns the places of Promise's mark. They depend on the size of the disk that the
// controllers assumed. No other mark lies as far from the end as the last of them.
func promiseEnd(size int64) []int64 {
	var at []int64
	for _, n := range []int64{63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087} {
		at = append(at, (size/512-n)*512)
	}
	return at
}

// siliconSum tells Silicon Image's mark from chance: the first 159 words of 16 bits and the word
// behind them add up to zero.
func siliconSum(w, _ []byte) bool {
	sum := uint16(0)
	for i := range 160 {
		sum += binary.LittleEndian.Uint16(w[2*i:])
	}
	return sum == 0
}

// pageEnds are the places of swap's mark: the last ten bytes of the first page, for each page size
// that exists.
var pageEnds = []int64{4*kib - 10, 8*kib - 10, 16*kib - 10, 32*kib - 10, 64*kib - 10}

// uberblocks are the slots of the ZFS labels at the given places.
func uberblocks(labels ...int64) []int64 {
	var at []int64
	for _, l := range labels {
		for slot := range int64(128) {
			at = append(at, l+128*kib+slot*kib)
		}
	}
	return at
}

func zfsEnd(size int64) []int64 {
	end := size &^ (256*kib - 1)
	if end < 2*mib {
		return nil
	}
	return uberblocks(end-512*kib, end-256*kib)
}

// bootSector tells a FAT from chance, by the end mark of the boot sector and by a plausible sector
// size and number of FATs.
func bootSector(w, _ []byte) bool {
	if w[510] != 0x55 || w[511] != 0xaa {
		return false
	}
	sector := binary.LittleEndian.Uint16(w[11:])
	return sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && (w[16] == 1 || w[16] == 2)
}
