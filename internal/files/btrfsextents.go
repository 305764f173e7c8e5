package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// The tree of extents says in one search what many blocks are: of an extent of data, of a tree, or
// free. LOGICAL_INO, which knows the files, then has to be asked once per extent and not once per
// block.

// btrfsExtent is a run of logical addresses that is in use.
type btrfsExtent struct {
	start, end int64
	tree       bool // a block of a tree; else data
}

// btrfsExtents are the extents that overlap a run of logical addresses, in order.
type btrfsExtents struct {
	from, to int64
	list     []btrfsExtent
}

// Of the search for the extent that a block is in. It begins where the extent begins, which may be
// far before the block, and the tree cannot be searched backwards.
const (
	extentsBack  = 64 << 10 // bytes before the block in which it is searched for first
	extentsAhead = 16 << 20 // bytes behind the block that are looked at too
	extentsRoom  = 512      // items of one search
)

// at returns the extent that a logical address of a chunk is in, and where that ends. If it is nil
// the address is free up to there.
func (b *btrfs) at(chunk, logical int64) (e *btrfsExtent, end int64, err error) {
	x := &b.extents
	if logical < x.from || logical >= x.to {
		if err := b.look(chunk, logical); err != nil {
			return nil, 0, err
		}
	}
	i, _ := slices.BinarySearchFunc(x.list, logical, func(e btrfsExtent, l int64) int {
		if e.end <= l {
			return -1
		}
		return 1
	})
	switch {
	case i == len(x.list):
		return nil, x.to, nil
	case x.list[i].start > logical:
		return nil, x.list[i].start, nil
	}
	return &x.list[i], x.list[i].end, nil
}

// look finds the extents around a logical address. None reaches over the start of its chunk.
func (b *btrfs) look(chunk, logical int64) error {
	for back := int64(extentsBack); ; back *= 8 {
		from := max(chunk, logical-back)
		if err := b.lookFrom(from, logical); err != nil {
			return err
		}
		x := &b.extents
		if from == chunk || len(x.list) > 0 && x.list[0].start <= logical {
			return nil
		}
	}
}

// lookFrom finds the extents that begin at a logical address or behind it, and goes past another
// one.
func (b *btrfs) lookFrom(from, past int64) error {
	x := &b.extents
	*x = btrfsExtents{from: from, to: past + extentsAhead, list: x.list[:0]}
	last := btrfsItem{object: uint64(from)}
	for {
		s := &b.search
		*s = btrfsSearch{tree: treeExtents, minObject: last.object, minType: last.kind,
			minOffset: last.offset, maxObject: uint64(x.to - 1), maxType: ^uint32(0),
			maxOffset: ^uint64(0), items: extentsRoom}
		// An item of another kind lies between: what uses an extent, if that is much.
		n, err := s.once(b.root, func(i btrfsItem) {
			last = i
			if e, ok := b.extent(i); ok {
				x.list = append(x.list, e)
			}
		})
		switch {
		case err != nil:
			return err
		case n == 0 && len(x.list) > 0:
			x.to = max(x.to, x.list[len(x.list)-1].end)
			return nil
		case n == 0:
			return nil
		case int64(last.object) > past:
			x.to = int64(last.object)
			if n := len(x.list); n > 0 {
				x.to = max(x.to, x.list[n-1].end)
			}
			return nil
		case last.offset < ^uint64(0):
			last.offset++
		default:
			last = btrfsItem{object: last.object + 1}
		}
	}
}

// extent reads an item of the tree of extents (struct btrfs_extent_item: refs, generation, flags).
func (b *btrfs) extent(i btrfsItem) (e btrfsExtent, ok bool) {
	const treeFlag = 2 // BTRFS_EXTENT_FLAG_TREE_BLOCK
	e.start = int64(i.object)
	switch {
	case i.kind == keyTreeBlock: // its offset is the level
		e.end, e.tree = e.start+b.treeBlock, true
	case i.kind == keyExtent && len(i.data) >= 24:
		e.end = e.start + int64(i.offset)
		e.tree = binary.LittleEndian.Uint64(i.data[16:])&treeFlag != 0
	}
	return e, e.end > e.start
}

// byExtent tells of a run of logical addresses of a chunk, and finds out what they are by extent.
func (b *btrfs) byExtent(l *layout, logical int64, p piece) error {
	for p.size > 0 {
		if b.over() {
			return errors.New(cutOff)
		}
		e, end, err := b.at(l.chunk, logical)
		if err != nil {
			return err
		}
		n := min(p.size, end-logical)
		in := piece{p.top, p.at, n}
		switch {
		case e == nil:
			b.free(in)
		case e.tree:
			b.metadata(l, in)
		case b.prove:
			b.unknown([]piece{in}, b.fs, "in use")
		default:
			err = b.data(l, e, logical, in)
		}
		if err != nil {
			return err
		}
		logical, p = logical+n, p.from(n)
	}
	return nil
}

