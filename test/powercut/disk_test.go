package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/logwrites"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// stampRoom is the place behind the disk's end, on the logged device, where
// stamps are written.
const stampRoom = 4096

// disk is a disk of a stack: see the package's comment.
type disk struct {
	size, blockSize int64
	path            string // of the device with the bad extents
	below           string
	dm, errors      *vmtest.DM
	bad             []rig.Extent

	// Of a disk that is logged:
	log     *vmtest.DM
	logFile string
	stamps  *rig.Direct
}

// newDisk makes a disk of an image with these bad extents. With a log file what
// reaches the image is logged there.
func newDisk(t testing.TB, image string, size, blockSize int64, bad []rig.Extent,
	logFile string) *disk {
	t.Helper()
	d := &disk{size: size, blockSize: blockSize, logFile: logFile}
	d.below = vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: image, BlockSize: uint32(blockSize)})
	if logFile != "" {
		if err := makeSparse(logFile, logRoom); err != nil {
			t.Fatal(err)
		}
		on := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: logFile, BlockSize: uint32(blockSize)})
		d.log = vmtest.NewDM(t, vmtest.LogWritesTable(t, d.below, on))
		d.below = d.log.Path
		d.stamps = rig.Open(t, d.below)
	}
	// Bad extents are linear pieces of another device, not targets of their own: else the
	// device mapper would send a flush for each piece.
	d.errors = vmtest.NewDM(t, fmt.Sprintf("0 %d error\n", size/512))
	d.bad = rig.Merge(bad)
	d.checkBad(t)
	d.dm = vmtest.NewDM(t, d.table())
	d.path = d.dm.Path
	return d
}

// logRoom is the size of a log device, which is sparse. A full one shows in the
// log: it is not complete.
const logRoom = 1 << 30

func (d *disk) table() string {
	return rig.PieceTable(d.size, d.below, d.errors.Path, d.bad...)
}

// setBad makes exactly these extents bad.
func (d *disk) setBad(t testing.TB, bad []rig.Extent) {
	t.Helper()
	d.bad = rig.Merge(bad)
	d.checkBad(t)
	d.dm.Swap(t, d.table())
}

func (d *disk) checkBad(t testing.TB) {
	t.Helper()
	for _, e := range d.bad {
		if e.Start%d.blockSize != 0 || e.Length%d.blockSize != 0 || e.End() > d.size {
			t.Fatalf("bad extent %s on a disk of %d bytes", e, d.size)
		}
	}
}

// stampMagic begins a stamp's data.
const stampMagic = 0x70ce7c0770ce7c07

// stamp writes a stamp: plain writes that have completed before it get into
// the log before it.
func (d *disk) stamp(seq int64) error {
	b := rig.Aligned(stampRoom)
	binary.LittleEndian.PutUint64(b[0:], stampMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(seq))
	return d.stamps.Write(b, d.size)
}

// isStamp recognizes a stamp.
func (d *disk) isStamp(seq int64) func(e *logwrites.Entry, data []byte) bool {
	return func(e *logwrites.Entry, data []byte) bool {
		return e.Off == d.size && len(data) >= 16 &&
			binary.LittleEndian.Uint64(data) == stampMagic &&
			binary.LittleEndian.Uint64(data[8:]) == uint64(seq)
	}
}

// readLog takes a logged disk down and reads its log.
func (d *disk) readLog(t testing.TB) *logwrites.Log {
	t.Helper()
	d.stamps.Close()
	d.dm.Remove(t)
	d.log.Remove(t) // writes the end of the log
	f, err := os.Open(d.logFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	l, err := logwrites.Read(f, logRoom)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Complete() {
		t.Fatalf("the log of %d entries is cut off: its device is too small, or failed\n%s",
			len(l.Entries), rig.KernelLog(20))
	}
	return l
}

// image is a sparse file that a log is replayed onto.
type image struct{ *os.File }

// Zero punches a hole.
func (i image) Zero(off, n int64) error {
	return unix.Fallocate(int(i.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func openImage(t testing.TB, path string) image {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return image{f}
}

func makeSparse(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}

// copySparse copies a file, holes and all.
func copySparse(t testing.TB, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := dst.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	st, err := src.Stat()
	if err == nil {
		err = dst.Truncate(st.Size())
	}
	const seekData, seekHole = 3, 4
	for pos := int64(0); err == nil && pos < st.Size(); {
		var data, hole int64
		if data, err = unix.Seek(int(src.Fd()), pos, seekData); err == unix.ENXIO {
			return // a hole up to the end
		} else if err != nil {
			break
		}
		if hole, err = unix.Seek(int(src.Fd()), data, seekHole); err != nil {
			break
		}
		_, err = io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, hole-data))
		pos = hole
	}
	if err != nil {
		t.Fatalf("copy %s: %v", from, err)
	}
}

// TestFailedWritesAreLogged shows why the bad extents are above the log.
func TestFailedWritesAreLogged(t *testing.T) {
	vmtest.NeedRoot(t)
	dir := t.TempDir()
	const size = 1 << 20
	logFile := filepath.Join(dir, "log")
	if err := makeSparse(logFile, 16<<20); err != nil {
		t.Fatal(err)
	}
	bad := vmtest.NewDM(t, fmt.Sprintf("0 %d error\n", size/512))
	dm := vmtest.NewDM(t, vmtest.LogWritesTable(t, bad.Path,
		vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: logFile})))
	d := rig.Open(t, dm.Path)
	b := rig.Aligned(4096)
	rig.Pattern(b, 8192, 1)
	if err := d.Write(b, 8192); err != unix.EIO {
		t.Fatalf("write to an error device: %v", err)
	}
	d.Close()
	dm.Remove(t)
	f, err := os.Open(logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	l, err := logwrites.Read(f, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(l.Entries, func(e logwrites.Entry) bool {
		return e.Off == 8192 &&
			e.Len == 4096
	})
	if i < 0 || !l.Complete() {
		t.Fatalf("a failed write is not in the log any more: %v; the stack can be turned round",
			l.Entries)
	}
	data, err := l.Data(i)
	if err == nil {
		err = rig.CheckPattern(data, 8192, 1)
	}
	if err != nil {
		t.Error(err)
	}
}
