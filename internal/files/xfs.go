package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"structs"
	"unsafe"
)

// xfsInfo is what is read from the superblock (struct xfs_dsb of fs/xfs/libxfs/xfs_format.h).
type xfsInfo struct {
	block, sector, inode         int64 // bytes
	groups, groupBlocks          int64
	groupLog, inodesPerBlockLog  uint // of the numbers of blocks and inodes
	size, journal, journalBlocks int64
}

// readXFS reads the superblock.
func readXFS(path string) (i xfsInfo, err error) {
	b, err := superblock(path, 0, 512)
	if err != nil {
		return i, err
	}
	be := binary.BigEndian
	blocks := be.Uint64(b[8:])
	i = xfsInfo{
		block: int64(be.Uint32(b[4:])), sector: int64(be.Uint16(b[102:])),
		inode: int64(be.Uint16(b[104:])), groups: int64(be.Uint32(b[88:])),
		groupBlocks: int64(be.Uint32(b[84:])), groupLog: uint(b[124]),
		inodesPerBlockLog: uint(b[123]), journal: int64(be.Uint64(b[48:])),
		journalBlocks: int64(be.Uint32(b[96:])),
	}
	if string(b[:4]) != "XFSB" || i.block < 512 || i.block > 64<<10 || i.groupBlocks == 0 ||
		i.groupLog > 31 || i.inodesPerBlockLog > 10 || blocks > 1<<46 {
		return i, fmt.Errorf("%s: no superblock of xfs that makes sense", path)
	}
	i.size = int64(blocks) * i.block
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
	b, err := readXFS(v.path)
	if err != nil {
		v.unknown(pieces, v.fs, err.Error())
		return
	}
	pieces = within(pieces, 0, b.size)
	used, owned, err := v.mapped(pieces)
	if err != nil {
		v.unknown(pieces, v.fs, err.Error())
		return
	}
	// Without a reverse map a block can belong to several files.
	rest := v.search(used, owned, true)
	rest = v.deleted(rest)
	rest = v.headers(&b, rest)
	rest = v.chunks(&b, rest)
	v.unknown(rest, v.fs, "in use, and not the data of a file with a name: metadata, or a deleted "+
		"file; xfs tells which only if it was made with a reverse map (rmapbt)")
}

// headers tells of the headers of the allocation groups, four sectors each, and of the journal. It
// returns the rest.
func (v *volume) headers(b *xfsInfo, pieces []piece) []piece {
	before := len(v.facts)
	if b.journal > 0 {
		at := b.bytesOf(b.journal)
		v.tell(within(pieces, at, at+b.journalBlocks*b.block), Fact{Owner: OwnerMetadata,
			Filesystem: v.fs, What: "journal"})
	}
	for _, p := range pieces {
		group := p.at / b.block / b.groupBlocks
		for ; group*b.groupBlocks*b.block < p.at+p.size; group++ {
			at := group * b.groupBlocks * b.block
			v.tell(within([]piece{p}, at, at+4*b.sector), Fact{Owner: OwnerMetadata,
				Filesystem: v.fs, What: metadataNames['X'<<32|1]})
		}
	}
	return without(pieces, v.facts[before:])
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

// xfsUsed is a line of the output of xfs_db's blockuse.
var xfsUsed = regexp.MustCompile(`^block (\d+) \(\d+/\d+\) type (\S+)(?: inode (\d+)(?: (.*))?)?$`)

// xfsTypes are the types of blockuse that are neither a file nor free.
var xfsTypes = map[string]string{"sb": "superblock", "agf": "group header", "agi": "group header",
	"agfl": "group header", "btbno": "free space tree", "btcnt": "free space tree",
	"freelist": "free list", "inode": "inode table", "btino": "inode tree",
	"btfino": "inode tree", "log": "journal", "btrmap": "reverse map tree",
	"btrefc":   "reference count tree",
	"btrefcnt": "reference count tree", "rmap": "reverse map tree", "refc": "reference count tree",
	"cowdata": "copy on write in progress", "dir": "directory", "quota": "quota"}

// xfsFact reads a line of blockuse.
func xfsFact(line, fs string) (block int64, fact Fact, ok bool) {
	m := xfsUsed.FindStringSubmatch(line)
	if m == nil {
		return 0, fact, false
	}
	block, err := strconv.ParseInt(m[1], 10, 62)
	fact = Fact{Owner: OwnerMetadata, Filesystem: fs}
	fact.Inode, _ = strconv.ParseUint(m[3], 10, 64)
	if m[4] != "" {
		fact.Path = rooted("/", m[4])
	}
	switch kind := m[2]; kind {
	case "free2":
		fact.Owner, fact.What = OwnerFree, "free space"
	case "data", "rldata":
		fact.Owner = OwnerFile
	case "symlink":
		fact.Owner, fact.What = OwnerFile, "symbolic link"
	case "attr":
		fact.Owner, fact.What = OwnerFile, "extended attributes"
	case "btbmapa", "btbmapd", "bmap":
		fact.Owner, fact.What = OwnerFile, "its map of extents"
	case "free1", "unknown", "missing":
		fact.Owner, fact.What = OwnerUnknown, "xfs_db finds contradictions about it"
	default:
		if fact.What = xfsTypes[kind]; fact.What == "" {
			fact.What = "metadata (" + kind + ")"
		}
	}
	return block, fact, err == nil
}

// commands asks xfs_db about blocks, run by run. No run goes past the end of its group, where the
// numbers jump.
func (i *xfsInfo) commands(blocks []int64) string {
	var out strings.Builder
	out.WriteString("blockget -n\n")
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && blocks[n] == blocks[0]+int64(n) && blocks[n]%i.groupBlocks != 0 {
			n++
		}
		_, _ = fmt.Fprintf(&out, "fsblock %d\nblockuse -n -c %d\n",
			i.number(blocks[0]*i.block), n)
		blocks = blocks[n:]
	}
	return out.String()
}

// xfsOffline asks xfs_db, which reads all metadata once and then says what each block is.
func (f *finder) xfsOffline(d node, fs string, pieces []piece) {
	b, err := readXFS(d.path)
	if err != nil {
		f.unknown(pieces, fs, err.Error())
		return
	}
	pieces = within(pieces, 0, b.size)
	before := len(f.facts)
	err = f.lines(b.commands(blocksOf(pieces, b.block)), func(line string) {
		if block, fact, ok := xfsFact(line, fs); ok {
			at := b.bytesOf(block)
			f.tell(within(pieces, at, at+b.block), fact)
		}
	}, "xfs_db", "-r", d.path)
	if err == nil && len(f.facts) == before && len(pieces) > 0 {
		err = errors.New("xfs_db cannot read the metadata")
	}
	rest := without(pieces, f.facts[before:])
	if err != nil {
		f.unknown(rest, fs, err.Error())
		return
	}
	f.notes = append(f.notes, d.path+": if its journal was not replayed, the owners are those of "+
		"some time before; a mount replays it")
	f.unknown(rest, fs, "xfs_db does not tell")
}