func (b *btrfs) free(p piece) {
	b.tell([]piece{p}, Fact{Owner: OwnerFree, Filesystem: b.fs, What: "free space"})
}

func (b *btrfs) metadata(l *layout, p piece) {
	fact := Fact{Owner: OwnerMetadata, Filesystem: b.fs, What: "tree of metadata"}
	if l.kind&chunkCopies != 0 {
		fact.What = "tree of metadata, " + redundant
	}
	b.tell([]piece{p}, fact)
}

// btrfsRef is a file that shows a part of an extent. from and to are logical addresses.
type btrfsRef struct {
	btrfsUser
	from, to int64
}

// btrfsRefs are the files that show parts of an extent.
type btrfsRefs struct {
	extent btrfsExtent
	asked  int64 // blocks of it that were looked at
	read   bool  // list was tried to be found
	list   []btrfsRef
	whole  bool // list has all of them
}

// fewBlocks are so few blocks of an extent that to ask about each takes no longer than to find out
// which parts of the extent its files show.
const fewBlocks = 3

// data tells of a run of an extent of data.
func (b *btrfs) data(l *layout, e *btrfsExtent, logical int64, p piece) error {
	r := &b.refs
	if r.extent != *e {
		*r = btrfsRefs{extent: *e, list: r.list[:0]}
	}
	r.asked += (p.size + b.sector - 1) / b.sector
	if !r.read && r.asked > fewBlocks {
		r.read = true
		r.whole = b.readRefs() == nil
	}
	if !r.whole {
		return b.bySector(l, logical, p)
	}
	for p.size > 0 {
		end := logical + p.size // of the blocks that the same files show
		var users []btrfsUser
		for _, f := range r.list {
			switch {
			case f.from <= logical && logical < f.to:
				users = append(users, f.btrfsUser)
				end = min(end, f.to)
			case f.from > logical:
				end = min(end, f.from)
			}
		}
		n := end - logical
		b.used(l, inOrder(users), piece{p.top, p.at, n})
		logical, p = end, p.from(n)
	}
	return nil
}

// errRefs: the files of an extent cannot be told all at once.
var errRefs = errors.New("the extent has too many uses, or they have changed")

// readRefs finds out which files show which parts of the extent.
func (b *btrfs) readRefs() error {
	r := &b.refs
	var uses []btrfsUse
	missed, err := logicalUses(b.root, r.extent.start, true, &b.inodes, func(u btrfsUse) {
		uses = append(uses, u)
	})
	if err != nil {
		return err
	}
	if missed > 0 {
		return errRefs
	}
	le := binary.LittleEndian
	for _, u := range uses {
		before := len(r.list)
		// struct btrfs_file_extent_item: forms of its data at 16, type at 20, the extent's address
		// at 21, offset in the extent at 37, bytes at 45.
		err := searchTree(b.root, u.root, u.inode, keyFileExtent, u.offset, u.offset, &b.search,
			func(i btrfsItem) {
				if len(i.data) < 53 || int64(le.Uint64(i.data[21:])) != r.extent.start {
					return
				}
				from := r.extent.start + int64(le.Uint64(i.data[37:]))
				ref := btrfsRef{u.btrfsUser, from, from + int64(le.Uint64(i.data[45:]))}
				if le.Uint32(i.data[16:]) != 0 {
					ref.from, ref.to = r.extent.start, r.extent.end // compressed
				}
				r.list = append(r.list, ref)
			})
		if err != nil {
			return err
		}
		if len(r.list) == before {
			return errRefs
		}
	}
	return nil
}

// bySector tells of a run of an extent of data, and asks about each of its blocks.
func (b *btrfs) bySector(l *layout, logical int64, p piece) error {
	for p.size > 0 {
		if b.over() {
			return errors.New(cutOff)
		}
		n := min(p.size, b.sector-logical%b.sector)
		in := piece{p.top, p.at, n}
		users, err := logicalUsers(b.root, logical-logical%b.sector, &b.inodes)
		switch {
		case errors.Is(err, unix.ENOENT):
			b.free(in) // since then
		case err != nil:
			b.unknown([]piece{in}, b.fs, "btrfs cannot tell: "+err.Error())
		default:
			b.used(l, users, in)
		}
		logical, p = logical+n, p.from(n)
	}
	return nil
}

// used tells which files use a piece of an extent of data.
func (b *btrfs) used(l *layout, users []btrfsUser, p piece) {
	in := []piece{p}
	if len(users) == 0 {
		b.unknown(in, b.fs, "of an extent of which no file shows this part any more")
	}
	for _, u := range users[:min(len(users), most)] {
		b.tell(in, b.fact(l, u))
	}
	if len(users) > most {
		b.notes = append(b.notes, fmt.Sprintf("%s: some blocks belong to more than %d files, such "+
			"as those of snapshots; not all are told", b.fs, most))
	}
}
