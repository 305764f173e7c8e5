package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// healingDisk is a drive that replaces a bad sector when it is written, and
// whose power goes at some write.
type healingDisk struct {
	*memDisk
	left *int // writes until the power goes
}

func (d healingDisk) WriteAt(b []byte, off int64) (int, error) {
	if *d.left--; *d.left < 0 {
		return 0, errMedium
	}
	return d.memDisk.WriteAt(b, off)
}

func (d healingDisk) Sync() error {
	if *d.left < 0 {
		return errMedium
	}
	for _, w := range d.pending {
		for s := w.off / sector; s < (w.off+int64(len(w.data)))/sector; s++ {
			delete(d.failRead, s)
		}
	}
	return d.memDisk.Sync()
}

// healing wraps disks that go on for that many writes altogether.
func healing(disks []*memDisk, writes int) []Device {
	left := new(int)
	*left = writes
	out := make([]Device, len(disks))
	for i, d := range disks {
		out[i] = healingDisk{d, left}
	}
	return out
}

const noCut = 1 << 40

// stride is how many writes lie between two cuts: 1 for one layout, and for
// all of them in the full run.
func stride(world string) int {
	switch {
	case os.Getenv("UBLK_REMAP_FULL") != "":
		return 1
	case raceDetector:
		return 31
	case world == "alone-4096":
		return 1
	}
	return 29
}

func clones(disks []*memDisk) []*memDisk {
	out := make([]*memDisk, len(disks))
	for i, d := range disks {
		out[i] = d.clone()
	}
	return out
}

// spoil makes a page unreadable, or damages one byte of it.
func (w *world) spoil(d *memDisk, off int64) {
	if w.r.IntN(2) == 0 {
		if d.failRead == nil {
			d.failRead = map[int64]bool{}
		}
		d.failRead[off/sector+int64(w.r.IntN(8))] = true
		return
	}
	var b [PageSize]byte
	if p := d.pages[off/PageSize]; p != nil {
		b = *p
	}
	b[w.r.IntN(PageSize)] ^= 1 << w.r.IntN(8)
	d.pages[off/PageSize] = &b
}

// tableOf loads disks and lists the table.
func tableOf(devs []Device) ([]Entry, error) {
	img, err := Load(devs)
	if err != nil {
		return nil, err
	}
	t, err := img.Table()
	if err != nil {
		return nil, err
	}
	return listed(t), nil
}

// repaired repairs disks and checks everything that a repair promises.
func repaired(t *testing.T, what string, disks []*memDisk, want []Entry) {
	t.Helper()
	plan, err := PlanRepair(healing(disks, 0), nil)
	if err != nil {
		t.Fatalf("%s: plan: %v\n%s", what, err, plan.Before.String())
	}
	report, err := plan.Run(RunOptions{Now: 7, Session: 8})
	if len(plan.Steps) > 0 {
		if err == nil {
			t.Fatalf("%s: a repair without a write", what)
		}
		if plan, err = PlanRepair(healing(disks, noCut), nil); err != nil {
			t.Fatalf("%s: plan: %v", what, err)
		}
		report, err = plan.Run(RunOptions{Now: 7, Session: 8})
	}
	if err != nil || report.Worst() == SeverityError || report.Worst() == SeverityWarning {
		t.Fatalf("%s: repair: %v\n%s%s", what, err, strings.Join(plan.Steps, "\n"), report.String())
	}
	got, err := tableOf(devices(disks))
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%s: after the repair: %v%s", what, err, diff(want, got))
	}
	if plan, err = PlanRepair(devices(disks), nil); err != nil || len(plan.Steps) != 0 {
		t.Fatalf("%s: a second repair: %v, %q\n%s", what, err, plan.Steps, plan.Before.String())
	}
}

// weakest picks a mirror to damage: the stale one if there is one, because what only one mirror has
// must stay.
func (w *world) weakest() *mirror {
	for i := range w.c.mirrors {
		if m := &w.c.mirrors[i]; m.state == MirrorStale {
			return m
		}
	}
	return &w.c.mirrors[w.r.IntN(len(w.c.mirrors))]
}

