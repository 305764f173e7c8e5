package metadata

import (
	"errors"
	"maps"
	"slices"
	"testing"
)

// TestRevertStuck reverts a disk that still has bad sectors where data is to go.
func TestRevertStuck(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		s := newScene(t, tc.p, 3<<20+seed)
		s.takenOver()
		s.live(false)
		img, err := Load(asDevices(s.disks))
		if err != nil {
			t.Fatal(err)
		}
		head := img.Layout().HeadBlocks()
		_, home := img.Layout().HomeOf(head)
		s.badBlock(s.disks[0], home, true, true)
		stuck := func(want ...BlockRange) {
			t.Helper()
			img, err := Load(asDevices(s.disks))
			if err != nil {
				t.Fatal(err)
			}
			var e *StuckError
			if _, err := Revert(img, s.opts); !errors.As(err, &e) || !errors.Is(err, ErrStuck) ||
				!slices.Equal(e.BadHome, want) || len(e.NoCopy) > 0 {
				t.Fatalf("release: %v, want %v", err, want)
			}
			s.isSet(s.disks, "after a refusal")
		}
		stuck(BlockRange{head, 1})

		// The head's own places: where a superblock is, in a mirror, and where
		// nothing is.
		s.disks[0].badRead, s.disks[0].badWrite = map[int64]bool{}, map[int64]bool{}
		per := uint64(UnitSize / s.block)
		for _, off := range []int64{SuperblockStride, RegionStart + 8192, RegionStart + 8192 +
			s.block, img.Layout().sb.HeadBytes - PageSize} {
			s.badBlock(s.disks[0], off, false, true)
		}
		unit := uint64(SuperblockStride / UnitSize)
		first := uint64(RegionStart/UnitSize) + 2
		stuck(BlockRange{unit * per, 1}, BlockRange{first * per, 2}, BlockRange{head - per, 1})

		// If they are given up, nothing else is wrong with the plain disk.
		s.opts.Force = true
		img, err = Load(asDevices(s.disks))
		if err != nil {
			t.Fatal(err)
		}
		out, err := Revert(img, s.opts)
		if err != nil {
			t.Fatal(err)
		}
		if want := []BlockRange{{unit * per, 1}, {first * per, 2},
			{head - per, 1}}; !slices.Equal(out.Left.BadHome, want) || len(out.Left.NoCopy) > 0 {
			t.Errorf("left %+v, want %v", out.Left, want)
		}
		for _, r := range out.Left.BadHome {
			for k := range r.Count {
				s.lost[r.Block+k] = true
			}
		}
		s.disks[0].badWrite = map[int64]bool{}
		// The superblock that could not be written over is still there, but it
		// says that the set is no longer whole.
		if _, err := Load(asDevices(s.disks)); err == nil {
			t.Error("what is left of the set still loads")
		}
		zero := AlignedBytes(PageSize)
		s.disks[0].poke(zero, SuperblockStride)
		s.lost[unit*per] = true
		for k := range per {
			s.lost[unit*per+k] = true
		}
		s.isPlain(s.disks, "given up")
	})
}

// interrupt drives the disks to a goal until stop says so before a write, and
// returns them as they were then, with everything flushed.
func (s *scene) interrupt(plain bool, stop func(d *cutDisk, w memWrite) bool) []*cutDisk {
	live := cloneDisks(s.disks)
	var cut []*cutDisk
	for _, d := range live {
		d.before = func(d *cutDisk, w memWrite) {
			if cut == nil && stop(d, w) {
				cut = cloneDisks(live)
			}
		}
	}
	if err := s.drive(live, plain, s.opts); err != nil {
		s.t.Fatal(err)
	}
	if cut == nil {
		s.t.Fatal("it was never interrupted")
	}
	for _, d := range cut {
		if err := d.Sync(); err != nil {
			s.t.Fatal(err)
		}
	}
	return cut
}

// edit changes what the disk holds, as an owner does who uses it as a plain disk.
func (s *scene) edit(disks []*cutDisk, pages ...int64) {
	for _, page := range pages {
		b := s.bytes()
		clear(b[2048:2560]) // a superblock has zeroes there too
		s.want[page], s.dirty[page] = b, true
		disks[0].poke(b[:], page*PageSize)
	}
}

