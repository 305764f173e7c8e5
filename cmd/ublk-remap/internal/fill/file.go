package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ublkremap/internal/files"
	"ublkremap/internal/lists"
)

// File is what became of a damaged file.
type File struct {
	Path   string `json:"path"`
	Backup string `json:"backup"`
	// State is filled (the file is as in the backup), or left (nothing was written to it, or not
	// all of it could be filled). Why says why it was left.
	State string `json:"state"`
	Why   string `json:"why"`
	// Bad is how many of its blocks were pending or lost, and Filled how many hold the backup's
	// data now. Of a dry run: would hold it.
	Bad    uint64 `json:"bad_blocks"`
	Filled uint64 `json:"filled"`
	// Failed are those that could not be filled, although the backup has them.
	Failed uint64 `json:"failed"`
}

// States of a File.
const (
	StateFilled = "filled"
	StateLeft   = "left"
)

// page is what the kernel reads of a file at least. A bad block makes all of it unreadable.
const page = 4096

// piece is how much of two files is compared at once.
const piece = 1 << 20

// errLeft is the reason why a file is left alone.
type errLeft struct{ why string }

func (e errLeft) Error() string { return e.why }

func left(format string, args ...any) error { return errLeft{fmt.Sprintf(format, args...)} }

// file is a damaged file and its backup.
type file struct {
	d       *Device
	live    *os.File
	backup  *os.File
	size    int64
	stat    unix.Stat_t
	extents []files.Extent // Place is on the device that is filled
	shift   int64          // from places on the file system's device to those
	bad     []lists.Range  // blocks of the device that are pending or lost, in the file's extents
	within  []lists.Range  // the same, as bytes of the file
}

// Restore fills the bad blocks of a file from its backup. The rest of the file must equal the
// backup's, byte for byte. Otherwise it is left alone. place says for the device number of a file
// system where on the device that is filled its device begins. With dryRun all is compared and
// nothing is filled. The error is that of the client or of the context.
func (d *Device) Restore(ctx context.Context, path, backup string, bad []lists.Range,
	place func(dev uint64) (int64, error), dryRun bool) (File, error) {
	out := File{Path: path, Backup: backup, State: StateLeft}
	f, err := d.open(path, backup, bad, place)
	if f != nil {
		defer f.close()
	}
	if err == nil {
		out.Bad = f.blocks()
		err = f.compare(ctx)
	}
	if err == nil {
		err = f.unchanged()
	}
	if err == nil && dryRun {
		out.State, out.Filled = StateFilled, out.Bad
		return out, nil
	}
	var why errLeft
	if err != nil {
		if errors.As(err, &why) {
			out.Why = why.why
			return out, nil
		}
		return out, err
	}
	src := NewSource(backup, f, 0, f.bad)
	res, err := Run(ctx, *d, src, f.bad, func(int64) {})
	out.Filled, out.Failed = res.Filled, res.Failed
	switch {
	case err != nil:
		return out, err
	case res.Failed > 0 || res.Missing > 0:
		out.Why = fmt.Sprintf("%d of its blocks could not be filled", res.Failed+res.Missing)
		if res.Reason != "" {
			out.Why += ": " + res.Reason
		}
		return out, nil
	}
	if at, err := f.differs(f.within); err != nil {
		out.Why = "it cannot be read back: " + err.Error()
		if res.Filled == 0 {
			out.Why = "none of its blocks was filled: they were written meanwhile, or read " +
				"again: " + err.Error()
		}
	} else if at >= 0 {
		out.Why = fmt.Sprintf("byte %d is not as in the backup: the block reads again, or was "+
			"written meanwhile, and was left alone", at)
	} else {
		out.State = StateFilled
	}
	return out, nil
}

func (f *file) close() {
	for _, o := range []*os.File{f.live, f.backup} {
		if o != nil {
			_ = o.Close()
		}
	}
}

// openRegular opens a regular file.
func openRegular(path string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	o, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, st, left("%v", err)
	}
	if err := unix.Fstat(int(o.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errors.Join(left("%s: not a regular file", path), o.Close())
	}
	return o, st, nil
}

// open opens a file and its backup, and finds its bad blocks.
func (d *Device) open(path, backup string, bad []lists.Range,
	place func(dev uint64) (int64, error)) (f *file, err error) {
	f = &file{d: d}
	if f.live, f.stat, err = openRegular(path); err != nil {
		return f, err
	}
	var st unix.Stat_t
	if f.backup, st, err = openRegular(backup); err != nil {
		return f, err
	}
	if st.Dev == f.stat.Dev && st.Ino == f.stat.Ino {
		return f, left("%s is the file itself, and no backup of it", backup)
	}
	if f.size = f.stat.Size; st.Size != f.size {
		return f, left("it has %d bytes, and the backup %d", f.size, st.Size)
	}
	if f.shift, err = place(f.stat.Dev); err != nil {
		return f, left("%v", err)
	}
	if err := f.live.Sync(); err != nil {
		return f, left("%v", err)
	}
	if f.extents, err = f.places(); err != nil {
		return f, err
	}
	return f, f.findBad(bad)
}

// places returns the file's extents, by their place on the device that is filled.
func (f *file) places() ([]files.Extent, error) {
	list, err := files.Extents(f.live)
	if err != nil {
		return nil, left("where it lies cannot be told: %v", err)
	}
	for i := range list {
		list[i].Place += f.shift
	}
	return list, nil
}