// damages are ways to damage a set that leave enough of it. All of them may come together, except
// for those that would add up to a loss.
var damages = []struct {
	name string
	do   func(w *world, disks []*memDisk)
}{
	{"nothing", func(*world, []*memDisk) {}},
	{"superblocks", func(w *world, disks []*memDisk) {
		for i, d := range disks {
			places := w.plan.sb.copies(uint8(i))
			keep := w.r.IntN(len(places))
			for j, off := range places {
				if j != keep {
					w.spoil(d, off)
				}
			}
		}
	}},
	{"one log", func(w *world, disks []*memDisk) {
		m := w.weakest()
		for s := range m.slots {
			if w.r.IntN(3) == 0 {
				w.spoil(disks[m.device], m.logOffset(s))
			}
		}
	}},
	{"one mirror's checkpoints", func(w *world, disks []*memDisk) {
		m := w.weakest()
		for slot := range 2 {
			w.spoil(disks[m.device], m.headerOffset(slot))
			w.spoil(disks[m.device], m.pageOffset(slot, 0))
		}
	}},
	{"both older checkpoints", func(w *world, disks []*memDisk) {
		for i := range w.c.mirrors {
			m := &w.c.mirrors[i]
			w.spoil(disks[m.device], m.headerOffset(1-m.new))
			w.spoil(disks[m.device], m.pageOffset(1-m.new, 0))
		}
	}},
	{"torn garbage", func(w *world, disks []*memDisk) {
		for i := range w.c.mirrors {
			m := &w.c.mirrors[i]
			for s, p := range m.slots {
				if p == (Position{}) && w.r.IntN(4) == 0 {
					w.spoil(disks[m.device], m.logOffset(s))
				}
			}
		}
	}},
	{"a whole mirror", func(w *world, disks []*memDisk) {
		m := w.weakest()
		for off := m.start; off < m.start+2*m.slot+int64(len(m.slots))*m.atom; off += PageSize {
			w.spoil(disks[m.device], off)
		}
	}},
	{"all of it", nil},
}

func damage(w *world, kind int, disks []*memDisk) {
	if damages[kind].do != nil {
		damages[kind].do(w, disks)
		return
	}
	damages[1].do(w, disks) // superblocks
	damages[4].do(w, disks) // older checkpoints
	damages[2].do(w, disks) // one log
	damages[5].do(w, disks) // garbage
}

// history makes a set with checkpoints, starts, and, in some, a stale mirror.
func history(t testing.TB, p PlanParams, seed uint64, stale bool) *world {
	w := ran(t, p, seed, 70+int(seed%3))
	w.power()
	w.settle()
	if stale {
		victim := w.weakest()
		w.fail = func(op Op) bool {
			return op.Device == victim.device && op.Offset >= victim.start &&
				op.Offset < victim.start+2*victim.slot+int64(len(victim.slots))*victim.atom
		}
	}
	w.commits(3)
	w.fail = nil
	return w
}

// TestRepair damages sets in every way that leaves enough, and repairs them.
func TestRepair(t *testing.T) {
	for _, tc := range worlds {
		for kind := range damages {
			t.Run(tc.name+"/"+damages[kind].name, func(t *testing.T) {
				for seed := range seeds(2) {
					w := history(t, tc.p, 100+seed, seed%2 == 1)
					want := listed(w.table(w.base))
					disks := clones(w.disks)
					damage(w, kind, disks)
					if got, err := tableOf(devices(disks)); err != nil || !slices.Equal(got, want) {
						t.Fatalf("seed %d: the damage was too much: %v%s", seed, err,
							diff(want, got))
					}
					repaired(t, fmt.Sprint("seed ", seed), disks, want)
				}
			})
		}
	}
}

// TestRepairCut cuts a repair at every write. What is left must load as the same
// table, and a second repair must finish.
func TestRepairCut(t *testing.T) {
	cuts := 0
	for nth, tc := range worlds {
		for i := range uint64(len(damages)-1) * seeds(1) {
			kind, seed := 1+int(i)%(len(damages)-1), 200+i/uint64(len(damages)-1)
			if !sampled(int(i)+nth, 3) {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/%d", tc.name, damages[kind].name, seed), func(t *testing.T) {
				w := history(t, tc.p, seed, (kind+int(seed))%2 == 0)
				want := listed(w.table(w.base))
				before := clones(w.disks)
				damage(w, kind, before)
				if _, err := tableOf(devices(before)); err != nil {
					t.Skip("too much damage beside a stale mirror")
				}
				for n := int(w.r.Uint64N(uint64(stride(tc.name)))); ; n += stride(tc.name) {
					disks := clones(before)
					plan, err := PlanRepair(healing(disks, n), nil)
					if err != nil {
						t.Fatal("plan:", err)
					}
					if len(plan.Steps) == 0 {
						return // the header of an older checkpoint: as good as one that was cut
					}
					_, err = plan.Run(RunOptions{Now: 5, Session: w.r.Uint64()})
					for range 2 {
						after := make([]*memDisk, len(disks))
						for i, d := range disks {
							after[i] = d.cut(w.r)
						}
						cuts++
						what := fmt.Sprint("cut at write ", n)
						if got, err := tableOf(devices(after)); err != nil ||
							!slices.Equal(got, want) {
							t.Fatalf("%s: %v%s", what, err, diff(want, got))
						}
						if n%3 == 0 || err == nil {
							repaired(t, what, after, want)
						}
					}
					if err == nil {
						break
					}
				}
			})
		}
	}
	t.Logf("%d cuts", cuts)
}

