package files

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// deleted searches for pieces in the files without a name that processes have open, and returns
// what it did not find.
func (v *volume) deleted(pieces []piece) (rest []piece) {
	if len(pieces) == 0 {
		return nil
	}
	w := &walk{volume: v, pieces: pieces, seen: map[uint64]bool{}}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if v.over() {
			break
		}
		w.descriptor(fd)
	}
	v.facts = append(v.facts, w.found...)
	return without(pieces, w.found)
}

// descriptor looks at what a process has open. The kernel knows its inode; a file on a dead network
// is not asked.
func (w *walk) descriptor(path string) {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT,
		unix.STATX_TYPE|unix.STATX_INO|unix.STATX_NLINK, &x)
	if err != nil || x.Mode&unix.S_IFMT != unix.S_IFREG || x.Nlink != 0 || w.seen[x.Ino] ||
		unix.Mkdev(x.Dev_major, x.Dev_minor) != w.mount.Dev {
		return
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	proc := strings.Join(strings.Split(path, "/")[:3], "/")
	what := fmt.Sprintf("a deleted file that process %s (%s) has open", filepath.Base(proc),
		comm(proc))
	_ = extentsOf(fd, &w.fiemap, func(e *fiemapExtent) {
		for _, p := range within(w.pieces, int64(e.physical), int64(e.physical+e.length)) {
			w.seen[x.Ino] = true
			w.found = append(w.found, placed{top: p.top, size: p.size, fact: Fact{
				Owner: OwnerFile, Inode: x.Ino, Filesystem: w.fs, What: what}})
		}
	})
}
