package metadata

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// cutDevice fails every write after the n-th, and remembers that it did.
type cutDevice struct {
	*memDisk
	left *int
}

func (d cutDevice) WriteAt(b []byte, off int64) (int, error) {
	if *d.left--; *d.left < 0 {
		return 0, errMedium
	}
	return d.memDisk.WriteAt(b, off)
}

func (d cutDevice) Sync() error {
	if *d.left < 0 {
		return errMedium
	}
	return d.memDisk.Sync()
}

// TestCreateCut cuts Create at every write, over disks that carry an older
// set, and looks at many ways the unsynced writes may end.
func TestCreateCut(t *testing.T) {
	for _, tc := range worlds {
		t.Run(tc.name, func(t *testing.T) {
			r := seeded(t, 3)
			p := tc.p
			p.Name = "old"
			old, err := Plan(p)
			if err != nil {
				t.Fatal(err)
			}
			p.Name = "new"
			plan, err := Plan(p)
			if err != nil {
				t.Fatal(err)
			}
			var disks []*memDisk
			for _, d := range plan.Devices() {
				disks = append(disks, newMemDisk(d.Size))
			}
			if err := Create(devices(disks), old,
				[]Entry{{Unit: 1, Spare: 1, Count: 1, Mask: 1, State: StateMapped}}); err != nil {
				t.Fatal(err)
			}
			want := []Entry{{Unit: 5, Spare: 2, Count: 1, Mask: 1, State: StateMapped, Time: 9}}
			seen := map[string]int{}
			for n := 0; ; n++ {
				left := n
				var cut []Device
				var now []*memDisk
				for _, d := range disks {
					c := d.clone()
					now = append(now, c)
					cut = append(cut, cutDevice{c, &left})
				}
				done := Create(cut, plan, want) == nil
				for range 20 {
					var after []*memDisk
					for _, d := range now {
						after = append(after, d.cut(r))
					}
					img, err := Load(devices(after))
					switch {
					case errors.Is(err, ErrNotFound) || errors.Is(err, ErrForeign):
						seen["none"]++
						if done {
							t.Fatal("created, but", err)
						}
						continue
					case err != nil:
						t.Fatalf("cut at write %d: %v", n, err)
					}
					tab, err := img.Table()
					if err != nil {
						t.Fatalf("cut at write %d: %v", n, err)
					}
					switch name := img.Layout().Superblock().Name; {
					case name == "new" && slices.Equal(listed(tab), want):
						seen["new"]++
						if rep, err := Check(devices(after)); err != nil || !rep.OK() {
							t.Fatalf("cut at write %d: %v\n%s", n, err, rep.String())
						}
					case name == "old" && n <= 3*len(disks) && !done:
						// Its superblocks are being cleared: nothing of the
						// rest of it was touched yet.
						seen["old"]++
					default:
						t.Fatalf("cut at write %d: found %q with %v", n, name, listed(tab))
					}
				}
				if done {
					break
				}
			}
			if seen["none"] == 0 || seen["new"] == 0 {
				t.Errorf("%v", seen)
			}
		})
	}
}

// TestCreateKeepsTheEnd: with a spare device the backing holds data to its end, or
// to where the tail begins that is displaced.
func TestCreateKeepsTheEnd(t *testing.T) {
	for _, keep := range []bool{false, true} {
		p := pairParamsNamed()
		p.KeepTail = keep
		createKeepsTheEnd(t, p)
	}
}

func createKeepsTheEnd(t *testing.T, p PlanParams) {
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	disks := []*memDisk{newMemDisk(plan.Devices()[0].Size), newMemDisk(plan.Devices()[1].Size)}
	data := AlignedBytes(int(disks[0].size - plan.sb.HeadBytes))
	for i := range data {
		data[i] = byte(i>>12) + 1
	}
	disks[0].store(memWrite{plan.sb.HeadBytes, data}, nil)
	if err := Create(devices(disks), plan, nil); err != nil {
		t.Fatal(err)
	}
	if !p.KeepTail {
		data = data[:plan.sb.TailStart-plan.sb.HeadBytes]
	}
	back := AlignedBytes(len(data))
	if _, err := disks[0].ReadAt(back, plan.sb.HeadBytes); err != nil || !slices.Equal(back, data) {
		t.Fatal("data behind the head was written to", err)
	}
	if r, err := Check(devices(disks)); err != nil || r.Worst() != "" {
		t.Fatal(err, r.String())
	}
}