// findBad finds the file's bad blocks.
func (f *file) findBad(bad []lists.Range) error {
	bs := f.d.BlockSize
	for _, e := range f.extents {
		mine := []lists.Range{{Start: e.Place, End: e.Place + e.Length}}
		for _, r := range lists.Intersect(mine, bad) {
			at := e.Offset + r.Start - e.Place
			switch {
			case at >= f.size:
				continue // allocated behind the end
			case !e.Written:
				continue // it reads as zeroes, whatever is there
			case r.Start%bs != 0 || r.End%bs != 0 || e.Place%bs != 0:
				return left("a bad block of the disk holds more than this file")
			}
			f.bad = append(f.bad, r)
			f.within = append(f.within, lists.Range{Start: at,
				End: min(f.size, at+r.End-r.Start)})
		}
	}
	f.bad, f.within = lists.Merge(f.bad), lists.Merge(f.within)
	if len(f.bad) == 0 {
		return left("none of its data is bad, or any more")
	}
	return nil
}

func (f *file) blocks() (n uint64) {
	for _, r := range f.bad {
		n += uint64((r.End - r.Start) / f.d.BlockSize)
	}
	return n
}

// ReadAt reads bytes of the device from the backup. What lies behind the end of the file is zero.
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	for _, e := range f.extents {
		if off < e.Place || off+int64(len(b)) > e.Place+e.Length {
			continue
		}
		n, err := f.backup.ReadAt(b, e.Offset+off-e.Place)
		if errors.Is(err, io.EOF) && e.Offset+off-e.Place+int64(n) == f.size {
			clear(b[n:])
			return len(b), nil
		}
		return n, err
	}
	return 0, io.ErrUnexpectedEOF
}

// compare makes sure that the file equals the backup wherever it can be read.
func (f *file) compare(ctx context.Context) error {
	var pages []lists.Range
	for _, r := range f.within {
		pages = append(pages, lists.Range{Start: r.Start / page * page,
			End: min(f.size, (r.End+page-1)/page*page)})
	}
	pages = lists.Merge(pages)
	good := lists.Subtract([]lists.Range{{Start: 0, End: f.size}}, pages)
	if f.size == 0 {
		good = nil
	}
	for _, r := range good {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if at, err := f.differs([]lists.Range{r}); err != nil {
			return left("more of it cannot be read: %v", err)
		} else if at >= 0 {
			return left("byte %d differs from the backup", at)
		}
	}
	return errors.Join(f.compareHoles(pages), f.comparePages(pages))
}

// compareHoles makes sure that the backup is zero where pages that have bad blocks hold no data.
func (f *file) compareHoles(pages []lists.Range) error {
	var data []lists.Range
	for _, e := range f.extents {
		if e.Written {
			data = append(data, lists.Range{Start: e.Offset, End: e.Offset + e.Length})
		}
	}
	b := make([]byte, page)
	for _, r := range lists.Subtract(pages, lists.Merge(data)) {
		for at := r.Start; at < r.End; at += page {
			n := min(page, r.End-at)
			if _, err := f.backup.ReadAt(b[:n], at); err != nil {
				return left("the backup: %v", err)
			}
			if !zero(b[:n]) {
				return left("it has no data at byte %d, and the backup has", at)
			}
		}
	}
	return nil
}

// differs returns the first byte of ranges of the file that is not as in the backup, or -1.
func (f *file) differs(ranges []lists.Range) (int64, error) {
	a, b := make([]byte, piece), make([]byte, piece)
	for _, r := range ranges {
		for at := r.Start; at < r.End; at += piece {
			n := min(piece, r.End-at)
			if _, err := f.live.ReadAt(a[:n], at); err != nil {
				return -1, err
			}
			if _, err := f.backup.ReadAt(b[:n], at); err != nil {
				return -1, err
			}
			if i := firstDifference(a[:n], b[:n]); i >= 0 {
				return at + int64(i), nil
			}
		}
	}
	return -1, nil
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// comparePages compares the good blocks of pages that have bad ones. The file cannot give them, so
// they are read from the device.
func (f *file) comparePages(pages []lists.Range) (err error) {
	dev, err := os.OpenFile(f.d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	mem, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(mem)) }()
	bs := f.d.BlockSize
	mine, theirs := mem[:bs], mem[page:page+bs]
	for _, e := range f.extents {
		for _, r := range within(pages, lists.Range{Start: e.Offset, End: e.Offset + e.Length}) {
			for at := r.Start - (r.Start-e.Offset)%bs; e.Written && at < r.End; at += bs {
				block := e.Place + at - e.Offset
				if len(lists.Subtract([]lists.Range{{Start: block, End: block + bs}},
					f.bad)) == 0 {
					continue
				}
				if _, err := dev.ReadAt(mine, block); err != nil {
					return left("more of it cannot be read: %v", err)
				}
				if _, err := f.ReadAt(theirs, block); err != nil {
					return left("the backup: %v", err)
				}
				n := min(bs, f.size-at)
				// What lies behind the end of the file does not matter.
				if i := firstDifference(mine[:n], theirs[:n]); i >= 0 {
					return left("byte %d differs from the backup", at+int64(i))
				}
			}
		}
	}
	return nil
}

// within returns the parts of ranges that lie in a range.
func within(ranges []lists.Range, in lists.Range) []lists.Range {
	return lists.Subtract(ranges, []lists.Range{{Start: -1 << 62, End: in.Start},
		{Start: in.End, End: 1 << 62}})
}

// unchanged makes sure that nobody has written to the file, or moved it, since it was opened.
func (f *file) unchanged() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.live.Fd()), &st); err != nil {
		return left("%v", err)
	}
	now, err := f.places()
	if err != nil {
		return err
	}
	if st.Size != f.size || st.Mtim != f.stat.Mtim || st.Ctim != f.stat.Ctim ||
		st.Nlink == 0 || !slices.Equal(now, f.extents) {
		return left("it was changed meanwhile")
	}
	return nil
}
