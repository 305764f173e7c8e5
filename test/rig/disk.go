package rig

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
)

// Kind is a way for a disk to fail.
type Kind string

const (
	KindLoop Kind = "loop" // dm-error over a loop device: EIO to reads and writes
	KindNull Kind = "null" // null_blk with bad sectors: EIO to reads and writes
	// scsi_debug with medium errors: ENODATA to reads, writes succeed and heal nothing
	KindScsi Kind = "scsi"
)

// Disk is a disk whose sectors can be made bad while it is in use.
type Disk struct {
	Kind      Kind
	Path      string
	Size      int64 // bytes
	BlockSize int64
	Bad       []Extent // ordered, disjoint; SetBad sets it
	// DM is the table over what is below; nil: there is none.
	DM    *vmtest.DM
	below string
	null  *vmtest.NullBlk
	// errors is a device that fails. Bad extents are pieces of it. If it is empty they are targets
	// of their own, and the device mapper sends a flush for each piece in between.
	errors string
}

// badRoom is how many bytes of bad blocks a disk of KindScsi can have: the module
// knows one bad range, which lies behind the disk's own size and is mapped into
// it piece by piece.
const badRoom = 2 << 20

// NewDisk makes a good disk of that many MiB. It is gone when the test ends.
func NewDisk(t testing.TB, k Kind, sizeMiB int, blockSize int64) *Disk {
	t.Helper()
	d := &Disk{Kind: k, Size: int64(sizeMiB) << 20, BlockSize: blockSize}
	switch k {
	case KindLoop:
		d.below = vmtest.NewLoop(t, d.Size, vmtest.LoopOptions{BlockSize: uint32(blockSize)})
	case KindNull:
		d.null = vmtest.NewNullBlk(t, vmtest.NullBlkOptions{
			SizeMiB: sizeMiB, BlockSize: int(blockSize),
			Attrs: map[string]string{"discard": "1"},
		})
		d.Path = d.null.Path
		return d
	case KindScsi:
		scsi := vmtest.NewScsiDebug(t, fmt.Sprintf("dev_size_mb=%d", sizeMiB+badRoom>>20),
			fmt.Sprintf("sector_size=%d", blockSize), "delay=0")
		scsi.SetMediumErrors(t, d.Size/blockSize, badRoom/blockSize)
		d.below = scsi.Path
	default:
		t.Fatalf("no disk of kind %q", k)
	}
	d.DM = vmtest.NewDM(t, d.table(t))
	d.Path = d.DM.Path
	return d
}

// NewDiskOn makes a good disk of KindLoop of the first that many MiB of a device. A flush of it is
// one flush of the device, on kernels that can do that.
func NewDiskOn(t testing.TB, below string, sizeMiB int, blockSize int64) *Disk {
	t.Helper()
	d := &Disk{Kind: KindLoop, Size: int64(sizeMiB) << 20, BlockSize: blockSize, below: below}
	d.errors = vmtest.NewDM(t, fmt.Sprintf("0 %d error\n", d.Size/512)).Path
	d.DM = vmtest.NewDM(t, d.table(t))
	d.Path = d.DM.Path
	return d
}

// PutOn gives a disk of KindLoop what another device holds.
func (d *Disk) PutOn(t testing.TB, below string) {
	t.Helper()
	d.below = below
	d.DM.Swap(t, d.table(t))
}

// table is the dm table with the bad extents.
func (d *Disk) table(t testing.TB) string {
	t.Helper()
	if d.errors != "" {
		return PieceTable(d.Size, d.below, d.errors, d.Bad...)
	}
	var b strings.Builder
	pos, room := int64(0), d.Size
	target := func(from, to int64, what string, args ...any) {
		if to > from {
			_, _ = fmt.Fprintf(&b, "%d %d "+what+"\n", append([]any{from / 512, (to - from) / 512},
				args...)...)
		}
	}
	for _, e := range d.Bad {
		target(pos, e.Start, "linear %s %d", d.below, pos/512)
		if d.Kind == KindScsi {
			target(e.Start, e.End(), "linear %s %d", d.below, room/512)
			room += e.Length
		} else {
			target(e.Start, e.End(), "error")
		}
		pos = e.End()
	}
	target(pos, d.Size, "linear %s %d", d.below, pos/512)
	if room > d.Size+badRoom {
		t.Fatalf("%d bytes of bad blocks, %d is the most for kind %s", room-d.Size, badRoom, d.Kind)
	}
	return b.String()
}

