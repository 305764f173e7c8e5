package metadata

import (
	"fmt"
	"testing"
)

// TestCheckpointOfTwoMirrors: one mirror has the header of the newest checkpoint, another its
// page, and no older checkpoint has the records that follow it. So the image rests on a page in a
// slot without a header. A start that is cut off at any moment leaves it.
func TestCheckpointOfTwoMirrors(t *testing.T) {
	for _, tc := range worlds {
		t.Run(tc.name, func(t *testing.T) {
			for with := range 2 { // the mirror that keeps the header
				w := ran(t, tc.p, 94, 20)
				for range 2 { // both slots have a checkpoint
					w.commit()
					w.checkpoint()
				}
				w.commits(2)
				for i := range w.c.mirrors {
					m := &w.c.mirrors[i]
					lost := m.headerOffset(m.new)
					if i == with {
						lost = m.pageOffset(m.new, 0)
					}
					for s, p := range m.slots {
						if p == (Position{}) { // the checkpoint covers what was there
							w.overwrite(m, m.logOffset(s))
						}
					}
					w.overwrite(m, lost)
				}
				w.power()
				cuts := 0
				w.drain(func() {
					w.eachCut(16, &cuts, func(disks []*memDisk, what string) {
						w.find(disks, fmt.Sprintf("mirror %d has the header, %s", with, what))
					})
				})
				w.settle()
				w.check("")
				for i := range w.c.mirrors {
					w.alone(i, "after the start")
				}
				if cuts < 50 {
					t.Errorf("only %d cuts", cuts)
				}
			}
		})
	}
}

// overwrite makes an atom of a mirror zeroes.
func (w *world) overwrite(m *mirror, off int64) {
	d := w.disks[m.device]
	if _, err := d.WriteAt(AlignedBytes(int(m.atom)), off); err != nil {
		w.t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		w.t.Fatal(err)
	}
}
