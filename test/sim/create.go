package sim

import (
	"errors"

	"ublkremap/metadata"
)

// create makes the disks and a set on them. Up to two tries before that are ended by a power cut.
func (s *sim) create() {
	var err error
	if s.plan, err = metadata.Plan(s.cfg.plan); err != nil {
		s.failf("plan: %v", err)
	}
	for i, d := range s.plan.Devices() {
		s.disks = append(s.disks, newDisk(uint8(i), d.Size))
	}
	initial := s.initial()
	for range s.rng.IntN(3) {
		left := s.rng.IntN(40)
		devs := make([]metadata.Device, len(s.disks))
		for i, d := range s.disks {
			devs[i] = offline{d: d, left: &left}
		}
		err := metadata.Create(devs, s.plan, initial)
		if err == nil {
			break
		}
		if !errors.Is(err, errCut) {
			s.failf("create: %v", err)
		}
		for _, d := range s.disks {
			d.cut(s.rng, surviveSome)
		}
		s.stats.CutCreates++
		s.tracef("POWER CUT during create")
		img, err := metadata.Load(s.devices())
		switch {
		case err == nil:
			if _, err := img.Table(); err != nil {
				s.failf("a set that a cut create left: %v", err)
			}
		case !errors.Is(err, metadata.ErrNotFound):
			s.failf("load after a cut create: %v", err)
		}
	}
	devs := make([]metadata.Device, len(s.disks))
	for i, d := range s.disks {
		devs[i] = offline{d: d}
	}
	if err := metadata.Create(devs, s.plan, initial); err != nil {
		s.failf("create: %v", err)
	}
}

// scattered are blocks known to be bad, so that the table is nearly full from the beginning. None
// of them is next to another.
func (s *sim) scattered() (out []metadata.Entry) {
	capacity := int(s.plan.TableCapacity())
	for range capacity/3 + s.rng.IntN(capacity*2/3) {
		out = append(out, metadata.Entry{Unit: uint64(2*len(out) + 1), Count: 1, Mask: 1,
			State: metadata.StatePending, Cause: metadata.CauseImport, Time: 1})
	}
	return out
}

// initial draws entries that a table may begin with: blocks known to be bad, lost
// or retired. Nothing is mapped: the spare units hold no data yet.
func (s *sim) initial() []metadata.Entry {
	var out []metadata.Entry
	s.lost, s.marked = map[uint64]bool{}, map[uint64]bool{}
	if s.cfg.table {
		return s.scattered()
	}
	if s.chance(1, 2) {
		return nil
	}
	all := uint8(1<<(metadata.UnitSize/s.plan.BlockSize()) - 1)
	for range s.rng.IntN(4) {
		mask := uint8(1+s.rng.IntN(255)) & all
		if mask == 0 {
			mask = all
		}
		e := metadata.Entry{
			Unit: s.plan.HeadBlocks()*uint64(s.plan.BlockSize())/metadata.UnitSize - 4 +
				s.rng.Uint64N(8), Count: 1, Mask: mask,
			State: pick(s.rng, []metadata.State{metadata.StateLost, metadata.StatePending}),
			Cause: metadata.CauseImport, Time: 1,
		}
		out = append(out, e)
		for i := range uint64(8) {
			if mask>>i&1 != 0 && e.State == metadata.StateLost {
				s.lost[e.Unit*uint64(metadata.UnitSize/s.plan.BlockSize())+i] = true
			}
		}
	}
	if s.chance(1, 3) {
		out = append(out, metadata.Entry{
			Spare: uint32(s.rng.Uint64N(s.plan.SpareUnits())), Count: 1,
			State: metadata.StateRetired, Cause: metadata.CauseImport, Time: 1,
		})
	}
	return out
}
