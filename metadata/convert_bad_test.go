package metadata

import (
	"errors"
	"testing"
)

// badly makes blocks of the first page of a range bad. Blocks of the head that cannot be read have
// no copy.
func (s *scene) badly(device int, off int64, read, write bool) {
	head := s.plan().sb.HeadBytes
	for at := off; at < off+PageSize; at += s.block {
		s.badBlock(s.disks[device], at, read, write)
		if read && device == 0 && at < head {
			s.lost[uint64(at/s.block)] = true
		}
	}
}

// TestConvertBadPlaces converts disks on which the planned places of the metadata are bad, in the
// head and outside of it: they are avoided and reported. A cut at every write leaves what it leaves
// without bad places.
func TestConvertBadPlaces(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		for _, c := range []struct {
			name string
			read bool // reads fail too; otherwise only writes fail
			head bool // places in the head; otherwise those outside
			both bool // and the superblocks that a set can do without, if two are left
		}{
			{"head", false, true, false},
			{"head, unreadable", true, true, false},
			{"outside", false, false, false},
			{"everywhere", true, true, true},
		} {
			if c.head && !c.both && !full() && seeds(1) == 1 {
				continue // the case everywhere includes it
			}
			s := newScene(t, tc.p, 3<<20+seed)
			s.opts.Mark = tc.mark
			s.opts.Force = true // blocks that cannot be read or written prevent a revert
			s.thorough()
			plan := s.plan()
			want := 0
			for _, m := range plan.mirrorsAt() {
				if in := plan.sb.inHead(&plan.sb.Regions[m.region]); in == c.head || c.both {
					s.badly(int(m.device), m.headerOffset(0), c.read, true)
					want++
				}
			}
			if c.both {
				if tc.mark == 0 && len(plan.sb.copies(0)) > minCopies {
					s.badly(0, SuperblockStride, true, true)
					want++
				}
				if len(s.disks) > 1 && len(plan.sb.copies(1)) > minCopies {
					s.badly(1, SuperblockStride, true, true)
					want++
				}
			}
			disks := cloneDisks(s.disks)
			taken, err := Convert(asDevices(disks), plan, s.opts)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			seen := map[BadPlace]bool{}
			for _, p := range taken.Bad {
				p.Err = nil
				if p.What != "a superblock" && p.Moved == 0 {
					t.Errorf("%s: %s: there is room, but it was not moved", c.name, p)
				}
				seen[p] = true
			}
			if len(seen) != want {
				t.Errorf("%s: %d bad places were told, want %d: %v", c.name, len(seen), want,
					taken.Bad)
			}
			img, err := Load(asDevices(disks))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for _, r := range img.sb.Regions {
				if r.Kind == RegionMirror && r.Stale {
					t.Errorf("%s: the mirror at %d of device %d is stale", c.name, r.Start,
						r.Device)
				}
			}
			s.cutEvery(s.disks, false, 1, c.name)
			t.Logf("%s: %d cuts; %d left the old disk, %d the set at once", c.name, s.cuts, s.plain,
				s.sets)
		}
	})
}

// TestConvertNoPlace: if no place in the head takes a mirror, and the tail has no room for one, the
// disk does not become a set that cannot store changes. It is given back.
func TestConvertNoPlace(t *testing.T) {
	for i, tc := range sceneParams {
		s := newScene(t, tc.p, 4<<20+uint64(i))
		s.opts.Mark = tc.mark
		s.opts.Force = true
		plan := s.plan()
		alone := len(s.disks) == 1
		if alone {
			// All of the tail except for the displaced head and the superblock.
			for off := plan.sb.ExportedBytes; off < s.disks[0].size-PageSize; off += PageSize {
				if off < plan.headStart || off >= plan.headStart+plan.sb.HeadBytes {
					s.badBlock(s.disks[0], off, false, true)
				}
			}
		} else {
			for off := int64(RegionStart); off < plan.sb.HeadBytes; off += PageSize {
				s.badBlock(s.disks[0], off, false, true)
			}
		}
		_, err := Convert(asDevices(s.disks), plan, s.opts)
		if err == nil {
			t.Fatalf("%s: it was converted", tc.name)
		}
		sb, _, why := Interrupted(s.disks[0], asDevices(s.disks[1:]))
		if why != nil {
			t.Fatalf("%s: %v", tc.name, why)
		}
		if alone {
			if sb != nil {
				t.Errorf("%s: it is %s", tc.name, sb.Transition)
			}
		} else {
			if !errors.Is(err, ErrBadPlaces) || sb == nil || sb.Transition != TransitionConverting {
				t.Errorf("%s: %v, %v", tc.name, err, sb)
			}
			if _, err := Load(asDevices(s.disks)); !errors.Is(err, ErrUnfinished) {
				t.Errorf("%s: load: %v", tc.name, err)
			}
			if err := s.drive(s.disks, false, s.opts); !errors.Is(err, ErrBadPlaces) {
				t.Errorf("%s: finished: %v", tc.name, err)
			}
		}
		if err := s.drive(s.disks, true, s.opts); err != nil {
			t.Fatalf("%s: given back: %v", tc.name, err)
		}
		s.isPlain(s.disks, tc.name)
	}
}
