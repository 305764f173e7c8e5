package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// redundant is What says of a file's blocks of which the file system has another copy.
const redundant = "one of several copies"

// btrfs is a mounted btrfs.
type btrfs struct {
	*volume
	sector    int64 // bytes
	treeBlock int64 // bytes of a tree block
	devid     uint64
	size      int64 // bytes of this device that it uses
	seed      bool  // it is a seed, which nothing writes to
	search    btrfsSearch
	inodes    btrfsInodes
	names     map[btrfsUser]string // "" if there is none
	trees     map[uint64]string    // paths of subvolumes from the top of the file system
	mounts    []*mount             // of all of its devices
	extents   btrfsExtents
	refs      btrfsRefs
	run       func(l *layout, logical int64, p piece) error // tells of a run of a chunk
}

func newBtrfs(v *volume) *btrfs {
	b := &btrfs{volume: v, mounts: v.mountsOf(v.dev)}
	b.run = b.byExtent
	return b
}

// most is how many files are told of one block. Snapshots can make it belong to thousands.
const most = 16

// btrfsSupers are the places of the superblocks. The first one may be one of the bad blocks.
var btrfsSupers = []int64{64 << 10, 64 << 20, 256 << 30}

// open reads the superblock (struct btrfs_super_block): dev_item is at 0xc9.
func (b *btrfs) open() error {
	var s []byte
	err := errors.New("it has none")
	for _, at := range btrfsSupers {
		if s, err = superblock(b.path, at, 4096); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	b.sector = int64(le.Uint32(s[0x90:]))
	b.treeBlock = int64(le.Uint32(s[0x94:]))
	b.devid = le.Uint64(s[0xc9:])
	b.size = int64(le.Uint64(s[0xc9+8:]))
	if string(s[0x40:0x48]) != "_BHRfS_M" || b.sector < 512 || b.sector > 64<<10 ||
		b.treeBlock < b.sector || b.treeBlock > 64<<10 || b.size <= 0 {
		return fmt.Errorf("%s: no superblock of btrfs that makes sense", b.path)
	}
	const (
		seeding  = 1 << 32 // BTRFS_SUPER_FLAG_SEEDING
		followed = 0x10fff // of BTRFS_FEATURE_INCOMPAT_: others can place data in other ways
	)
	switch features := le.Uint64(s[0xbc:]); {
	case features&^followed != 0:
		return fmt.Errorf("this btrfs has features that are not followed (%#x)",
			features&^followed)
	case b.devid == 0:
		return errors.New("it is the target of a replace of btrfs that has not ended")
	}
	b.seed = le.Uint64(s[0x38:])&seeding != 0
	return nil
}

// btrfs asks a mounted btrfs.
func (v *volume) btrfs(pieces []piece) {
	b := newBtrfs(v)
	err := b.open()
	if err == nil {
		pieces = within(pieces, 0, b.size)
		before := len(v.facts)
		err = b.find(pieces)
		switch {
		case err != nil || !v.prove:
		case b.seed:
			v.unproven(v.fs, errors.New("its device is a seed"))
		default:
			v.proveMounted(v.facts[before:])
		}
	}
	if err != nil {
		v.unknown(without(pieces, v.facts), v.fs, err.Error())
	}
}

// errChunks: btrfs gives up chunks that hold nothing any more by itself.
var errChunks = errors.New("btrfs does not know the chunk there, or not any more: ask again")

// find tells of pieces.
func (b *btrfs) find(pieces []piece) error {
	return b.settled(func() (same bool, err error) {
		b.extents, b.refs = btrfsExtents{}, btrfsRefs{}
		b.names, b.trees = map[btrfsUser]string{}, map[uint64]string{treeFiles: "/"}
		// What is not written yet has no place.
		_ = unix.Syncfs(b.root)
		written, before := committed(b.root)
		err = b.pieces(pieces)
		now, after := generation(b.root)
		return errors.Join(before, after) == nil && now == written, err
	})
}

// pieces tells of pieces: superblocks, what chunks hold, and the rest, which is not allocated.
func (b *btrfs) pieces(pieces []piece) error {
	before := len(b.facts)
	for _, at := range btrfsSupers {
		b.tell(within(pieces, at, at+4096), Fact{Owner: OwnerMetadata, Filesystem: b.fs,
			What: "superblock"})
	}
	pieces = without(pieces, b.facts[before:])
	before = len(b.facts)
	type extent struct{ start, size, chunk int64 }
	var extents []extent
	le := binary.LittleEndian
	err := searchTree(b.root, treeDevices, b.devid, keyDevExtent, 0, ^uint64(0), &b.search,
		func(i btrfsItem) {
			if len(i.data) >= 32 {
				extents = append(extents, extent{int64(i.offset), int64(le.Uint64(i.data[24:])),
					int64(le.Uint64(i.data[16:]))})
			}
		})
	if err != nil {
		return err
	}
	for _, e := range extents {
		in := within(pieces, e.start, e.start+e.size)
		if len(in) == 0 {
			continue
		}
		if b.over() {
			return errors.New(cutOff)
		}
		if err := b.chunk(e.chunk, e.start, in); err != nil {
			return err
		}
	}
	rest := without(pieces, b.facts[before:])
	b.unknown(within(rest, 0, 1<<20), b.fs, "kept free by btrfs, for a boot loader for example")
	b.tell(within(rest, 1<<20, b.size), Fact{Owner: OwnerFree, Filesystem: b.fs,
		What: "free space"})
	return nil
}

// The profiles of chunks.
const (
	chunkSystem   = 1 << 1
	chunkMetadata = 1 << 2
	chunkRaid0    = 1 << 3
	chunkRaid10   = 1 << 6
	chunkParity   = 1<<7 | 1<<8
	chunkCopies   = 1<<4 | 1<<5 | 1<<6 | 1<<9 | 1<<10 // raid1, dup, raid10, raid1c3, raid1c4
)

// layout is how a chunk lies on a device.
type layout struct {
	chunk, start  int64 // its logical address, and where its stripe begins on the device
	kind          uint64
	stripe        int64 // bytes
	index, number int64 // of the stripe, without copies
}

// logical returns the logical address of a place on the device, and how many bytes from there on
// follow each other.
func (l *layout) logical(at int64) (address, size int64) {
	off := at - l.start
	if l.number <= 1 {
		return l.chunk + off, 1 << 62
	}
	row, in := off/l.stripe, off%l.stripe
	return l.chunk + (row*l.number+l.index)*l.stripe + in, l.stripe - in
}

// chunk tells of pieces that lie in a chunk, whose stripe begins at a place of the device.
func (b *btrfs) chunk(logical, start int64, pieces []piece) error {
	l, err := b.layoutOf(logical, start)
	if err != nil {
		return err
	}
	if l.kind&chunkParity != 0 {
		b.unknown(pieces, b.fs, "in a chunk with parity (raid5 or raid6), which is not followed")
		return nil
	}
	for _, p := range pieces {
		for p.size > 0 {
			if b.over() {
				return errors.New(cutOff)
			}
			address, size := l.logical(p.at)
			size = min(size, p.size)
			if err := b.run(&l, address, piece{p.top, p.at, size}); err != nil {
				return err
			}
			p = p.from(size)
		}
	}
	return nil
}

// layoutOf reads the item of a chunk (struct btrfs_chunk).
func (b *btrfs) layoutOf(logical, start int64) (l layout, err error) {
	l = layout{chunk: logical, start: start}
	le := binary.LittleEndian
	found := false
	err = searchTree(b.root, treeChunks, firstChunk, keyChunk, uint64(logical), uint64(logical),
		&b.search, func(i btrfsItem) {
			if len(i.data) < 48 {
				return
			}
			l.stripe, l.kind = int64(le.Uint64(i.data[16:])), le.Uint64(i.data[24:])
			l.number = int64(le.Uint16(i.data[44:]))
			copies := max(1, int64(le.Uint16(i.data[46:])))
			for n := range l.number {
				at := 48 + 32*n
				if int64(len(i.data)) >= at+16 && le.Uint64(i.data[at:]) == b.devid &&
					int64(le.Uint64(i.data[at+8:])) == start {
					found, l.index = true, n
				}
			}
			switch {
			case l.kind&chunkRaid10 != 0:
				l.index, l.number = l.index/copies, l.number/copies
			case l.kind&chunkRaid0 == 0:
				l.number = 1
			}
		})
	if err == nil && (!found || l.stripe < 512) {
		err = errChunks
	}
	return l, err
}

// fact says that a place belongs to a file.
func (b *btrfs) fact(l *layout, u btrfsUser) Fact {
	f := Fact{Owner: OwnerFile, Inode: u.inode, Filesystem: b.fs}
	if u.root != treeFiles && u.root < firstSubvolume {
		f.Owner, f.What = OwnerMetadata, "cache of free space"
		return f
	}
	if l.kind&chunkCopies != 0 {
		f.What = redundant
	}
	path, known := b.names[u]
	if !known {
		path = b.name(u)
		b.names[u] = path
	}
	switch mounted, ok := b.mountedAt(path); {
	case path == "":
		f.What = strings.TrimPrefix(f.What+", a file without a name, such as a deleted one that "+
			"is open", ", ")
	case ok:
		f.Path = mounted
	default:
		f.Path = path
		f.What = strings.TrimPrefix(f.What+", in a subvolume that is not mounted", ", ")
	}
	return f
}

// name returns the path of a file from the top of the file system.
func (b *btrfs) name(u btrfsUser) string {
	tree, ok := b.tree(u.root, 0)
	path, err := lookupInode(b.root, u.root, u.inode)
	if !ok || err != nil || path == "" {
		return ""
	}
	return filepath.Join(tree, path)
}

// tree returns the path of a subvolume from the top of the file system.
func (b *btrfs) tree(root uint64, depth int) (path string, ok bool) {
	if path, ok = b.trees[root]; ok || depth == maxDepth {
		return path, ok
	}
	var parent, dir uint64
	name := ""
	le := binary.LittleEndian
	// struct btrfs_root_ref: dirid, sequence, name_len, name; the key's offset is the parent.
	err := searchTree(b.root, treeRoots, root, keyRootBackref, 0, ^uint64(0), &b.search,
		func(i btrfsItem) {
			if len(i.data) < 18 || len(i.data) < 18+int(le.Uint16(i.data[16:])) {
				return
			}
			parent, dir = i.offset, le.Uint64(i.data)
			name = string(i.data[18 : 18+le.Uint16(i.data[16:])])
		})
	if err != nil || name == "" {
		return "", false
	}
	above, ok := b.tree(parent, depth+1)
	within, err := lookupInode(b.root, parent, dir)
	if !ok || err != nil {
		return "", false
	}
	path = filepath.Join(above, within, name)
	b.trees[root] = path
	return path, true
}

// mountedAt turns a path from the top of the file system into one that can be opened, by the
// mount that shows most of it.
func (b *btrfs) mountedAt(path string) (string, bool) {
	var best *mount
	for _, m := range b.mounts {
		if (best == nil || len(m.Root) > len(best.Root)) &&
			(m.Root == "/" || path == m.Root || strings.HasPrefix(path, m.Root+"/")) {
			best = m
		}
	}
	if best == nil {
		return "", false
	}
	return filepath.Join(best.Point, strings.TrimPrefix(path, best.Root)), true
}
