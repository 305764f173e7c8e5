package files

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// walk is one walk of the tree of a mounted file system, in search of inodes by their number and
// of files by where their data is.
type walk struct {
	*volume
	inodes map[uint64]bool // wanted, not found yet
	pieces []piece         // wanted, by at; empty: only inodes are searched for
	shared bool            // a block can belong to several files

	named   map[uint64]entry // the inodes that were found, with their path
	found   []placed
	left    int64 // bytes of pieces that were not found
	seen    map[uint64]bool
	met     int64 // files and directories
	total   int64 // of them that there are; 0: not known
	failed  int   // directories and files that could not be looked at
	why     error
	fiemap  fiemap
	noMap   bool // the file system has no FIEMAP
	dirents []byte
}

// entry is one entry of a directory.
type entry struct {
	inode uint64
	path  string // from the root of the walk
	kind  uint8  // DT_REG and so on
}

// run walks until all is found, or the tree has been seen.
func (w *walk) run() {
	w.named, w.seen = map[uint64]entry{}, map[uint64]bool{}
	w.dirents = make([]byte, 64<<10)
	for _, p := range w.pieces {
		w.left += p.size
	}
	w.begin()
	var st unix.Stat_t
	if err := unix.Fstat(w.root, &st); err == nil {
		w.meet(entry{st.Ino, ".", unix.DT_DIR})
	}
	dirs := []string{"."}
	for len(dirs) > 0 && !w.done() && !w.over() {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		for _, e := range w.list(dir) {
			if w.done() || w.over() {
				return
			}
			w.meet(e)
			if e.kind == unix.DT_DIR {
				dirs = append(dirs, e.path)
			}
		}
	}
}

// done reports whether all is found that was searched for.
func (w *walk) done() bool {
	return len(w.inodes) == 0 && (len(w.pieces) == 0 || w.noMap || w.left == 0 && !w.shared)
}

// open opens something of the tree, and nothing of another file system.
func (w *walk) open(path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK |
			unix.O_CLOEXEC | unix.O_NOATIME),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(w.root, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
		if w.over() {
			return -1, err
		}
	}
}

// fail counts what could not be looked at. What has gone meanwhile does not count.
func (w *walk) fail(err error) {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return
	}
	w.failed++
	w.why = err
}

// list reads a directory. The entries come in the order of their inodes, in which they are read
// fastest.
func (w *walk) list(dir string) (all []entry) {
	fd, err := w.open(dir, unix.O_DIRECTORY)
	if err != nil {
		w.fail(err)
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		n, err := unix.Getdents(fd, w.dirents)
		if err != nil || n <= 0 {
			if err != nil {
				w.fail(err)
			}
			break
		}
		all = appendEntries(all, dir, w.dirents[:n])
	}
	for i := range all {
		if all[i].kind == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if unix.Fstatat(fd, filepath.Base(all[i].path), &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				all[i].kind = uint8(st.Mode & unix.S_IFMT >> 12)
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.inode, b.inode) })
	return all
}

// appendEntries reads what getdents64(2) gives: inode, offset, length of the entry, type, name.
func appendEntries(all []entry, dir string, b []byte) []entry {
	const nameAt = 19
	for len(b) >= nameAt {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size < nameAt || size > len(b) {
			return all
		}
		name, _, _ := bytes.Cut(b[nameAt:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			all = append(all, entry{binary.NativeEndian.Uint64(b), filepath.Join(dir, s), b[18]})
		}
		b = b[size:]
	}
	return all
}

// meet looks at an entry.
func (w *walk) meet(e entry) {
	w.count()
	if w.inodes[e.inode] {
		delete(w.inodes, e.inode)
		w.named[e.inode] = e
	}
	if len(w.pieces) == 0 || w.noMap || w.seen[e.inode] ||
		e.kind != unix.DT_REG && e.kind != unix.DT_DIR {
		return
	}
	flags := 0
	if e.kind == unix.DT_DIR {
		flags = unix.O_DIRECTORY
	}
	fd, err := w.open(e.path, flags)
	if err != nil {
		w.fail(err)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	err = extentsOf(fd, &w.fiemap, func(x *fiemapExtent) { w.extent(fd, e, x) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY):
		// Some file systems map files and no directories.
		w.noMap = e.kind == unix.DT_REG
	case err != nil:
		w.fail(err)
	}
}

// extent notes which of the wanted pieces an extent of a file holds.
func (w *walk) extent(fd int, e entry, x *fiemapExtent) {
	in := within(w.pieces, int64(x.physical), int64(x.physical+x.length))
	if len(in) == 0 || w.realtime(fd) {
		return
	}
	w.seen[e.inode] = true
	fact := w.fact(e)
	if x.flags&extentUnwritten != 0 {
		fact.What = Unwritten
	}
	for _, p := range in {
		w.found = append(w.found, placed{top: p.top, size: p.size, fact: fact})
		w.left -= p.size
	}
}

// realtime reports whether a file's data is on another device of its file system: the realtime
// device of xfs. FIEMAP counts on that device then.
func (w *walk) realtime(fd int) bool {
	if w.mount.Type != "xfs" {
		return false
	}
	const (
		getXattr = 0x801c581f // FS_IOC_FSGETXATTR, _IOR('X', 31, struct fsxattr)
		realtime = 0x1        // FS_XFLAG_REALTIME
	)
	var attr [7]uint32
	err := ioctl(fd, getXattr, &attr)
	return err == nil && attr[0]&realtime != 0
}

// fact says that a place belongs to a file or a directory.
func (w *walk) fact(e entry) Fact {
	f := Fact{Owner: OwnerFile, Path: filepath.Join(w.mount.Point, e.path), Inode: e.inode,
		Filesystem: w.fs}
	if e.kind == unix.DT_DIR {
		f.Owner, f.What = OwnerMetadata, "directory"
	}
	return f
}

// note says what the walk has not seen.
func (w *walk) note() {
	if w.failed > 0 {
		w.notes = append(w.notes, fmt.Sprintf("%s: %d files or directories could not be looked "+
			"at: %v", w.fs, w.failed, w.why))
	}
	if w.mount.Root != "/" {
		w.notes = append(w.notes, fmt.Sprintf("%s: only %s of it is mounted: files elsewhere in "+
			"it are not found", w.fs, w.mount.Root))
	}
}