// ran makes a set with a history: checkpoints, records after them, and an
// orderly end of all writes.
func ran(t testing.TB, p PlanParams, seed uint64, txs int) *world {
	w := newWorld(t, seeded(t, seed), p)
	w.settle()
	w.commits(txs)
	if w.stats.durable != txs {
		t.Fatalf("%+v", w.stats)
	}
	return w
}

// TestLatentErrors makes every single sector of the metadata unreadable, and then damages it, one
// at a time: nothing may be missing, and the next start must repair it.
func TestLatentErrors(t *testing.T) {
	for _, tc := range worlds[:4] {
		t.Run(tc.name, func(t *testing.T) {
			w := ran(t, tc.p, 7, 110)
			n := 0
			for dev, d := range w.disks {
				for page := range d.pages {
					for s := range int64(PageSize / sector) {
						if raceDetector && !full() && w.r.IntN(24) > 0 || len(d.pages) > 200 &&
							w.r.IntN(4) > 0 {
							continue // large atoms, most of it padding: a sample
						}
						bad := clones(w.disks)
						at := page*PageSize + s*sector
						what := fmt.Sprintf("sector at %d of device %d", at, dev)
						if n++; n%2 == 0 {
							bad[dev].failRead = map[int64]bool{at / sector: true}
							what += " unreadable"
						} else {
							p := *bad[dev].pages[page]
							for i := range sector {
								p[int(s)*sector+i] ^= 0x5a
							}
							bad[dev].pages[page] = &p
							what += " damaged"
						}
						w.find(bad, what)
						if n%5 != 0 {
							continue
						}
						r, err := Check(devices(bad))
						if err != nil || !r.OK() {
							t.Fatalf("%s: check: %v\n%s", what, err, r.String())
						}
						// A start, a few commits: the mirrors are whole again,
						// or what could not be written again is told.
						v := &world{t: t, r: w.r, plan: w.plan, disks: bad, base: w.base,
							time: w.time}
						v.start()
						v.settle()
						v.commit()
						v.settle()
						bad[dev].failRead = nil // a drive heals a sector by writing it
						v.find(bad, what+", after a start")
						v.check(SeverityInfo)
					}
				}
			}
			t.Logf("%d sectors", n)
		})
	}
}

// liveRecords finds the live records of a mirror: position -> slot.
func liveRecords(t testing.TB, w *world, mirror int) map[Position]int {
	img, err := Load(devices(w.disks))
	if err != nil {
		t.Fatal(err)
	}
	out := map[Position]int{}
	for _, r := range img.chain {
		for i, s := range img.mirrors[mirror].slots {
			if s.link == r.link {
				out[r.Position] = i
			}
		}
	}
	return out
}

// TestGapIsDamage: a record that both mirrors lost, with others after it, is
// never passed over.
func TestGapIsDamage(t *testing.T) {
	w := ran(t, smallParams(512, 0), 5, 90)
	a, b := liveRecords(t, w, 0), liveRecords(t, w, 1)
	tip := w.c.durable.Position
	refused := 0
	for p := range a {
		bad := w.disks[0].clone()
		for i, slots := range []map[Position]int{a, b} {
			delete(bad.pages, w.c.mirrors[i].logOffset(slots[p])/PageSize)
		}
		_, err := Load([]Device{bad})
		if p == tip {
			continue // nothing follows it: two sectors lost, and nothing tells
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), p.String()) {
			t.Fatalf("record %s lost: %v", p, err)
		}
		if r, err := Check([]Device{bad}); r.OK() || !errors.Is(err, ErrDamaged) {
			t.Fatalf("check: %v, %v", err, r)
		}
		if d, err := Dump([]Device{bad}); err != nil || d.Error == "" || len(d.Mirrors) != 2 {
			t.Fatalf("dump: %v, %+v", err, d)
		}
		refused++
	}
	if refused < 10 {
		t.Fatalf("%d records", refused)
	}
}

