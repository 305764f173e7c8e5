package metadata

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// place is one place of the metadata, for faults.
type place struct {
	what   string
	device uint8
	off, n int64
}

// metadataPlaces lists every structure of a set: each superblock, and of each
// mirror both headers, pages of both slots, log records that a load needs, one
// that it does not, and the mirror as a whole.
func (w *world) metadataPlaces() (out []place) {
	for d := range w.disks {
		for _, off := range w.c.sb.now.copies(uint8(d)) {
			out = append(out, place{fmt.Sprintf("superblock at %d of device %d", off, d), uint8(d),
				off, PageSize})
		}
	}
	for i := range w.c.mirrors {
		m := &w.c.mirrors[i]
		add := func(what string, off, n int64) {
			out = append(out, place{fmt.Sprintf("%s of mirror %d", what, i), m.device, off, n})
		}
		for slot := range 2 {
			which := "newest"
			if slot != m.new {
				which = "older"
			}
			add(which+" header", m.headerOffset(slot), m.atom)
			add(which+" page", m.pageOffset(slot, 0), PageSize)
		}
		newest, oldest, free := -1, -1, -1
		for s, p := range m.slots {
			switch {
			case p == (Position{}):
				free = s
			case newest < 0 || m.slots[newest].Less(p):
				newest = s
			}
			if p != (Position{}) && (oldest < 0 || p.Less(m.slots[oldest])) {
				oldest = s
			}
		}
		add("newest record", m.logOffset(newest), m.atom)
		add("oldest record", m.logOffset(oldest), m.atom)
		add("free slot", m.logOffset(free), m.atom)
		add("log", m.logOffset(0), m.atom*int64(len(m.slots)))
		add("whole", m.start, 2*m.slot+m.atom*int64(len(m.slots)))
	}
	return out
}

// spoilt is a way to spoil a place.
type spoilt struct {
	name   string
	writes bool // it takes no writes, as long as it lasts
	do     func(d *memDisk, p place)
}

// eachPage changes the pages of a place that were ever written.
func eachPage(d *memDisk, p place, f func(b *[PageSize]byte)) {
	for off := p.off; off < p.off+p.n; off += PageSize {
		if old := d.pages[off/PageSize]; old != nil {
			b := *old
			f(&b)
			d.pages[off/PageSize] = &b
		}
	}
}

var spoilts = []spoilt{
	{"unreadable", false, func(d *memDisk, p place) {
		d.failRead = map[int64]bool{}
		for s := p.off / sector; s < (p.off+p.n)/sector; s += 3 {
			d.failRead[s] = true
		}
	}},
	{"unreadable and unwritable", true, func(d *memDisk, p place) {
		d.dead = append(d.dead, [2]int64{p.off, p.off + p.n})
	}},
	{"unwritable", true, func(*memDisk, place) {}},
	{"torn", false, func(d *memDisk, p place) {
		eachPage(d, p, func(b *[PageSize]byte) { clear(b[PageSize/2:]) })
	}},
	{"zeroed", false, func(d *memDisk, p place) {
		eachPage(d, p, func(b *[PageSize]byte) { clear(b[:]) })
	}},
	{"one bit flipped", false, func(d *memDisk, p place) {
		eachPage(d, p, func(b *[PageSize]byte) { b[129] ^= 0x10 })
	}},
}

// hit spoils the world's disks: sectors work again when they are written, unless they take no
// writes.
func (w *world) hit(p place, f spoilt) {
	f.do(w.disks[p.device], p)
	w.fail = func(op Op) bool {
		if op.Device != p.device || op.Offset >= p.off+p.n || p.off >= op.Offset+
			int64(len(op.Data)) {
			return false
		}
		if !f.writes {
			for s := op.Offset / sector; s < (op.Offset+int64(len(op.Data)))/sector; s++ {
				delete(w.disks[p.device].failRead, s)
			}
		}
		return f.writes
	}
}

// healthy reports whether all mirrors are good.
func (w *world) healthy() bool {
	return !slices.ContainsFunc(w.c.Status().Mirrors,
		func(m MirrorStatus) bool { return m.State != MirrorGood })
}

