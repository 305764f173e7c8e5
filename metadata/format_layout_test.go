package metadata

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestPlanSmallestSensible(t *testing.T) {
	for _, bs := range []int{512, 1024, 2048, 4096} {
		for _, phys := range []int{0, 512, 4096, 8192} {
			l, err := Plan(PlanParams{BackingSize: 16 << 20, BlockSize: bs, PhysicalBlockSize: phys,
				Name: "small"})
			if err != nil {
				t.Errorf("blocks of %d, physical %d: %v", bs, phys, err)
				continue
			}
			if l.SpareUnits() != 41 { // one per cent of 4096 units, rounded up
				t.Errorf("blocks of %d, physical %d: %d spare units", bs, phys, l.SpareUnits())
			}
			if l.Blocks()*uint64(bs) < 12<<20 {
				t.Errorf("blocks of %d, physical %d: %d blocks are left", bs, phys, l.Blocks())
			}
		}
	}
}

func TestPlanSpareSize(t *testing.T) {
	for _, tc := range []struct{ backing, asked, want int64 }{
		{1 << 40, 0, (1<<40/100 + 4095) / 4096 * 4096},
		{8 << 40, 0, DefaultSpareMax},
		{8 << 40, 64 << 30, 64 << 30},
		{100 << 20, 4096, 4096},
		{100 << 20, 12288, 12288},
		{3 << 20 * 10, 1 << 20, 1 << 20},
	} {
		l, err := Plan(PlanParams{BackingSize: tc.backing, BlockSize: 512, SpareBytes: tc.asked,
			Name: "n"})
		if err != nil {
			t.Errorf("%+v: %v", tc, err)
			continue
		}
		if got := int64(l.SpareUnits()) * UnitSize; got != tc.want {
			t.Errorf("%+v: %d bytes of spare space", tc, got)
		}
		if need := l.SpareUnits() + l.SpareUnits()/4 + 4096; l.TableCapacity() < need {
			t.Errorf("%+v: a checkpoint holds %d entries, %d are needed", tc, l.TableCapacity(),
				need)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	ok := PlanParams{BackingSize: 64 << 20, BlockSize: 512, Name: "n"}
	for _, tc := range []struct {
		what string
		f    func(*PlanParams)
		want error
	}{
		{"blocks of 8 KiB", func(p *PlanParams) { p.BlockSize = 8192 }, ErrGeometry},
		{"blocks of 520", func(p *PlanParams) { p.BlockSize = 520 }, ErrGeometry},
		{"no block size", func(p *PlanParams) { p.BlockSize = 0 }, ErrGeometry},
		{"physical 128 KiB", func(p *PlanParams) { p.PhysicalBlockSize = 128 << 10 }, ErrGeometry},
		{"odd spare", func(p *PlanParams) { p.SpareBytes = 5000 }, ErrGeometry},
		{"negative", func(p *PlanParams) { p.BackingSize = -1 }, ErrGeometry},
		{"too many units", func(p *PlanParams) { p.SpareBytes = 1 << 45 }, ErrGeometry},
		{"no name", func(p *PlanParams) { p.Name = "" }, ErrGeometry},
		{"slash", func(p *PlanParams) { p.Name = "a/b" }, ErrGeometry},
		{"blank", func(p *PlanParams) { p.Name = "a b" }, ErrGeometry},
		{"too small", func(p *PlanParams) { p.BackingSize = 1 << 20 }, ErrTooSmall},
		{"empty", func(p *PlanParams) { p.BackingSize = 0 }, ErrTooSmall},
		{"spare too large", func(p *PlanParams) { p.SpareBytes = 64 << 20 }, ErrTooSmall},
		{"spare device too small", func(p *PlanParams) { p.SpareDeviceSize = 1 << 20 },
			ErrTooSmall},
	} {
		p := ok
		tc.f(&p)
		if _, err := Plan(p); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

// TestPlanProperties: what Plan gives is within the devices, gives every block and spare unit a
// place of its own, and the size that it asks for is enough.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := PlanParams{
			BackingSize:       rapid.Int64Range(0, 1<<36).Draw(t, "backing"),
			BlockSize:         512 << rapid.IntRange(0, 3).Draw(t, "block"),
			PhysicalBlockSize: 512 << rapid.IntRange(0, 7).Draw(t, "physical"),
			Name:              "n",
		}
		if rapid.Bool().Draw(t, "small") {
			p.BackingSize %= 64 << 20
		}
		if rapid.Bool().Draw(t, "asked") {
			p.SpareBytes = UnitSize * rapid.Int64Range(1, 1<<14).Draw(t, "spare")
		}
		if rapid.Bool().Draw(t, "pair") {
			p.SpareDeviceSize = rapid.Int64Range(1, 1<<32).Draw(t, "spare device")
			p.KeepTail = rapid.Bool().Draw(t, "keep tail")
		}
		l, err := Plan(p)
		for range 2 { // first the one device, then the other
			var small *TooSmallError
			if !errors.As(err, &small) {
				break
			}
			if small.Need <= small.Size {
				t.Fatalf("%v", err)
			}
			if small.Role == RoleBacking {
				p.BackingSize = small.Need
			} else {
				p.SpareDeviceSize = small.Need
			}
			l, err = Plan(p)
		}
		if err != nil {
			t.Fatal(err)
		}
		sb := l.Superblock()
		if p.SpareDeviceSize != 0 && sb.ExportedBytes != p.BackingSize/int64(
			p.BlockSize)*int64(p.BlockSize) {
			t.Fatalf("%d bytes exported of %d", sb.ExportedBytes, p.BackingSize)
		}
		if tail := int64(l.TailBlocks()) * int64(p.BlockSize); (p.SpareDeviceSize != 0 &&
			!p.KeepTail) != (tail >= 2<<20) || tail > 3<<20 {
			t.Fatalf("a tail of %d bytes", tail)
		}
		if p.SpareBytes != 0 && int64(l.SpareUnits())*UnitSize != p.SpareBytes {
			t.Fatalf("%d spare units", l.SpareUnits())
		}
		b := AlignedBytes(PageSize)
		sb.encode(b, 0)
		back, err := decodeSuperblock(b)
		if err != nil || fmt.Sprint(*back) != fmt.Sprint(sb) {
			t.Fatalf("%v\n%+v\n%+v", err, back, sb)
		}
		for range 20 {
			block := rapid.Uint64Range(0, l.Blocks()-1).Draw(t, "b")
			switch rapid.IntRange(0, 4).Draw(t, "seam") {
			case 0:
				block = l.Blocks() - 1 - block%(1+l.TailBlocks())
			case 1:
				block = l.Blocks() - l.TailBlocks() - block%2
			}
			block = min(block, l.Blocks()-1)
			dev, off := l.HomeOf(block)
			if off < 0 || off+int64(p.BlockSize) > l.Devices()[dev].Size {
				t.Fatalf("block %d at %d of device %d", block, off, dev)
			}
			where := RegionKind(0)
			switch {
			case block < l.HeadBlocks():
				where = RegionDisplacedHead
			case block >= l.Blocks()-l.TailBlocks():
				where = RegionDisplacedTail
			case dev != 0 || off != int64(block)*int64(p.BlockSize):
				t.Fatalf("block %d at %d of device %d", block, off, dev)
			}
			for _, r := range sb.Regions {
				in := r.Device == dev && off >= r.Start && off+int64(p.BlockSize) <= r.Start+
					r.Length
				if in != (r.Kind == where) {
					t.Fatalf("block %d at %d of device %d lies in %+v", block, off, dev, r)
				}
			}
			unit := uint32(rapid.Uint64Range(0, l.SpareUnits()-1).Draw(t, "u"))
			dev, off = l.SpareOf(unit)
			r := l.SpareRegions()[0]
			if dev != r.Device || off != r.Start+int64(unit)*UnitSize || off+UnitSize > r.Start+
				r.Length {
				t.Fatalf("spare unit %d at %d of device %d", unit, off, dev)
			}
		}
	})
}