// SetBad makes exactly these extents bad, from now on. What a disk of KindScsi
// held there is gone; the others keep it.
func (d *Disk) SetBad(t testing.TB, bad []Extent) {
	t.Helper()
	old := d.Bad
	d.Bad = Merge(bad)
	for _, e := range d.Bad {
		if e.Start%d.BlockSize != 0 || e.Length%d.BlockSize != 0 || e.End() > d.Size {
			t.Fatalf("bad extent %s on a disk of %d bytes", e, d.Size)
		}
	}
	if d.null != nil {
		// What stays bad is so all the time.
		d.null.RemoveBad(t, sectors(without(old, d.Bad))...)
		d.null.AddBad(t, sectors(d.Bad)...)
		return
	}
	d.DM.Swap(t, d.table(t))
}

// Vanish makes the whole disk answer EIO; Back undoes it.
func (d *Disk) Vanish(t testing.TB) {
	t.Helper()
	d.DM.Swap(t, fmt.Sprintf("0 %d error\n", d.Size/512))
}

// Back makes a disk that vanished what it was before.
func (d *Disk) Back(t testing.TB) { t.Helper(); d.DM.Swap(t, d.table(t)) }

// UntilDone waits for the end of something that reads or writes the disk. It may take as long as it
// wants: only Limit without any I/O of the disk counts as a hang. It looks seldom, so that it does
// not take the time of what it waits for.
func (d *Disk) UntilDone(t testing.TB, what string, done func() bool) {
	t.Helper()
	last := d.ios(t)
	for deadline := time.Now().Add(Limit); !done(); time.Sleep(200 * time.Millisecond) {
		if now := d.ios(t); now != last {
			last, deadline = now, time.Now().Add(Limit)
		} else if time.Now().After(deadline) {
			DumpTasks(what)
			t.Fatalf("%s: it does not happen, and the disk has no I/O", what)
		}
	}
}

// ios says how much I/O the disk has had: a text that changes with it. See
// Documentation/block/stat.rst in the kernel.
func (d *Disk) ios(t testing.TB) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err != nil {
		t.Fatalf("%s: %v", d.Path, err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Rdev),
		unix.Minor(st.Rdev)))
	if err != nil {
		t.Fatal(err)
	}
	counts := strings.Fields(string(stat))
	return fmt.Sprint(counts[0], counts[2], counts[4], counts[6]) // ended, and how many sectors
}

// ReadErrno is what a reader of a bad block is told.
func (d *Disk) ReadErrno() syscall.Errno {
	if d.Kind == KindScsi {
		return syscall.ENODATA
	}
	return syscall.EIO
}

// PieceTable is the dm table of a disk of size bytes that is dev, but for the extents,
// which are ordered and disjoint: these come from the same place of other.
func PieceTable(size int64, dev, other string, extents ...Extent) string {
	var b strings.Builder
	pos := int64(0)
	piece := func(to int64, from string) {
		if to > pos {
			_, _ = fmt.Fprintf(&b, "%d %d linear %s %d\n", pos/512, (to-pos)/512, from, pos/512)
			pos = to
		}
	}
	for _, e := range extents {
		piece(e.Start, dev)
		piece(e.End(), other)
	}
	piece(size, dev)
	return b.String()
}

func sectors(ext []Extent) []vmtest.Extent {
	out := make([]vmtest.Extent, len(ext))
	for i, e := range ext {
		out[i] = vmtest.Extent{Start: e.Start / 512, Count: e.Length / 512}
	}
	return out
}
