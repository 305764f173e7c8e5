package metadata

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"syscall"
	"testing"
	"unsafe"
)

const sector = 512

var errMedium error = syscall.EIO

// memDisk is a disk in memory that stores only what was written. A write that
// was not synced may be lost, or torn at sectors, by cut.
type memDisk struct {
	size     int64
	pages    map[int64]*[PageSize]byte // immutable, so that clones share them
	pending  []memWrite
	failRead map[int64]bool // sectors that cannot be read
	dead     [][2]int64     // bytes [from, to) that cannot be read
	// failWrite decides which writes fail, if it is set; nothing is written then.
	failWrite func(off int64, n int) bool
	readOnly  bool // fail the test's promise that nothing is written
}

type memWrite struct {
	off  int64
	data []byte
}

func newMemDisk(size int64) *memDisk {
	return &memDisk{size: size, pages: map[int64]*[PageSize]byte{}}
}

func (d *memDisk) clone() *memDisk {
	return &memDisk{size: d.size, pages: maps.Clone(d.pages), pending: append([]memWrite(nil),
		d.pending...), failRead: maps.Clone(d.failRead)}
}

func (d *memDisk) Size() int64 { return d.size }

// aligned panics on I/O that a real device would refuse as direct I/O.
func (d *memDisk) aligned(b []byte, off int64) {
	if off%PageSize != 0 || len(b)%PageSize != 0 || len(b) == 0 ||
		uintptr(unsafe.Pointer(&b[0]))%PageSize != 0 || off < 0 || off+int64(len(b)) > d.size {
		panic(fmt.Sprintf("I/O of %d bytes at %d of %d, memory at %p", len(b), off, d.size, &b[0]))
	}
}

func (d *memDisk) ReadAt(b []byte, off int64) (int, error) {
	d.aligned(b, off)
	for s := off / sector; len(d.failRead) > 0 && s < (off+int64(len(b)))/sector; s++ {
		if d.failRead[s] {
			return 0, errMedium
		}
	}
	for _, r := range d.dead {
		if off < r[1] && r[0] < off+int64(len(b)) {
			return 0, errMedium
		}
	}
	for i := 0; i < len(b); i += PageSize {
		if p := d.pages[(off+int64(i))/PageSize]; p != nil {
			copy(b[i:], p[:])
		} else {
			clear(b[i : i+PageSize])
		}
	}
	for _, w := range d.pending { // what is cached is read back
		for i, c := range w.data {
			if at := w.off + int64(i) - off; at >= 0 && at < int64(len(b)) {
				b[at] = c
			}
		}
	}
	return len(b), nil
}

func (d *memDisk) WriteAt(b []byte, off int64) (int, error) {
	d.aligned(b, off)
	if d.readOnly {
		panic("write to a disk that is only to be read")
	}
	if d.failWrite != nil && d.failWrite(off, len(b)) {
		return 0, errMedium
	}
	d.pending = append(d.pending, memWrite{off, append([]byte(nil), b...)})
	return len(b), nil
}

func (d *memDisk) Sync() error {
	for _, w := range d.pending {
		d.store(w, nil)
	}
	d.pending = nil
	return nil
}

// store writes those sectors for which keep is true, all if it is nil.
func (d *memDisk) store(w memWrite, keep func(sector int) bool) {
	for i := 0; i < len(w.data); i += PageSize {
		at := (w.off + int64(i)) / PageSize
		var p [PageSize]byte
		if old := d.pages[at]; old != nil {
			p = *old
		}
		for s := 0; s < PageSize; s += sector {
			if keep == nil || keep((i+s)/sector) {
				copy(p[s:s+sector], w.data[i+s:])
			}
		}
		d.pages[at] = &p
	}
}

// inPlace does an Op without a copy, and without new memory except for pages that were never
// written: only for a disk that shares no pages with another.
func (d *memDisk) inPlace(op *Op) error {
	if op.Read {
		_, err := d.ReadAt(op.Data, op.Offset)
		return err
	}
	for i := 0; i < len(op.Data); i += PageSize {
		at := (op.Offset + int64(i)) / PageSize
		p := d.pages[at]
		if p == nil {
			p = new([PageSize]byte)
			d.pages[at] = p
		}
		copy(p[:], op.Data[i:])
	}
	return nil
}

// tear stores some of the sectors of a write: none, all, a head, a tail, or
// any.
func (d *memDisk) tear(w memWrite, r *rand.Rand) {
	n := len(w.data) / sector
	at := r.IntN(n + 1)
	switch r.IntN(5) {
	case 0:
	case 1:
		d.store(w, nil)
	case 2:
		d.store(w, func(s int) bool { return s < at })
	case 3:
		d.store(w, func(s int) bool { return s >= at })
	case 4:
		d.store(w, func(int) bool { return r.IntN(2) == 0 })
	}
}

// cut returns the disk as a power cut leaves it.
func (d *memDisk) cut(r *rand.Rand) *memDisk {
	c := d.clone()
	c.pending = nil
	for _, w := range d.pending {
		c.tear(w, r)
	}
	return c
}

func devices(disks []*memDisk) []Device {
	out := make([]Device, len(disks))
	for i, d := range disks {
		out[i] = d
	}
	return out
}

func seeded(t testing.TB, seed uint64) *rand.Rand {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 4))
}
