package metadata

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// TestRevertTakesBack: blocks whose spare unit does not read prevent a revert, even if home still
// holds something. With AcceptOld that is accepted, and no other block changes. Blocks that do not
// read at home either are refused anyway.
func TestRevertTakesBack(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		s := newScene(t, tc.p, 5<<20+seed)
		s.takenOver()
		s.live(false)
		load := func() (*Image, *Table) {
			t.Helper()
			img, err := Load(asDevices(s.disks))
			if err != nil {
				t.Fatal(err)
			}
			table, err := img.Table()
			if err != nil {
				t.Fatal(err)
			}
			return img, table
		}
		img, table := load()
		l := img.Layout()
		per := uint64(UnitSize / s.block)
		gone := []BlockRange{{3, 1}, {l.HeadBlocks(), 1}}
		for _, r := range gone {
			state, spare, _ := table.Block(r.Block/per, int(r.Block%per))
			if state != StateMapped {
				t.Fatalf("block %d is %v", r.Block, state)
			}
			d, at := l.SpareOf(spare)
			s.badBlock(s.disks[d], at+int64(r.Block%per)*s.block, true, false)
			dev, home := l.HomeOf(r.Block)
			held := AlignedBytes(int(s.block))
			if _, err := s.disks[dev].ReadAt(held, home); err != nil {
				t.Fatal(err)
			}
			p := new([PageSize]byte)
			*p = *s.want[int64(r.Block/per)]
			copy(p[int64(r.Block%per)*s.block:], held)
			s.want[int64(r.Block/per)] = p
		}
		refused := func(want []BlockRange, old uint64) {
			t.Helper()
			img, _ := load()
			var e *StuckError
			if _, err := Revert(img, s.opts); !errors.As(err, &e) ||
				!slices.Equal(e.NoCopy, want) || e.Old != old {
				t.Fatalf("release: %v (%+v), want %v, %d", err, e, want, old)
			}
		}
		refused(gone, 2)
		s.opts.AcceptOld = true
		dev, home := l.HomeOf(gone[1].Block)
		s.badBlock(s.disks[dev], home, true, false)
		refused(gone[1:], 0)
		s.disks[dev].badRead = map[int64]bool{}
		for _, r := range gone { // what was cleared with it
			_, spare, _ := table.Block(r.Block/per, int(r.Block%per))
			d, at := l.SpareOf(spare)
			s.badBlock(s.disks[d], at+int64(r.Block%per)*s.block, true, false)
		}
		img, _ = load()
		out, err := Revert(img, s.opts)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(out.Old, gone) || len(out.Left.NoCopy)+len(out.Left.BadHome) > 0 {
			t.Errorf("%+v", out)
		}
		for _, d := range s.disks {
			d.badRead = map[int64]bool{}
		}
		s.isPlain(s.disks, "taken back")
		b := AlignedBytes(int(s.block))
		at := int64(gone[1].Block) * s.block
		if _, err := s.disks[0].ReadAt(b, at); err != nil ||
			!bytes.Equal(b, s.expect(gone[1].Block)) {
			t.Errorf("block %d: %v", gone[1].Block, err)
		}
	})
}
