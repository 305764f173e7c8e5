package metadata

import (
	"fmt"
	"testing"
)

// verifyAll has everything verified, while commits go on, and cuts the power at each step: all that
// is durable is found.
func (w *world) verifyAll() {
	w.t.Helper()
	restart := true
	for n := 0; ; n++ {
		if n > 10_000 {
			w.t.Fatal("it never ends")
		}
		_, _, ok := w.c.Verify(restart)
		if restart = false; !ok && len(w.order) == 0 {
			w.settle()
			return
		}
		if w.r.IntN(3) == 0 {
			w.commit()
		}
		w.results()
		w.take()
		for len(w.order) > 0 {
			w.finish()
			if w.r.IntN(4) == 0 {
				w.find(w.cut(), "while the metadata is verified")
			}
			w.results()
			w.take()
		}
	}
}

// TestVerify: a place of one mirror is damaged while the set is open, or does not read. The next
// look finds it and has it written again, so that afterwards the other mirror may be lost.
func TestVerify(t *testing.T) {
	for _, tc := range worlds {
		for _, what := range []string{"record", "free", "newest header", "newest page",
			"other page"} {
			t.Run(tc.name+"/"+what, func(t *testing.T) {
				w := ran(t, tc.p, 91, 40)
				for range 2 { // both slots have a checkpoint
					w.commit()
					w.checkpoint()
				}
				w.commits(3)
				at := w.r.IntN(2) // of the mirrors on the backing
				m := &w.c.mirrors[at]
				if m.device != 0 {
					t.Skip("the first mirrors are on the backing")
				}
				off, n := verifyPlace(m, what)
				disk := w.disks[0]
				if what == "free" {
					disk.dead = append(disk.dead, [2]int64{off, off + n})
				} else if _, err := disk.WriteAt(AlignedBytes(int(n)), off); err != nil {
					t.Fatal(err)
				}
				if err := disk.Sync(); err != nil {
					t.Fatal(err)
				}
				before := w.c.Status().Refreshed
				w.verifyAll()
				if what == "free" { // it takes no zeroes that read, so it stays out of use
					if m.slots[(off-m.logOffset(0))/m.atom] != reserved {
						t.Error("the slot that does not read is in use")
					}
					return
				}
				if what != "record" && w.c.Status().Refreshed == before {
					t.Error("nothing was written again")
				}
				disks := w.cut()
				for i := range w.c.mirrors {
					if o := &w.c.mirrors[i]; i != at {
						wipe(disks[o.device], o)
					}
				}
				w.find(disks, fmt.Sprintf("%s of mirror %d was damaged, the others are lost", what,
					at))
			})
		}
	}
}

// verifyPlace is a place of a mirror that a load may need, or a free log slot.
func verifyPlace(m *mirror, what string) (off, n int64) {
	switch what {
	case "newest header":
		return m.headerOffset(m.new), PageSize
	case "newest page":
		return m.pageOffset(m.new, 0), PageSize
	case "other page":
		return m.pageOffset(1-m.new, 0), PageSize
	}
	for s, p := range m.slots {
		if (p == Position{}) == (what == "free") && s != m.next {
			return m.logOffset(s), m.atom
		}
	}
	panic("no such slot")
}