// wipe makes a mirror unreadable altogether.
func wipe(d *memDisk, m *mirror) {
	d.dead = append(d.dead, [2]int64{m.start, m.start + 2*m.slot + int64(len(m.slots))*m.atom})
}

// TestMirrorLost: either mirror alone is enough, and the next start brings the
// other one back; a stale one alone is refused.
func TestMirrorLost(t *testing.T) {
	for _, tc := range worlds {
		w := ran(t, tc.p, 11, 100)
		for i := range w.c.mirrors {
			if w.c.mirrors[i].device != 0 {
				continue
			}
			bad := make([]*memDisk, len(w.disks))
			for j := range bad {
				bad[j] = w.disks[j].clone()
			}
			for j := range w.c.mirrors {
				if m := &w.c.mirrors[j]; j != i {
					wipe(bad[m.device], m)
				}
			}
			w.find(bad, fmt.Sprintf("%s: only mirror %d", tc.name, i))
		}
	}
}

func TestStaleMirrorAloneIsRefused(t *testing.T) {
	for _, victim := range []int{0, 1} {
		w := ran(t, smallParams(512, 0), 12, 20)
		m := &w.c.mirrors[victim]
		w.fail = func(op Op) bool {
			return op.Offset >= m.start && op.Offset < m.start+2*m.slot+int64(len(m.slots))*m.atom
		}
		w.commit()
		w.settle()
		if st := w.c.Status().Mirrors; st[victim].State != MirrorStale ||
			st[1-victim].State != MirrorGood {
			t.Fatalf("%+v", st)
		}
		w.find(w.disks, "one mirror is stale")
		w.check(SeverityWarning)
		bad := w.disks[0].clone()
		wipe(bad, &w.c.mirrors[1-victim])
		if _, err := Load([]Device{bad}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("the stale mirror alone: %v", err)
		}
		// Equally bad: only the records that the stale mirror missed are lost.
		bad = w.disks[0].clone()
		img, err := Load([]Device{bad})
		if err != nil {
			t.Fatal(err)
		}
		for slot, r := range img.mirrors[1-victim].slots {
			if r.state == slotRecord && !r.Less(m.staleFrom) {
				delete(bad.pages, w.c.mirrors[1-victim].logOffset(slot)/PageSize)
			}
		}
		if _, err := Load([]Device{bad}); !errors.Is(err, ErrDamaged) {
			t.Fatal("the good mirror without what the stale one missed:", err)
		}
		// The disk works again: a new start brings the mirror back, and then it
		// is enough alone.
		w.fail = nil
		w.power()
		w.settle()
		w.check(SeverityInfo)
		bad = w.disks[0].clone()
		wipe(bad, &w.c.mirrors[1-victim])
		w.find([]*memDisk{bad}, "brought back")
	}
}

// TestLogLost: the log is gone from both mirrors, the checkpoint is not. It
// covers a record that must be there, so records after it may be missing.
func TestLogLost(t *testing.T) {
	w := ran(t, smallParams(512, 0), 13, 90)
	bad := w.disks[0].clone()
	img, err := Load([]Device{bad})
	if err != nil {
		t.Fatal(err)
	}
	if img.checkpoint.covers == creation {
		t.Fatal("no checkpoint yet")
	}
	for i := range img.mirrors {
		m := &img.mirrors[i]
		for s := range m.slots {
			if m.slots[s].state == slotRecord && !m.slots[s].Less(img.checkpoint.covers.Position) {
				delete(bad.pages, m.logOffset(s)/PageSize)
			}
		}
	}
	if _, err := Load([]Device{bad}); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}

