package metadata

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
)

var sentinels = []error{
	ErrNotFound, ErrDamaged, ErrForeign, ErrStale, ErrUnsupported, ErrReadOnly, ErrTooSmall,
	ErrGeometry, ErrInvalidEntry,
}

func sentinel(t *testing.T, what string, err error) {
	if err != nil && !slices.ContainsFunc(sentinels,
		func(s error) bool { return errors.Is(err, s) }) {
		t.Fatalf("%s: not a sentinel: %v", what, err)
	}
}

// page pads or cuts data to a page, and seals it so that the fuzzer gets past
// the checksum.
func page(data []byte, magic uint64) []byte {
	b := AlignedBytes(PageSize)
	copy(b, data)
	if magic != 0 {
		le.PutUint64(b[magicAt:], magic)
		le.PutUint32(b[versionAt:], Version)
		seal(b)
	}
	return b
}

func FuzzSuperblock(f *testing.F) {
	for _, p := range []PlanParams{smallParams(512, 0), pairParams(4096)} {
		p.Name = "fuzz"
		l, err := Plan(p)
		if err != nil {
			f.Fatal(err)
		}
		b := make([]byte, PageSize)
		l.sb.encode(b, 0)
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		magic := uint64(0)
		if fix {
			magic = magicSuperblock
		}
		b := page(data, magic)
		sb, err := decodeSuperblock(b)
		sentinel(t, "decode", err)
		if sb == nil {
			return
		}
		l, err := newLayout(sb)
		sentinel(t, "layout", err)
		if err != nil {
			return
		}
		for _, block := range []uint64{0, l.HeadBlocks() - 1, l.HeadBlocks(), l.Blocks() - 1} {
			if dev, off := l.HomeOf(block); off < 0 ||
				off+int64(l.BlockSize()) > l.Devices()[dev].Size {
				t.Fatalf("block %d at %d of device %d", block, off, dev)
			}
		}
		if dev, off := l.SpareOf(uint32(l.SpareUnits() - 1)); off < 0 ||
			off+UnitSize > l.Devices()[dev].Size {
			t.Fatalf("last spare unit at %d of device %d", off, dev)
		}
		for _, m := range l.mirrorsAt() {
			if off := m.logOffset(m.atoms - 1); off < 0 ||
				off+m.atom > l.Devices()[m.device].Size || m.pageOffset(1, m.pages()-1) < 0 {
				t.Fatalf("%+v", m)
			}
		}
		again := AlignedBytes(PageSize)
		sb.encode(again, sb.DeviceIndex)
		if back, err := decodeSuperblock(again); back == nil {
			t.Fatal(err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	set := uuid.NewSHA1(uuid.NameSpaceOID, []byte("fuzz"))
	b := make([]byte, PageSize)
	putEntry(recordEntry(b, 0), &Entry{Unit: 1, Count: 1, Mask: 1, State: StateLost})
	r := record{link: link{Position: Position{2, 3}}, kind: recordEntries, count: 1}
	r.encode(b, &set)
	f.Add(b, true)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		magic := uint64(0)
		if fix {
			magic = magicRecord
		}
		b := page(data, magic)
		if r, ok := decodeRecord(b, &set); ok {
			if r.count > MaxEntries || !r.prev.Less(r.Position) {
				t.Fatalf("%+v", r)
			}
			for i := range int(r.count) {
				getEntry(recordEntry(b, i))
			}
		}
	})
}

func FuzzCheckpointPage(f *testing.F) {
	set := uuid.NewSHA1(uuid.NameSpaceOID, []byte("fuzz"))
	b := make([]byte, PageSize)
	encodePage(b, &set, checkpointID{2, 3}, 4,
		[]Entry{{Unit: 1, Count: 1, Mask: 1, State: StateLost}})
	f.Add(b, true)
	h := header{checkpointID: checkpointID{2, 3}, covers: creation, pages: 1, entries: 1}
	h.encode(b, &set)
	f.Add(b, true)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		pageMagic, headerMagic := uint64(0), uint64(0)
		if fix {
			pageMagic, headerMagic = magicPage, magicHeader
		}
		if b := page(data, pageMagic); true {
			if n, _, ok := decodePage(b, &set, checkpointID{2, 3}, 4); ok {
				for i := range n {
					getEntry(pageEntry(b, i))
				}
			}
		}
		if h, ok := decodeHeader(page(data, headerMagic), &set); ok &&
			h.entries > uint64(h.pages)*entriesPerPage {
			t.Fatalf("%+v", h)
		}
	})
}

// FuzzImage damages golden images at will (mangle), with right checksums if asked, and does
// everything with them that can be done.
func FuzzImage(f *testing.F) {
	images := [][]*memDisk{readGolden(f, golden[0].name), readGolden(f, golden[1].name),
		readGolden(f, "v4-alone-512-slots")}
	f.Add(uint8(2), []byte{0, 0, 56, 0, 7, 1, 1, 0})
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{0, 0, 56, 0, 7, 1, 1, 0})
	f.Add(uint8(0), []byte{3, 0, 112, 0, 255, 24, 1, 0, 4, 0, 40, 0, 9, 1, 1, 0})
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		disks := mangle(images[int(which)%len(images)], data)
		for _, d := range disks {
			d.readOnly = true
			if sb, err := Probe(d); !errors.Is(err, errMedium) {
				sentinel(t, "probe", err)
			} else if sb != nil {
				t.Fatal("superblock and error", err)
			}
		}
		r, err := Check(devices(disks))
		if !errors.Is(err, errMedium) {
			sentinel(t, "check", err)
		}
		if r.OK() != (err == nil) {
			t.Fatalf("check: %v\n%s", err, r.String())
		}
		if _, err := Dump(devices(disks)); !errors.Is(err, errMedium) {
			sentinel(t, "dump", err)
		}
		img, err := Load(devices(disks))
		if err != nil {
			return
		}
		table, err := img.Table()
		sentinel(t, "table", err)
		if err != nil || img.ReadOnly() {
			return
		}
		for _, d := range disks {
			d.readOnly = false
		}
		c, err := NewCommitter(img, table, Options{Session: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Open(1); err != nil {
			t.Fatal(err)
		}
		if rs := RunOps(c, devices(disks), nil); len(rs) != 1 || rs[0].Outcome != OutcomeDurable {
			t.Fatalf("open: %v %+v", rs, c.Status())
		}
		before := listed(table)
		if _, err := c.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		RunOps(c, devices(disks), nil)
		img, err = Load(devices(disks))
		if err != nil {
			t.Fatalf("load after a start: %v", err)
		}
		if table, err = img.Table(); err != nil || !slices.Equal(before, listed(table)) {
			t.Fatalf("table after a start: %v%s", err, diff(before, listed(table)))
		}
	})
}

// TestProbeOddSuperblock: a superblock with a right checksum and no atom size.
func TestProbeOddSuperblock(t *testing.T) {
	d := readGolden(t, golden[0].name)[0]
	rewrite(d, func(sb *Superblock) { sb.AtomSize = 0 })
	if _, err := Load([]Device{d}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if r, err := Check([]Device{d}); err == nil || r.OK() {
		t.Error(err)
	}
}
