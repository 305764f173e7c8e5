package remap

// This file sets spare units aside for a rehearsal. That is known in memory only: after a restart
// they are free again, whatever became of the rehearsal.

// leaveFree is how many times as many spare units must stay free as are set aside.
const leaveFree = 3

// ReserveUnits takes n spare units that are free. Nothing else uses them until ReturnUnits. It
// returns ErrTripped while the breaker is open, and ErrSpareFull if too few units would be left.
func (a *Arbiter) ReserveUnits(n int) ([]uint32, error) {
	switch {
	case a.shared.Tripped():
		return nil, ErrTripped
	case a.alloc.FreeCount() < uint64(n)*(1+leaveFree):
		return nil, ErrSpareFull
	}
	units := make([]uint32, 0, n)
	for len(units) < n {
		first, count, ok := a.alloc.Allocate(uint32(n-len(units)), NoHint)
		if !ok {
			a.ReturnUnits(units)
			return nil, ErrSpareFull
		}
		for i := range count {
			units = append(units, first+i)
		}
	}
	return units, nil
}

// ReturnUnits gives back what ReserveUnits took. No I/O on them may be under way.
func (a *Arbiter) ReturnUnits(units []uint32) {
	for _, unit := range units {
		a.free(unit, 1)
	}
	a.spareAlert()
}

// CommitUnknown opens the breaker, because a record of the rehearsal has an unknown outcome. It
// said nothing new, so nothing has to be stated again.
func (a *Arbiter) CommitUnknown() {
	a.tripFor(TripMetadata, 0, "no metadata mirror on the backing disk takes a commit")
}