func TestSpareDevices(t *testing.T) {
	mk := func() *world { return ran(t, pairParams(512), 21, 5) }
	w, other := mk(), mk()
	load := func(d ...*memDisk) error { _, err := Load(devices(d)); return err }
	if err := load(w.disks[1], w.disks[0]); err != nil {
		t.Error("the other way round:", err)
	}
	if err := load(w.disks[0]); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(),
		w.plan.Devices()[1].UUID.String()) {
		t.Error("spare device missing:", err)
	}
	if err := load(w.disks[1]); !errors.Is(err, ErrNotFound) {
		t.Error("backing missing:", err)
	}
	if err := load(w.disks[0], other.disks[1]); !errors.Is(err, ErrForeign) {
		t.Error("another set's:", err)
	}
	if err := load(w.disks[0], other.disks[0]); !errors.Is(err, ErrForeign) {
		t.Error("two backings:", err)
	}
	if err := load(w.disks[0], w.disks[1], w.disks[1].clone()); !errors.Is(err, ErrForeign) {
		t.Error("given twice:", err)
	}
	if err := load(w.disks[0], newMemDisk(8<<20)); !errors.Is(err, ErrNotFound) {
		t.Error("blank:", err)
	}
	clones := []*memDisk{w.disks[0].clone(), w.disks[1].clone()}
	w.power()
	w.settle()
	if err := load(w.disks[0], clones[1]); !errors.Is(err, ErrStale) {
		t.Error("a stale spare device:", err)
	}
	if err := load(clones[0], w.disks[1]); !errors.Is(err, ErrStale) {
		t.Error("a backing that is one start behind:", err)
	}
	w.power()
	w.settle()
	if err := load(clones[0], w.disks[1]); !errors.Is(err, ErrStale) {
		t.Error("a stale backing:", err)
	}
	if d, err := Dump(devices(w.disks[:1])); err != nil || d.Error == "" && len(d.Mirrors) != 2 {
		t.Errorf("dump without the spare device: %v, %+v", err, d)
	}
	smaller := w.disks[0].clone()
	smaller.size -= 1 << 20
	if err := load(smaller, w.disks[1]); !errors.Is(err, ErrDamaged) {
		t.Error("shrunk:", err)
	}
	larger := w.disks[0].clone()
	larger.size += 1 << 20
	if err := load(larger, w.disks[1]); err != nil {
		t.Error("grown:", err)
	}
}

// TestStaleSpareMirror: no record of a start gets to the spare device, because its mirror takes no
// writes. An old copy of the backing is refused all the same, and a start that is cut anywhere is
// not.
func TestStaleSpareMirror(t *testing.T) {
	w := ran(t, pairParams(512), 21, 5)
	w.fail = func(op Op) bool { return op.Device == 1 && !op.Read && !w.superblock(op) }
	w.commits(3)
	w.settle()
	if n := w.staleMirrors(); n != 1 {
		t.Fatalf("%d mirrors are stale", n)
	}
	for range 3 {
		old := w.disks[0].clone()
		w.power()
		n := 0
		for !w.opened || w.c.sb.wanted || w.c.sb.active() { // no longer than that
			w.take()
			w.eachCut(2, &n, func(disks []*memDisk, what string) { w.find(disks, what) })
			w.finish()
			w.results()
		}
		if _, err := Load(devices([]*memDisk{old, w.disks[1]})); !errors.Is(err, ErrStale) {
			t.Error("a backing that is one start behind:", err)
		}
		w.settle()
	}
}

// rewrite changes the superblock in all of its places.
func rewrite(d *memDisk, f func(*Superblock)) {
	for _, c := range readSuperblocks(d) {
		if c.sb != nil {
			f(c.sb)
			b := AlignedBytes(PageSize)
			c.sb.encode(b, c.sb.DeviceIndex)
			d.store(memWrite{c.offset, b}, nil)
		}
	}
}