// TestChangedSinceCut continues an interrupted conversion or revert after the owner has used the
// disk as the plain disk that it was at that moment. None of the owner's changes may be lost.
func TestChangedSinceCut(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		mark := tc.mark / PageSize
		// A conversion, before its copy counted: the copy is of no use any more.
		s := newScene(t, tc.p, 4<<20+seed)
		s.opts.Mark = tc.mark
		cut := s.interrupt(false, func(d *cutDisk, w memWrite) bool {
			return w.off == tc.mark && transitionIn(w) == TransitionConverting
		})
		s.edit(cut, mark, mark+1, 40, s.size/PageSize-2)
		s.look(cut, 1, "changed since")
		s.end(cut, true, "changed since")
		s.end(cut, false, "changed since")

		// A revert, after the page that ends it, before the rest was erased.
		s = newScene(t, tc.p, 5<<20+seed)
		s.opts.Mark = tc.mark
		s.takenOver()
		s.live(false)
		cut = s.interrupt(true, afterMark(tc.mark))
		s.edit(cut, mark, mark+1, 40, s.size/PageSize-2)
		if sb, _, err := Interrupted(cut[0], asDevices(cut[1:])); err != nil || sb == nil ||
			sb.Transition != TransitionReverting {
			t.Fatalf("%+v, %v", sb, err)
		}
		s.end(cut, true, "changed since")
	})
}

// afterMark stops a revert at the first write after the page that makes the disk a plain one.
func afterMark(mark int64) func(*cutDisk, memWrite) bool {
	written := false
	return func(_ *cutDisk, w memWrite) bool {
		now := written
		sb, _ := decodeSuperblock(append(slices.Clone(w.data), make([]byte, PageSize)...))
		written = written || w.off == mark && len(w.data) == PageSize && sb == nil
		return now
	}
}

// transitionIn is the transition of the superblock that is about to be written, if it is one.
func transitionIn(w memWrite) Transition {
	sb, _ := decodeSuperblock(append(slices.Clone(w.data), make([]byte, PageSize)...))
	if sb == nil {
		return TransitionNone
	}
	return sb.Transition
}

// TestInterruptedOthers asks about devices that do not belong together.
func TestInterruptedOthers(t *testing.T) {
	p := sceneParams[3].p
	s := newScene(t, p, 6)
	cut := s.interrupt(false, func(_ *cutDisk,
		w memWrite) bool {
		return transitionIn(w) == TransitionConverting
	})
	if sb, devs, err := Interrupted(cut[0], asDevices(cut[1:])); err != nil || sb == nil ||
		sb.Transition != TransitionCopied || len(devs) != 2 {
		t.Fatalf("%+v, %v, %v", sb, devs, err)
	}
	if sb, _, err := Interrupted(cut[0], nil); err != nil || sb != nil {
		t.Errorf("without the spare device: %+v, %v", sb, err)
	}
	if sb, _, err := Interrupted(newCutDisk(p.BackingSize+1<<20, 512),
		asDevices(cut[1:])); err != nil || sb != nil {
		t.Errorf("with a disk of another size: %+v, %v", sb, err)
	}
	// With another disk of that size nothing is changed on either device without Force. With Force
	// nothing on the disk is changed either.
	other := newScene(t, p, 7)
	mixed := []*cutDisk{other.disks[0], cut[1].clone()}
	if err := other.drive(mixed, true, other.opts); !errors.Is(err, ErrForeign) {
		t.Errorf("undone with another disk: %v", err)
	}
	if !maps.Equal(mixed[1].pages, cut[1].pages) {
		t.Error("a refusal changed the spare device")
	}
	other.opts.Force = true
	other.end(mixed, true, "another disk")
	last := s.disks
	s.disks = cloneDisks(s.disks)
	s.takenOver()
	almost := s.interrupt(true, afterMark(0))
	s.disks = last
	mixed = []*cutDisk{newScene(t, p, 8).disks[0], almost[1].clone()}
	if err := s.drive(mixed, true, s.opts); !errors.Is(err, ErrForeign) {
		t.Errorf("released with another disk: %v", err)
	}
	s.end(almost, true, "the right disk")
	// Once the copy counts, the backing says so and needs its spare device.
	s.takenOver()
	half := s.interrupt(true, func(d *cutDisk, _ memWrite) bool {
		sb, _ := Probe(d)
		return sb != nil && sb.DeviceIndex == 0 && sb.Transition == TransitionReverting
	})
	if _, _, err := Interrupted(half[0], nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("half released, without the spare device: %v", err)
	}
	if sb, _, err := Interrupted(half[0], asDevices(half[1:])); err != nil || sb == nil ||
		sb.Transition != TransitionReverting {
		t.Errorf("half released: %+v, %v", sb, err)
	}
}
