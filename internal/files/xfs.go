package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"structs"
	"unsafe"
)

// xfsInfo is what is read from the superblock (struct xfs_dsb of fs/xfs/libxfs/xfs_format.h).
type xfsInfo struct {
	block, sector, inode         int64 // bytes
	groups, groupBlocks          int64
	groupLog, inodesPerBlockLog  uint // of the numbers of blocks and inodes
	size, journal, journalBlocks int64
	making                       bool // mkfs has not ended
}

// readXFS reads the superblock.
func readXFS(path string) (i xfsInfo, err error) {
	b, err := superblock(path, 0, 512)
	if err != nil {
		return i, err
	}
	be := binary.BigEndian
	i = xfsInfo{
		block: int64(be.Uint32(b[4:])), sector: int64(be.Uint16(b[102:])),
		inode: int64(be.Uint16(b[104:])), groups: int64(be.Uint32(b[88:])),
		groupBlocks: int64(be.Uint32(b[84:])), journal: int64(be.Uint64(b[48:])),
		journalBlocks: int64(be.Uint32(b[96:])), making: b[126] != 0,
	}
	if string(b[:4]) != "XFSB" || !i.complete(be.Uint64(b[8:])) {
		return i, fmt.Errorf("%s: no superblock of xfs that makes sense", path)
	}
	return i, nil
}

// complete works out what follows from the rest, and reports whether it makes sense.
func (i *xfsInfo) complete(blocks uint64) bool {
	if i.block < 512 || i.block > 64<<10 || i.groupBlocks <= 0 || i.groupBlocks > 1<<31 ||
		i.inode < 256 || i.inode > i.block || blocks > 1<<46 {
		return false
	}
	i.groupLog = uint(bits.Len64(uint64(i.groupBlocks - 1)))
	i.inodesPerBlockLog = uint(bits.Len64(uint64(i.block/i.inode)) - 1)
	i.size = int64(blocks) * i.block
	return true
}

// xfsGeometry is struct xfs_fsop_geom_v1 of fs/xfs/libxfs/xfs_fs.h.
type xfsGeometry struct {
	_                                      structs.HostLayout
	block, _, groupBlocks, groups, journal uint32
	sector, inode, _                       uint32
	blocks, _, _, journalAt                uint64
	_                                      [16]byte
	_                                      [8]uint32
}

var _ [112]byte = [unsafe.Sizeof(xfsGeometry{})]byte{}

// geometry asks a mounted xfs, whose superblock may be one of the bad blocks.
func (v *volume) geometry() (xfsInfo, error) {
	const iocGeometry = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	var g xfsGeometry
	if err := ioctl(v.root, iocGeometry, &g); err != nil {
		return xfsInfo{}, fmt.Errorf("xfs does not tell its geometry: %w", err)
	}
	i := xfsInfo{block: int64(g.block), sector: int64(g.sector), inode: int64(g.inode),
		groups: int64(g.groups), groupBlocks: int64(g.groupBlocks), journal: int64(g.journalAt),
		journalBlocks: int64(g.journal)}
	if !i.complete(g.blocks) {
		return i, errors.New("xfs tells a geometry that makes no sense")
	}
	return i, nil
}

// bytesOf returns the place of a block by its number, which has the group in its upper bits.
func (i *xfsInfo) bytesOf(block int64) int64 {
	return (block>>i.groupLog*i.groupBlocks + block&(1<<i.groupLog-1)) * i.block
}

// number is the inverse of bytesOf.
func (i *xfsInfo) number(at int64) int64 {
	block := at / i.block
	return block/i.groupBlocks<<i.groupLog | block%i.groupBlocks
}

// xfs asks a mounted xfs.
func (v *volume) xfs(pieces []piece) {
	b, err := v.geometry()
	// Without a reverse map a block can belong to several files.
	v.asked(b.size, err, pieces, true, func(rest []piece) {
		rest = v.headers(&b, v.fs, rest)
		rest = v.chunks(&b, rest)
		v.unknown(rest, v.fs, "in use, and not the data of a file with a name: metadata, or a "+
			"deleted file; xfs tells which only if it was made with a reverse map (rmapbt)")
	})
}

// headers tells of the headers of the allocation groups, four sectors each, and of the journal. It
// returns the rest.
func (f *finder) headers(b *xfsInfo, fs string, pieces []piece) []piece {
	before := len(f.facts)
	if b.journal > 0 {
		at := b.bytesOf(b.journal)
		f.tell(within(pieces, at, at+b.journalBlocks*b.block), Fact{Owner: OwnerMetadata,
			Filesystem: fs, What: "journal"})
	}
	for _, p := range pieces {
		group := p.at / b.block / b.groupBlocks
		for ; group*b.groupBlocks*b.block < p.at+p.size; group++ {
			at := group * b.groupBlocks * b.block
			f.tell(within([]piece{p}, at, at+4*b.sector), Fact{Owner: OwnerMetadata,
				Filesystem: fs, What: metadataNames['X'<<32|1]})
		}
	}
	return without(pieces, f.facts[before:])
}

// The ABI of XFS_IOC_INUMBERS (fs/xfs/libxfs/xfs_fs.h, Linux 5.5).

// inumbersRequest is struct xfs_inumbers_req with room for chunks.
type inumbersRequest struct {
	_      structs.HostLayout
	inode  uint64
	flags  uint32
	room   uint32
	filled uint32
	group  uint32
	_      [5]uint64
	chunks [inumbersRoom]inumbersChunk
}

// inumbersChunk is struct xfs_inumbers: 64 inodes that lie side by side.
type inumbersChunk struct {
	_       structs.HostLayout
	first   uint64
	mask    uint64
	count   uint8
	version uint8
	_       [6]uint8
}

const (
	inumbersRoom = 1024
	iocInumbers  = 0x80405880 // XFS_IOC_INUMBERS, _IOR('X', 128, struct xfs_inumbers_req)
)

var (
	_ [24]byte = [unsafe.Sizeof(inumbersChunk{})]byte{}
	_ [64]byte = [unsafe.Offsetof(inumbersRequest{}.chunks)]byte{}
)

// chunks tells of the places where inodes lie, and returns the rest.
func (v *volume) chunks(b *xfsInfo, pieces []piece) []piece {
	before := len(v.facts)
	req := inumbersRequest{room: inumbersRoom}
	for len(pieces) > 0 && !v.over() && ioctl(v.root, iocInumbers, &req) == nil && req.filled > 0 {
		for _, c := range req.chunks[:min(req.filled, inumbersRoom)] {
			at := b.bytesOf(int64(c.first >> b.inodesPerBlockLog))
			v.tell(within(pieces, at, at+64*b.inode), Fact{Owner: OwnerMetadata, Filesystem: v.fs,
				What: "inode table"})
		}
	}
	return without(pieces, v.facts[before:])
}