// lose destroys every superblock of a device.
func lose(d *memDisk, sb *Superblock, index uint8) {
	for _, off := range sb.copies(index) {
		delete(d.pages, off/PageSize)
	}
}

// TestRepairSuperblocks: the superblocks of one device can be had from another,
// where the mirrors prove that they fit, also with a cut at every write.
func TestRepairSuperblocks(t *testing.T) {
	for _, index := range []uint8{0, 1} {
		w := history(t, pairParams(512), 300, false)
		want := listed(w.table(w.base))
		before := clones(w.disks)
		lose(before[index], &w.plan.sb, index)
		if _, err := Load(devices(before)); err == nil {
			t.Fatal("nothing is lost")
		}
		for n := 0; ; n++ {
			disks := clones(before)
			plan, err := PlanRepair(healing(disks, n), nil)
			if err != nil || len(plan.Steps) < 2 || !strings.Contains(plan.Steps[0], "superblock") {
				t.Fatalf("plan: %v %q", err, plan.Steps)
			}
			_, err = plan.Run(RunOptions{Now: 5, Session: 5})
			after := make([]*memDisk, len(disks))
			for i, d := range disks {
				after[i] = d.cut(w.r)
			}
			what := fmt.Sprintf("device %d, cut at write %d", index, n)
			if got, err := tableOf(devices(after)); err == nil && !slices.Equal(got, want) {
				t.Fatalf("%s: %s", what, diff(want, got))
			}
			repaired(t, what, after, want)
			if err == nil {
				break
			}
		}
	}
}

// TestRepairRefuses: a set is not repaired without a proof, and nothing is written.
func TestRepairRefuses(t *testing.T) {
	refused := func(what string, want error, text string, disks ...*memDisk) {
		t.Helper()
		for _, d := range disks {
			d.readOnly = true
		}
		plan, err := PlanRepair(devices(disks), nil)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, %q", what, err, plan.Steps)
		}
	}
	w := history(t, pairParams(512), 301, false)
	old := clones(w.disks)
	w.power()
	w.settle()

	// A spare device of the start before, without its superblocks.
	stale := old[1].clone()
	lose(stale, &w.plan.sb, 1)
	refused("a stale spare device", ErrDamaged, "lacks the newest record", w.disks[0].clone(),
		stale)
	blank := newMemDisk(w.disks[1].size)
	refused("a blank spare device", ErrDamaged, "lacks the newest record", w.disks[0].clone(),
		blank)
	refused("a small one", ErrForeign, "bytes", w.disks[0].clone(), newMemDisk(4<<20))
	refused("an old backing", ErrStale, "epoch", old[0].clone(), w.disks[1].clone())

	// The backing of the start before, with the spare device of now.
	backing := old[0].clone()
	lose(backing, &w.plan.sb, 0)
	refused("a stale backing", ErrDamaged, "lacks the newest record", backing, w.disks[1].clone())
	backing = w.disks[0].clone()
	lose(backing, &w.plan.sb, 0)
	refused("a stale superblock", ErrDamaged, "", backing, old[1].clone())
	refused("no superblock at all", ErrDamaged, "backup", backing, blank)

	// Something in the backing's logs is not readable: perhaps the record that would prove it.
	torn := backing.clone()
	m := &w.c.mirrors[0]
	free := slices.Index(m.slots, Position{})
	torn.failRead = map[int64]bool{m.logOffset(free) / sector: true}
	refused("a bad sector", ErrDamaged, "cannot be read whole", torn, w.disks[1].clone())

	// A gap.
	w = ran(t, smallParams(512, 0), 5, 90)
	gap := w.disks[0].clone()
	var missing Position
	a, b := liveRecords(t, w, 0), liveRecords(t, w, 1)
	for p := range a {
		if p != w.c.durable.Position {
			missing = p
		}
	}
	delete(gap.pages, w.c.mirrors[0].logOffset(a[missing])/PageSize)
	delete(gap.pages, w.c.mirrors[1].logOffset(b[missing])/PageSize)
	refused("a gap", ErrDamaged, missing.String(), gap)
	lost := w.disks[0].clone()
	lose(lost, &w.plan.sb, 0)
	refused("no superblock", ErrNotFound, "", lost)
}