func TestSpareOfSeveralRegions(t *testing.T) {
	l, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	sb := l.Superblock()
	last := &sb.Regions[len(sb.Regions)-1]
	half := last.Length / 2 / UnitSize * UnitSize
	more := *last
	more.Start, more.Length, more.First = last.Start+half, last.Length-half, uint32(half/UnitSize)
	last.Length = half
	sb.Regions = append(sb.Regions, more)
	two, err := newLayout(&sb)
	if err != nil {
		t.Fatal(err)
	}
	for u := range uint32(l.SpareUnits()) {
		d1, o1 := l.SpareOf(u)
		if d2, o2 := two.SpareOf(u); d1 != d2 || o1 != o2 {
			t.Fatalf("unit %d: %d of device %d, %d of device %d", u, o1, d1, o2, d2)
		}
	}
	sb.Regions[len(sb.Regions)-1].First++
	if _, err := newLayout(&sb); !errors.Is(err, ErrDamaged) {
		t.Errorf("a gap between spare regions: %v", err)
	}
}

func pairParamsNamed() PlanParams {
	p := pairParams(512)
	p.Name = "pair"
	return p
}

func TestHotPathAllocatesNothing(t *testing.T) {
	l, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		l.HomeOf(5)
		l.HomeOf(l.Blocks() - 1)
		l.SpareOf(7)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