func TestFeatureBits(t *testing.T) {
	w := ran(t, smallParams(512, 0), 22, 5)
	d := w.disks[0].clone()
	rewrite(d, func(sb *Superblock) { sb.Compat = 1 << 31 })
	if _, err := Load([]Device{d}); err != nil {
		t.Error("compat:", err)
	}
	rewrite(d, func(sb *Superblock) { sb.ROCompat = 2 })
	img, err := Load([]Device{d})
	if err != nil || !img.ReadOnly() {
		t.Fatal("ro_compat:", err)
	}
	if _, err := NewCommitter(img, NewTable(w.plan), Options{}); !errors.Is(err, ErrReadOnly) {
		t.Error("ro_compat:", err)
	}
	rewrite(d, func(sb *Superblock) { sb.Incompat = 1 })
	if _, err := Load([]Device{d}); !errors.Is(err, ErrUnsupported) {
		t.Error("incompat:", err)
	}
	if sb, err := Probe(d); !errors.Is(err, ErrUnsupported) || sb == nil || sb.Name != "w" {
		t.Error("probe:", sb, err)
	}
}

func TestProbe(t *testing.T) {
	p := pairParams(4096)
	p.Name, p.UUID = "probe", uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	w := &world{t: t}
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range plan.Devices() {
		w.disks = append(w.disks, newMemDisk(d.Size))
	}
	if _, err := Probe(w.disks[0]); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := Create(devices(w.disks), plan, nil); err != nil {
		t.Fatal(err)
	}
	for i, role := range []Role{RoleBacking, RoleSpare} {
		sb, err := Probe(w.disks[i])
		if err != nil || sb.UUID != p.UUID || sb.Name != "probe" ||
			sb.Devices[sb.DeviceIndex].Role != role {
			t.Errorf("%+v, %v", sb, err)
		}
	}
	w.check("")
	if _, err := Probe(newMemDisk(0)); !errors.Is(err, ErrNotFound) {
		t.Error("nothing:", err)
	}
	if _, err := Probe(newMemDisk(PageSize)); !errors.Is(err, ErrNotFound) {
		t.Error("a page:", err)
	}
}

func TestSuperblockCopies(t *testing.T) {
	w := ran(t, smallParams(512, 0), 23, 5)
	at := w.plan.sb.copies(0)
	if len(at) != 3 {
		t.Fatal(at)
	}
	for keep := range at { // any one is enough
		d := w.disks[0].clone()
		for i, off := range at {
			if i != keep {
				delete(d.pages, off/PageSize)
			}
		}
		w.find([]*memDisk{d}, fmt.Sprint("only the superblock at ", at[keep]))
		v := &world{t: t, r: w.r, plan: w.plan, disks: []*memDisk{d}, base: w.base, time: w.time}
		v.start()
		v.settle()
		v.check(SeverityInfo) // the start wrote the others again
	}
	// A superblock older than the records is not the newest one.
	d := w.disks[0].clone()
	rewrite(d, func(sb *Superblock) { sb.Generation = 1 })
	if _, err := Load([]Device{d}); !errors.Is(err, ErrDamaged) {
		t.Error("an old superblock:", err)
	}
}

// TestCheckpointDigest: pages that are each right, but not those that the
// header was written over, are no checkpoint.
func TestCheckpointDigest(t *testing.T) {
	d := readGolden(t, golden[0].name)[0]
	img, err := Load([]Device{d})
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range img.mirrors {
		m := &img.mirrors[i]
		for slot, h := range m.headers {
			if h == nil || *h != img.checkpoint.header {
				continue
			}
			at := m.pageOffset(slot, 0) / PageSize
			b := *d.pages[at]
			b[pageHeader]++
			seal(b[:])
			d.pages[at] = &b
			changed++
		}
	}
	if changed != 2 {
		t.Fatalf("%d pages changed", changed)
	}
	// The log still reaches back to the checkpoint before it.
	again, err := Load([]Device{d})
	if err != nil || again.checkpoint.header == img.checkpoint.header {
		t.Fatalf("the changed checkpoint was taken: %v", err)
	}
	want, err := Load(devices(readGolden(t, golden[0].name)))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := again.Table()
	b, _ := want.Table()
	if !slices.Equal(listed(a), listed(b)) {
		t.Error(diff(listed(b), listed(a)))
	}
}
