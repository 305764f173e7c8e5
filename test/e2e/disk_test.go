package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ublkremap/test/vmtest"
)

// kind is a way for a disk to fail.
type kind string

const (
	kindLoop kind = "loop" // dm-error over a loop device: EIO to reads and writes
	kindNull kind = "null" // null_blk with bad sectors: EIO to reads and writes
	// scsi_debug with medium errors: ENODATA to reads, writes succeed and heal nothing
	kindScsi kind = "scsi"
)

// run of bytes on a disk.
type extent struct{ start, length int64 }

func (e extent) end() int64 { return e.start + e.length }

func (e extent) String() string { return fmt.Sprintf("%d+%d", e.start, e.length) }

// disk is a disk whose sectors can be made bad while it is in use.
type disk struct {
	kind      kind
	path      string
	size      int64 // bytes
	blockSize int64
	bad       []extent // ordered, disjoint
	// below is what the dm table passes I/O on to; nil dm: there is no table.
	below string
	dm    *vmtest.DM
	null  *vmtest.NullBlk
}

// badRoom is how many bytes of bad blocks a disk of kindScsi can have: the module
// knows one bad range, which lies behind the disk's own size and is mapped into
// it piece by piece.
const badRoom = 2 << 20

// newDisk makes a good disk of that many MiB. It is gone when the test ends.
func newDisk(t testing.TB, k kind, sizeMiB int, blockSize int64) *disk {
	t.Helper()
	d := &disk{kind: k, size: int64(sizeMiB) << 20, blockSize: blockSize}
	switch k {
	case kindLoop:
		d.below = vmtest.NewLoop(t, d.size, vmtest.LoopOptions{BlockSize: uint32(blockSize)})
	case kindNull:
		d.null = vmtest.NewNullBlk(t, vmtest.NullBlkOptions{
			SizeMiB: sizeMiB, BlockSize: int(blockSize),
			Attrs: map[string]string{"discard": "1"},
		})
		d.path = d.null.Path
		return d
	case kindScsi:
		scsi := vmtest.NewScsiDebug(t, fmt.Sprintf("dev_size_mb=%d", sizeMiB+badRoom>>20),
			fmt.Sprintf("sector_size=%d", blockSize), "delay=0")
		scsi.SetMediumErrors(t, d.size/blockSize, badRoom/blockSize)
		d.below = scsi.Path
	default:
		t.Fatalf("no disk of kind %q", k)
	}
	d.dm = vmtest.NewDM(t, d.table(t))
	d.path = d.dm.Path
	return d
}

// table is the dm table with the bad extents.
func (d *disk) table(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	pos, room := int64(0), d.size
	target := func(from, to int64, what string, args ...any) {
		if to > from {
			_, _ = fmt.Fprintf(&b, "%d %d "+what+"\n", append([]any{from / 512, (to - from) / 512},
				args...)...)
		}
	}
	for _, e := range d.bad {
		target(pos, e.start, "linear %s %d", d.below, pos/512)
		if d.kind == kindScsi {
			target(e.start, e.end(), "linear %s %d", d.below, room/512)
			room += e.length
		} else {
			target(e.start, e.end(), "error")
		}
		pos = e.end()
	}
	target(pos, d.size, "linear %s %d", d.below, pos/512)
	if room > d.size+badRoom {
		t.Fatalf("%d bytes of bad blocks, %d is the most for kind %s", room-d.size, badRoom, d.kind)
	}
	return b.String()
}

// setBad makes exactly these extents bad, from now on. What a disk of kindScsi
// held there is gone; the others keep it.
func (d *disk) setBad(t testing.TB, bad []extent) {
	t.Helper()
	old := d.bad
	d.bad = merge(bad)
	for _, e := range d.bad {
		if e.start%d.blockSize != 0 || e.length%d.blockSize != 0 || e.end() > d.size {
			t.Fatalf("bad extent %s on a disk of %d bytes", e, d.size)
		}
	}
	if d.null != nil {
		d.null.RemoveBad(t, sectors(old)...)
		d.null.AddBad(t, sectors(d.bad)...)
		return
	}
	d.dm.Swap(t, d.table(t))
}

