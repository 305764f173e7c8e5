package metadata

import (
	"slices"
	"testing"

	"github.com/google/uuid"
)

// TestPlanAroundBad: Plan avoids places that are known to be bad. So the set gets all of its
// mirrors if there is any way, and works.
func TestPlanAroundBad(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    PlanParams
	}{{"alone-512", smallParams(512, 0)}, {"alone-4096", smallParams(4096, 8192)},
		{"pair-512", pairParams(512)}} {
		t.Run(tc.name, func(t *testing.T) {
			for round := range 30 {
				aroundBad(t, tc.p, uint64(round))
			}
		})
	}
}

func aroundBad(t *testing.T, p PlanParams, seed uint64) {
	p.Name = "around"
	if p.SpareDeviceSize > 0 {
		p.SpareDeviceSize = 32 << 20
	}
	p.BackingSize = 32 << 20
	w := &world{t: t, r: seeded(t, 900+seed)}
	atom := int64(max(PageSize, p.PhysicalBlockSize))
	ranges := func(device uint8, from, to int64, n int) {
		for range n {
			at := roundDown(from+w.r.Int64N(to-from), atom)
			p.Bad = append(p.Bad, BadRange{device, at, at + atom*(1+w.r.Int64N(3))})
		}
	}
	// Superblocks: two places may be bad, or all at the start of the backing.
	if seed%3 == 0 {
		p.Bad = append(p.Bad, BadRange{0, 0, SuperblockStride + PageSize})
	} else {
		p.Bad = append(p.Bad, BadRange{0, int64(seed%2) * SuperblockStride,
			int64(seed%2)*SuperblockStride + 512})
	}
	ranges(0, RegionStart, 4<<20, 1+w.r.IntN(3))
	ranges(0, p.BackingSize-3<<20, p.BackingSize-SuperblockStride-2*atom, w.r.IntN(3))
	if p.SpareDeviceSize > 0 {
		ranges(1, RegionStart, 3<<20, 1+w.r.IntN(3))
	}
	var err error
	if w.plan, err = Plan(p); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for _, d := range w.plan.Devices() {
		w.disks = append(w.disks, newMemDisk(d.Size))
	}
	for _, b := range p.Bad {
		for off := b.Start; off < b.End; off += PageSize {
			w.disks[b.Device].bad(off, true, true)
		}
	}
	w.base = w.tx(20)
	bad, err := CreateAround(devices(w.disks), w.plan, w.base)
	if err != nil {
		t.Fatalf("seed %d: %v: %v", seed, bad, err)
	}
	if slices.ContainsFunc(bad, func(b BadPlace) bool { return b.What != "a superblock" }) {
		t.Fatalf("seed %d: went around %v by trying", seed, bad)
	}
	w.fail = func(op Op) bool {
		d := w.disks[op.Device]
		return d.failWrite != nil && d.failWrite(op.Offset, len(op.Data))
	}
	w.find(w.disks, "created")
	w.start()
	w.settle()
	w.commits(40)
	s := w.c.Status()
	good := s.Superblocks
	for _, m := range s.Mirrors {
		if m.State != MirrorGood {
			t.Errorf("seed %d: %+v", seed, s)
		}
	}
	if w.stats.durable != 40 || good < 2 {
		t.Fatalf("seed %d: %+v, %+v", seed, w.stats, s)
	}
	w.find(w.disks, "after 40 commits")
	w.power()
	w.settle()
	w.find(w.disks, "after a power cut")
}

// TestPlanWithoutBadIsTheSame: a layout does not depend on bad places that are elsewhere.
func TestPlanWithoutBadIsTheSame(t *testing.T) {
	p := smallParams(512, 0)
	p.Name, p.UUID, p.DeviceUUIDs = "same", [16]byte{1}, [2]uuid.UUID{{2}, {3}}
	a, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	p.Bad = []BadRange{{0, a.sb.HeadBytes, a.sb.ExportedBytes}}
	b, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.sb.Regions, b.sb.Regions) || b.sb.Compat != compatSignature|compatPartition {
		t.Errorf("%+v\n%+v", a.sb, b.sb)
	}
	// If there is no room, the layout is the one without bad places.
	p.Bad = []BadRange{{0, RegionStart, a.sb.HeadBytes + maxGrowth}}
	if b, err = Plan(p); err != nil || b.sb.Regions[0].Start != a.sb.Regions[0].Start {
		t.Errorf("%v, %+v", err, b)
	}
}