// TestRepairMovedDisk: an image of a disk on a larger one, whose only good
// superblock is that at the old end.
func TestRepairMovedDisk(t *testing.T) {
	w := history(t, smallParams(4096, 0), 302, false)
	want := listed(w.table(w.base))
	d := w.disks[0].clone()
	d.size += 7<<20 + 3*PageSize
	for _, off := range []int64{0, SuperblockStride} {
		delete(d.pages, off/PageSize)
	}
	// The image of another set within the data does not count.
	other := history(t, smallParams(4096, 0), 303, false)
	for at, p := range other.disks[0].pages {
		if at*PageSize+9<<20 < d.size && d.pages[at+(9<<20)/PageSize] == nil {
			d.pages[at+(9<<20)/PageSize] = p
		}
	}
	if plan, err := PlanRepair(devices([]*memDisk{d}), nil); !errors.Is(err, ErrNotFound) {
		t.Fatalf("%v %q", err, plan.Steps)
	}
	last := d.size + 1
	found, err := SearchSuperblock(d, func(left int64) error {
		if left >= last {
			t.Fatal("no progress", left)
		}
		last = left
		return nil
	})
	if err != nil || found.UUID != w.plan.sb.UUID {
		t.Fatal(found, err)
	}
	stop := errors.New("stop")
	if _, err := SearchSuperblock(d, func(int64) error { return stop }); err != stop {
		t.Error(err)
	}
	if _, err := SearchSuperblock(newMemDisk(3<<20+PageSize),
		func(int64) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	plan, err := PlanRepair(devices([]*memDisk{d}), found)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := plan.Run(RunOptions{Now: 1, Session: 1}); err != nil || !r.OK() {
		t.Fatal(err, r.String())
	}
	repaired(t, "moved", []*memDisk{d}, want)
}

// FuzzRepair damages golden images at will, as FuzzImage does, and repairs what
// is left. A set that loads must load as the same table afterwards, whatever
// became of the repair; nothing may panic.
func FuzzRepair(f *testing.F) {
	images := [][]*memDisk{readGolden(f, golden[0].name), readGolden(f, golden[1].name),
		readGolden(f, "v4-alone-512-slots")}
	f.Add(uint8(2), uint8(9), []byte{0, 0, 56, 0, 7, 1, 1, 0})
	f.Add(uint8(0), uint8(255), []byte{})
	f.Add(uint8(1), uint8(9), []byte{0, 0, 56, 0, 7, 1, 1, 0})
	f.Add(uint8(0), uint8(20), []byte{3, 0, 112, 0, 255, 24, 1, 0, 4, 0, 40, 0, 9, 1, 1, 0})
	f.Add(uint8(1), uint8(255), []byte{0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0})
	f.Fuzz(func(t *testing.T, which, cut uint8, data []byte) {
		disks := mangle(images[int(which)%len(images)], data)
		want, loadErr := tableOf(devices(disks))
		writes := int(cut)
		if cut == 255 {
			writes = noCut
		}
		plan, err := PlanRepair(healing(disks, writes), nil)
		if err != nil {
			if !errors.Is(err, errMedium) {
				sentinel(t, "plan", err)
			}
			if loadErr == nil && !errors.Is(err, ErrReadOnly) {
				t.Fatalf("the set loads, but is not repaired: %v", err)
			}
			return
		}
		_, err = plan.Run(RunOptions{Now: 1, Session: 1})
		got, after := tableOf(devices(disks))
		if loadErr == nil && (after != nil || !slices.Equal(want, got)) {
			t.Fatalf("it loaded; after a repair (%v): %v%s", err, after, diff(want, got))
		}
		if err == nil && after != nil {
			t.Fatalf("repaired, but: %v", after)
		}
	})
}

// mangle damages copies of disks. data is a list of changes of 8 bytes: which
// page that is not empty (2), where in it (2), what (1), how many times (1), how
// (1), unused (1).
func mangle(image []*memDisk, data []byte) []*memDisk {
	disks := clones(image)
	type place struct {
		d  *memDisk
		at int64
	}
	var places []place
	for _, d := range disks {
		var ats []int64
		for at := range d.pages {
			ats = append(ats, at)
		}
		slices.Sort(ats)
		for _, at := range ats {
			places = append(places, place{d, at})
		}
	}
	for ; len(data) >= 8; data = data[8:] {
		p := places[int(binary.LittleEndian.Uint16(data))%len(places)]
		b := *p.d.pages[p.at]
		off := int(binary.LittleEndian.Uint16(data[2:])) % PageSize
		for i := range int(data[5]) {
			b[(off+i)%PageSize] ^= data[4]
		}
		switch data[6] % 4 {
		case 1:
			seal(b[:])
		case 2: // a copy of another page
			b = *places[off%len(places)].d.pages[places[off%len(places)].at]
		case 3:
			if p.d.failRead == nil {
				p.d.failRead = map[int64]bool{}
			}
			p.d.failRead[p.at*8+int64(off%8)] = true
		}
		p.d.pages[p.at] = &b
	}
	return disks
}
