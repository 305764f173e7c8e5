package files

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// volume is a mounted file system.
type volume struct {
	*finder
	node
	mount *mount
	fs    string // Fact.Filesystem
	root  int    // descriptor of the directory that is mounted
	clone bool   // other mounts are not in the way
}

// mappedPiece is a piece with what GETFSMAP says of it.
type mappedPiece struct {
	piece
	owner uint64
	flags uint32
}

// mapped asks GETFSMAP about pieces.
func (v *volume) mapped(pieces []piece) (all []mappedPiece, err error) {
	var head fsmapHead
	runs := coalesce(pieces)
	for i, run := range runs {
		if v.over() {
			return nil, errors.New(cutOff)
		}
		v.progress.Set(int64(i), int64(len(runs)))
		err := fsmapOf(v.root, v.dev, run.at, run.at+run.size, &head, func(r record) {
			for _, p := range within(pieces, r.start, r.start+r.size) {
				all = append(all, mappedPiece{p, r.owner, r.flags})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tellMapped tells of free space and of metadata. It returns the pieces that files use, and those
// of them that have an inode. ext4 leaves out some places that are in use between two free ones
// (seen on Linux 7.3), so what is not mentioned is in use.
func (v *volume) tellMapped(pieces []piece, all []mappedPiece) (used []piece, owned []mappedPiece) {
	before := len(v.facts)
	var held []placed
	for _, m := range all {
		in := []piece{m.piece}
		switch {
		case m.flags&fsmapSpecial == 0:
			owned = append(owned, m)
			held = append(held, placed{top: m.top, size: m.size})
		case m.owner == ownFree:
			v.tell(in, Fact{Owner: OwnerFree, Filesystem: v.fs, What: "free space"})
		case m.owner == ownUnknown:
		default:
			what := metadataNames[m.owner]
			if what == "" {
				what = fmt.Sprintf("metadata (owner %#x)", m.owner)
			}
			v.tell(in, Fact{Owner: OwnerMetadata, Filesystem: v.fs, What: what})
		}
	}
	used = without(pieces, slices.Concat(held, v.facts[before:]))
	v.proveMounted(v.facts[before:])
	return used, owned
}

// asked tells of pieces of a file system, of so many bytes, that knows GETFSMAP. readErr is why its
// superblock could not be read. shared: a block can belong to several files. others is to tell of
// what is known to be in use and nothing else.
func (v *volume) asked(size int64, readErr error, pieces []piece, shared bool,
	others func(rest []piece)) {
	if readErr != nil {
		v.unknown(pieces, v.fs, readErr.Error())
		return
	}
	pieces = within(pieces, 0, size)
	err := v.settled(func() (same bool, err error) {
		v.step("places", "asking %s", v.mount.Point)
		all, err := v.mapped(pieces)
		if err != nil {
			return true, err
		}
		used, owned := v.tellMapped(pieces, all)
		if v.prove { // each place by itself: see Prove
			return true, nil
		}
		if rest := v.deleted(v.search(used, owned, shared)); len(rest) > 0 {
			others(rest)
		}
		again, err := v.mapped(pieces)
		return err == nil && slices.Equal(all, again), nil
	})
	if err != nil {
		v.unknown(pieces, v.fs, err.Error())
	}
}

// coalesce joins pieces that lie close to each other, so that there are fewer questions. What lies
// between is asked about too, and left out of the answers.
func coalesce(pieces []piece) (runs []piece) {
	const close = 256 << 10
	for _, p := range pieces {
		if n := len(runs) - 1; n >= 0 && p.at-(runs[n].at+runs[n].size) <= close {
			runs[n].size = p.at + p.size - runs[n].at
			continue
		}
		runs = append(runs, p)
	}
	return runs
}

// search walks the tree for the pieces that files use, and for the names of the inodes that own
// pieces. It returns what it did not find.
func (v *volume) search(used []piece, owned []mappedPiece, shared bool) (rest []piece) {
	w := &walk{volume: v, inodes: map[uint64]bool{}, pieces: used, shared: shared}
	for _, o := range owned {
		w.inodes[o.owner] = true
	}
	if len(w.inodes) > 0 || len(used) > 0 {
		w.run()
		w.note()
	}
	v.facts = append(v.facts, w.found...)
	for _, o := range owned {
		v.tell([]piece{o.piece}, w.ownedFact(o))
	}
	rest = without(used, w.found)
	if v.cut {
		v.unknown(rest, v.fs, cutOff)
		return nil
	}
	return rest
}

// ownedFact says what an inode uses a place for.
func (w *walk) ownedFact(o mappedPiece) Fact {
	e, named := w.named[o.owner]
	f := Fact{Owner: OwnerFile, Inode: o.owner, Filesystem: w.fs}
	switch {
	case named:
		f = w.fact(e)
	case w.cut:
		f.What = "the search for its name took too long and was ended"
	default:
		f.What = "a file without a name here, such as a deleted one that is open"
	}
	switch {
	case o.flags&fsmapAttr != 0:
		f.What = "extended attributes"
	case o.flags&fsmapExtents != 0:
		f.What = "its map of extents"
	case o.flags&fsmapPrealloc != 0:
		f.What = Unwritten
	}
	return f
}

// ext asks ext4, which also serves ext2 and ext3.
func (v *volume) ext(pieces []piece) {
	b, err := readExt(v.path)
	v.asked(b.size, err, pieces, false, func(rest []piece) {
		// What is left is no file's data: the journal, maps of extents, attributes. debugfs reads
		// the device, which is up to date once all is written.
		_ = unix.Syncfs(v.root)
		v.inodes(b, v.node, v.fs, v.mount.Point, nobodys, rest)
	})
}

// other asks a file system that only knows FIEMAP, if that.
func (v *volume) other(pieces []piece) {
	before := len(v.facts)
	w := &walk{volume: v, pieces: pieces, shared: true}
	w.run()
	w.note()
	v.facts = append(v.facts, w.found...)
	why := "in no file that was found: free space or metadata, " + v.mount.Type + " does not tell"
	switch {
	case v.cut:
		why = cutOff
	case w.noMap:
		why = v.mount.Type + " does not tell where its files are"
	}
	v.unknown(without(pieces, v.facts[before:]), v.fs, why)
}

// rooted returns a path of a file system as seen below where it is mounted.
func rooted(point, path string) string { return filepath.Join(point, path) }