// TestFaultsEverywhere spoils each structure of a set in each way, before a start and while it
// runs. The set must load, start and report that it is degraded. It must become whole again,
// elsewhere if necessary, and end healthy, with the same table. Then either mirror of the backing
// must be enough.
func TestFaultsEverywhere(t *testing.T) {
	// This is a sample, except in the full run. 5 and 31 share no factor with the number of faults,
	// so each fault comes to each structure somewhere.
	stride := 5
	switch {
	case os.Getenv("UBLK_REMAP_FULL") != "":
		stride = 1
	case raceDetector:
		stride = 31
	}
	n, degraded := 0, 0
	for _, tc := range worlds {
		base := ran(t, tc.p, 91, 45) // between two checkpoints
		for _, p := range base.metadataPlaces() {
			for _, f := range spoilts {
				for _, live := range []bool{false, true} {
					what := fmt.Sprintf("%s: %s %s", tc.name, p.what, f.name)
					if live {
						what += " while it runs"
					}
					if n++; n%stride != 0 {
						continue
					}
					w := &world{t: t, r: base.r, plan: base.plan, disks: clones(base.disks),
						base: base.base, time: base.time}
					superblock := slices.Contains(base.c.sb.now.copies(p.device), p.off)
					was := false
					look := func() {
						st := w.c.Status()
						for _, m := range st.Mirrors {
							was = was || m.State != MirrorGood
						}
					}
					if live {
						w.start()
						w.settle()
						w.hit(p, f)
					} else {
						w.hit(p, f)
						w.find(w.disks, what)
						w.start()
						for !w.opened {
							w.take()
							if len(w.order) > 0 {
								w.finish()
							}
							w.results()
						}
						look()
					}
					for i := 0; i < 3*backoffRecords || !w.healthy() && i < 30*backoffRecords; i++ {
						w.commit()
						for len(w.pend) > 0 {
							w.take()
							if len(w.order) > 0 {
								w.finish()
							}
							look()
							w.results()
						}
						w.settle()
					}
					if !w.healthy() {
						t.Fatalf("%s: it does not work again: %+v", what, w.c.Status())
					}
					if w.stats.unknown+w.stats.dropped > 0 {
						t.Fatalf("%s: %+v", what, w.stats)
					}
					if was {
						degraded++
					} else if !superblock && f.name == "unreadable and unwritable" &&
						p.what[:4] != "free" && !live {
						t.Errorf("%s: not a word", what)
					}
					w.find(w.disks, what+", in the end")
					w.alone(0, what)
					w.alone(1, what)
					worst := SeverityInfo
					if f.writes {
						// a superblock has no other place; free slots are left
						worst = SeverityWarning
					}
					w.check(worst)
					w.fail = nil
					w.power()
					w.settle()
					w.find(w.disks, what+", after another start")
					if t.Failed() {
						t.Fatal(what)
					}
				}
			}
		}
	}
	if n /= stride; degraded < n/5 {
		t.Errorf("of %d faults only %d were seen in the state of a mirror", n, degraded)
	}
	t.Logf("%d faults, %d of them seen in the state of a mirror", n, degraded)
}

// TestRefreshAtStart: what a load finds bad is written again before anything else happens to it,
// and counted. A place that cannot be written is left alone.
func TestRefreshAtStart(t *testing.T) {
	w := ran(t, smallParams(512, 0), 92, 45)
	d := w.disks[0]
	d.failRead = map[int64]bool{}
	m := &w.c.mirrors[1]
	heal := func(op Op) bool {
		for s := op.Offset / sector; s < (op.Offset+int64(len(op.Data)))/sector; s++ {
			delete(d.failRead, s)
		}
		return false
	}
	w.fail = heal
	bad := []int64{m.headerOffset(1 - m.new), m.pageOffset(m.new, 0), SuperblockStride}
	for s, p := range m.slots {
		if p == (Position{}) && len(bad) < 6 {
			bad = append(bad, m.logOffset(s))
		}
	}
	for _, off := range bad {
		d.failRead[off/sector+1] = true
	}
	w.start()
	w.settle()
	if len(d.failRead) != 0 || w.c.Status().Refreshed != uint64(len(bad)) || !w.healthy() {
		t.Errorf("%d of %d places are still bad, %+v", len(d.failRead), len(bad), w.c.Status())
	}
	w.check("")

	// One slot that does not work again: it is not used, and nothing else suffers.
	slot := -1
	for s, p := range w.c.mirrors[0].slots {
		if p == (Position{}) {
			slot = s
		}
	}
	off := w.c.mirrors[0].logOffset(slot)
	d.failRead[off/sector] = true
	tried := 0
	w.fail = func(op Op) bool {
		if !op.Read && op.Offset <= off && off < op.Offset+int64(len(op.Data)) {
			tried++
			return true
		}
		return heal(op)
	}
	w.start()
	w.settle()
	w.commits(300)
	if tried != 1 || !w.healthy() || w.stats.durable == 0 || w.stats.unknown+w.stats.dropped > 0 {
		t.Errorf("written to %d times: %+v, %+v", tried, w.stats, w.c.Status())
	}
	w.check(SeverityWarning)
}

// TestInformationGone: if a fault hits all copies of the same thing, the set is refused as damaged.
// Smaller faults do not cause that.
func TestInformationGone(t *testing.T) {
	for _, tc := range worlds {
		w := ran(t, tc.p, 93, 45)
		hit := func(do func(m *mirror) (off, n int64)) error {
			disks := clones(w.disks)
			for i := range w.c.mirrors {
				m := &w.c.mirrors[i]
				off, n := do(m)
				disks[m.device].dead = append(disks[m.device].dead, [2]int64{off, off + n})
			}
			_, err := Load(devices(disks))
			return err
		}
		for name, do := range map[string]func(m *mirror) (int64, int64){
			"every log": func(m *mirror) (int64, int64) {
				return m.logOffset(0),
					m.atom * int64(len(m.slots))
			},
			"every slot": func(m *mirror) (int64, int64) { return m.start, 2 * m.slot },
			"every mirror": func(m *mirror) (int64, int64) {
				return m.start,
					2*m.slot + m.atom*int64(len(m.slots))
			},
		} {
			if err := hit(do); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %s: %v", tc.name, name, err)
			}
		}
	}
}