// vanish makes the whole disk answer EIO; back undoes it.
func (d *disk) vanish(t testing.TB) {
	t.Helper()
	d.dm.Swap(t, fmt.Sprintf("0 %d error\n", d.size/512))
}

func (d *disk) back(t testing.TB) { t.Helper(); d.dm.Swap(t, d.table(t)) }

// readErrno is what a reader of a bad block is told.
func (d *disk) readErrno() syscall.Errno {
	if d.kind == kindScsi {
		return syscall.ENODATA
	}
	return syscall.EIO
}

func sectors(ext []extent) []vmtest.Extent {
	out := make([]vmtest.Extent, len(ext))
	for i, e := range ext {
		out[i] = vmtest.Extent{Start: e.start / 512, Count: e.length / 512}
	}
	return out
}

// merge sorts extents and joins those that overlap or touch.
func merge(in []extent) []extent {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	var out []extent
	for _, e := range in {
		if n := len(out); n > 0 && out[n-1].end() >= e.start {
			out[n-1].length = max(out[n-1].end(), e.end()) - out[n-1].start
		} else {
			out = append(out, e)
		}
	}
	return out
}

// TestFaultDisks makes sure that the disks fail the way the other tests rely on.
func TestFaultDisks(t *testing.T) {
	vmtest.NeedRoot(t)
	for _, k := range []kind{kindLoop, kindNull, kindScsi} {
		for _, bs := range []int64{512, 4096} {
			t.Run(fmt.Sprintf("%s/%d", k, bs), func(t *testing.T) {
				testFaultDisk(t, k, bs)
			})
		}
	}
}

func testFaultDisk(t *testing.T, k kind, bs int64) {
	d := newDisk(t, k, 16, bs)
	f := openDirect(t, d.path)
	f.fill(t, 0, d.size, 1)
	// One block, and three behind a 1 MiB boundary's last.
	d.setBad(t, []extent{{5 * bs, bs}, {1<<20 - bs, 3 * bs}})

	buf := aligned(64 << 10)
	read := func(off, n int64) error { return f.read(buf[:n], off) }
	for _, c := range []struct {
		off, n int64
		bad    bool
	}{
		{5 * bs, bs, true}, {4 * bs, bs, false}, {6 * bs, bs, false}, {0, 16 * bs, true},
		{1<<20 - bs, bs, true}, {1 << 20, bs, true}, {1<<20 + bs, bs, true},
		{1<<20 - 2*bs, bs, false}, {1<<20 + 2*bs, bs, false},
		{2 << 20, 64 << 10, false},
	} {
		err := read(c.off, c.n)
		switch {
		case c.bad && err != d.readErrno():
			t.Errorf("read of %d bytes at %d: %v, want %v", c.n, c.off, err, d.readErrno())
		case !c.bad && err != nil:
			t.Errorf("read of %d bytes at %d: %v", c.n, c.off, err)
		case !c.bad:
			checkPattern(t, buf[:c.n], c.off, 1)
		}
	}
	pattern(buf[:bs], 5*bs, 2)
	err := f.write(buf[:bs], 5*bs)
	if k == kindScsi {
		if err != nil {
			t.Errorf("write of a bad block: %v, want success", err)
		}
	} else if err != syscall.EIO {
		t.Errorf("write of a bad block: %v, want EIO", err)
	}
	if err := read(5*bs, bs); err != d.readErrno() {
		t.Errorf("read after the write: %v, want %v: writes are not to heal", err, d.readErrno())
	}
	if d.dm == nil {
		return
	}
	d.vanish(t)
	if err := read(2<<20, bs); err != syscall.EIO {
		t.Errorf("read of a disk that has vanished: %v, want EIO", err)
	}
	if err := f.write(buf[:bs], 2<<20); err != syscall.EIO {
		t.Errorf("write to a disk that has vanished: %v, want EIO", err)
	}
	d.back(t)
	if err := read(2<<20, bs); err != nil {
		t.Errorf("read of a disk that has come back: %v", err)
	}
	checkPattern(t, buf[:bs], 2<<20, 1)
}
